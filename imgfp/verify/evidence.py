# SPDX-License-Identifier: AGPL-3.0-or-later
"""The evidence of one proposed pair: one row of the evidence table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from imgfp.geometry import camera_signs, overlap_of, polygon_area, project
from imgfp.verify.classifier import pair_planes
from imgfp.verify.describe import direction, in_words
from imgfp.verify.differences import cell_of, is_drawn
from imgfp.verify.estimation import INLIER_PX
from imgfp.verify.hypotheses import Hypothesis, Matches, best_hypothesis
from imgfp.verify.matching import (
    Nearest,
    first_at_each_position,
    nearest_two,
    ratio_matches,
    tentative_matches,
)
from imgfp.verify.view import View, colour_difference

#: Aligned pair, as by `classifier.pair_planes` -> probability (0..1) that the query is a copy: a
#: `classifier.PairClassifier`.
Classifier = Callable[[np.ndarray], float]

#: Columns of `score_query`, in order, with the dtypes in which tables store them.
COLUMNS: dict[str, str] = {
    "matches_plain": "int32",  # ratio-test matches (squared ratio 1.8), one per rounded position
    "matches_mirrored": "int32",  # the same with the mirrored reference
    "matches": "int32",  # the larger of the two: the score of the 2021 system
    "mirrored": "bool",  # the transform mirrors the query
    "contrast_reversed": "float32",  # fraction of the inliers whose contrast is reversed
    "tentative": "int32",  # putative matches from which the transform was estimated
    "inliers": "int32",  # putative matches that agree with the transform to within 4 frame pixels
    "inlier_ratio": "float32",  # inliers / putative matches inside the overlap
    "guided_inliers": "int32",  # inliers, also among matches searched near predicted positions
    "exact_inliers": "int32",  # inliers with a reprojection error of less than one frame pixel
    "consistency": "float32",  # ratio-test matches in the overlap: (exact inliers) / (1 + all)
    "angle_error_deg": "float32",  # median error of the inliers' angles, degrees
    "distinct_inliers": "float32",  # inliers, each over the number of references that share it
    "inlier_keypoints": "str",  # numbers of the view's keypoints that are inliers, between blanks
    "reprojection_error_px": "float32",  # median reprojection error of the inliers, frame pixels
    "tilt_deg": "float32",  # rotation against the nearest image axis, degrees; 0 for most edits
    "shear_deg": "float32",  # deviation of the image axes from a right angle, degrees
    "perspective": "float32",  # largest ratio of scale between corners of the overlap, less 1
    "query_area": "float32",  # fraction of the query that the overlap covers
    "reference_area": "float32",  # fraction of the reference that the overlap covers
    "ncc_inlier_ratio": "float32",  # fraction of the overlap's texture whose blocks correlate
    "ncc_chance": "float32",  # the same measured on deliberately misaligned images (chance level)
    "ncc_edges": "float32",  # fraction of the blocks whose edges correlate, less its chance level
    "ncc_best_rectangle": "float32",  # inlier ratio in the rectangle where inliers prevail most
    "ncc_fine": "float32",  # fraction of the overlap's texture that correlates in fine detail
    "ncc_inlier_blocks": "int32",  # inlier blocks in that rectangle
    "ncc_stable": "float32",  # of blocks that correlate nearby, the fraction best undisplaced
    "ncc_p80": "float32",  # 80th percentile of the absolute block correlations
    "aligned_blocks": "int32",  # blocks that match undisplaced after refinement; 0: not refined
    "localisable_blocks": "int32",  # matching blocks whose best displacement is well defined
    "displaced_blocks": "int32",  # localisable blocks that match elsewhere: parallax or motion
    "model_consistency": "float32",  # fraction of the matching blocks consistent with the model
    "copy_probability": "float32",  # of the pair classifier, 0..1; 0: it did not run
    "colour_difference": "float32",  # mean of the aligned colours, grey levels; NaN: not refined
    "drawn": "bool",  # the reference is flat in large parts, as pages, screens and drawings are
    "shared_inliers": "int32",  # inliers in parts of the reference that other references share; set by the stage
    "shared_by": "int32",  # references that share parts with this one, where it has such inliers; set by the stage
    # Set by the stage, which reads the files, where pictures are compared at full resolution.
    "compared_blocks": "int32",  # textured blocks; 0: not compared
    "differing_blocks": "int32",  # those of them that show something else
    "unchanged_blocks": "int32",  # those of them that certainly show the same
    "rewritten_blocks": "int32",  # differing blocks on the same ground, less those on another
    "unshared_unchanged": "int32",  # unchanged blocks outside the parts that other references share
    "unshared_differing": "int32",  # differing blocks outside them
    "explained_cells": "int64",  # cells of a 7 x 7 grid on the query where pixels or inliers agree, by bit
    "hypothesis_source": "str",  # what gave the transform: matches, frame, or "" for no transform
    "model": "str",  # the simplest that fits: axis_aligned, similarity, affine, homography, or ""
    "identical": "bool",  # the files have the same bytes; set by the stage, which knows the files
    "refused": "str",  # why there is no transform: a key of REFUSALS, shared_by_many, or ""
    "direction": "str",  # which image contains the other; the query's part is the overlap's bounding box
    "transform": "str",  # the transform in words
    **{f"h{row}{column}": "float64" for row in range(3) for column in range(3)},
}

#: Cells on a side of the grid of `explained_cells`; cell (x, y) is bit x + CELLS y. A float64 holds 49 bits exactly.
CELLS = 7
#: Ratio test of the match count: second over first squared distance.
MATCH_RATIO = 1.8
#: An exact inlier, and the largest error of a match that is consistent with the transform, frame
#: pixels.
_EXACT_PX, _CONSISTENT_PX = 1.0, 1.5
#: If the inlier keypoints are shared by this many references on average, they lie in text, a logo
#: or a texture; the pair is refused unless the NCC inlier ratio reaches the second value.
_CROWDED, _MATCHING_PIXELS = 2.5, 0.3
#: Value of `refused` for such a pair.
SHARED_BY_MANY = "shared_by_many"


def score_pair(query: View, reference: View, *, classifier: Classifier | None = None) -> dict:
    """The evidence of one pair: a value for every key of COLUMNS.

    All counts, fractions and correlations: higher is more alike. Without a plausible transform,
    areas and correlations are 0, `refused` gives the reason and h00..h22 are NaN. The transform
    comes from keypoint matches; if they give none that the pixels confirm, the searched parts are
    aligned as whole frames in all eight orientations ("frame"), for images with hardly any
    keypoints. `distinct_inliers` equals `inliers`, see `score_query`. classifier: runs on pairs
    whose alignment was refined; None: never.
    """
    return _score(query, reference, MATCH_RATIO, classifier)[0]


def score_query(
    query: View,
    references: Mapping[str, View],
    *,
    ratio: float = MATCH_RATIO,
    classifier: Classifier | None = None,
) -> pd.DataFrame:
    """The evidence of one query against all its candidates: one row per reference.

    Columns: reference_id, then COLUMNS. An inlier whose query keypoint is also an inlier in k - 1
    other references counts 1/k in `distinct_inliers` (the burstiness of Jegou et al. 2009 across
    images). A pair whose inliers lie in text, a logo or a texture that many references have, and
    whose pixels do not match beyond it, is refused as shared_by_many. ratio: of the match count,
    second over first squared distance.
    """
    return evidence_table(score_rows(query, references, ratio=ratio, classifier=classifier))


def evidence_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of `score_rows` as a table, with more columns where they have them: these come first."""
    columns = [name for name in rows[0] if name not in COLUMNS] if rows else ["reference_id"]
    table = pd.DataFrame(rows, columns=[*columns, *COLUMNS])
    return table.astype({**dict.fromkeys(columns, "str"), **COLUMNS})


def score_rows(
    query: View,
    references: Mapping[str, View],
    *,
    ratio: float = MATCH_RATIO,
    classifier: Classifier | None = None,
) -> list[dict[str, Any]]:
    """`score_query` as one dictionary per reference, for a table of many queries."""
    rows, kept = [], []
    for reference_id, reference in references.items():
        row, inliers = _score(query, reference, ratio, classifier)
        rows.append({"reference_id": reference_id, **row})
        kept.append(inliers)
    distinct = distinct_inliers(kept, np.zeros(len(kept), np.int64))
    for row, inliers, count in zip(rows, kept, distinct.tolist(), strict=True):
        row |= {"distinct_inliers": count, "inlier_keypoints": " ".join(map(str, inliers))}
        if are_shared_by_many(row["inliers"], count, row["ncc_inlier_ratio"]):
            row["refused"] = SHARED_BY_MANY
    return rows


def distinct_inliers(inliers: Sequence[np.ndarray], view: np.ndarray) -> np.ndarray:
    """`distinct_inliers` (n,) of n pairs, from the query keypoints (k,) int that are the inliers of each, and the number of the
    view (n,) int64 of each: the pairs of one view, verified together, share them."""
    row = np.repeat(np.arange(len(inliers)), [len(keypoints) for keypoints in inliers])
    keypoint = np.concatenate([*inliers, np.empty(0, np.int64)]).astype(np.int64)
    place = view[row] * (keypoint.max(initial=0) + 1) + keypoint
    _, number, references = np.unique(place, return_inverse=True, return_counts=True)
    return np.bincount(row, 1 / references[number], minlength=len(inliers))


def inlier_keypoints(evidence: pd.DataFrame) -> list[np.ndarray]:
    """The column of that name, as int64 (k,) of each row."""
    column = evidence["inlier_keypoints"]
    keypoints = np.array(" ".join(column).split(), np.int64)
    return np.split(keypoints, np.cumsum([len(text.split()) for text in column])[:-1])


def are_shared_by_many(inliers: Any, distinct: Any, ncc_inlier_ratio: Any) -> Any:
    """Whether a pair, or which pairs (n,), with these values of COLUMNS are refused as SHARED_BY_MANY: bool."""
    crowded = inliers > _CROWDED * distinct
    return crowded & (ncc_inlier_ratio < _MATCHING_PIXELS)


def _score(
    query: View, reference: View, ratio: float, classifier: Classifier | None
) -> tuple[dict, np.ndarray]:
    """The row of `score_pair`, and the query keypoints (k,) that are inliers."""
    row = _empty_row()
    tentative: dict[int, Matches] = {}
    if len(query.keypoints) and len(reference.keypoints):
        nearest = nearest_two(query.variants, reference.variants)
        for mirrored, name in ((0, "matches_plain"), (1, "matches_mirrored")):
            row[name] = _match_count(nearest, mirrored, query, reference, ratio)
            tentative[mirrored] = _putative(nearest, mirrored, ratio)
        row["matches"] = max(row["matches_plain"], row["matches_mirrored"])
    refused, hypothesis = best_hypothesis(query, reference, tentative)
    if hypothesis is None:
        return row | {"refused": refused}, np.empty(0, np.int64)
    inliers = hypothesis.errors[0] < INLIER_PX
    row |= _alignment_columns(hypothesis, classifier)
    return row, hypothesis.matches.pairs[inliers, 0]


def _empty_row() -> dict:
    zeros = {"bool": False, "str": "", "float32": 0.0, "int32": 0, "int64": 0, "float64": np.nan}
    return {name: zeros[kind] for name, kind in COLUMNS.items()} | {
        "reprojection_error_px": np.nan,
        "angle_error_deg": np.nan,
        "colour_difference": np.nan,
        "tilt_deg": np.nan,
        "shear_deg": np.nan,
        "perspective": np.nan,
    }


def _match_count(
    nearest: Nearest, mirrored: int, query: View, reference: View, ratio: float
) -> int:
    """Match count of the 2021 system: ratio-test matches at distinct positions, frame pixels."""
    pairs = ratio_matches(nearest, (mirrored, 0), ratio)
    frames = [side.keypoints[:, :2] / side.frame_px for side in (query, reference)]
    return len(first_at_each_position(frames[0], frames[1], pairs))


def _putative(nearest: Nearest, mirrored: int, ratio: float) -> Matches:
    pairs, contrast_reversed = tentative_matches(nearest, bool(mirrored))
    variants = mirrored, contrast_reversed.astype(int), pairs[:, 0]
    ratio_test = nearest.first[variants] * ratio < nearest.second[variants]
    return Matches(pairs, contrast_reversed, ratio_test)


def _alignment_columns(hypothesis: Hypothesis, classifier: Classifier | None) -> dict:
    """The columns that a transform gives."""
    query, reference, homography = hypothesis.query, hypothesis.reference, hypothesis.homography
    overlap = overlap_of(query.corners, reference.corners, homography)
    if len(overlap) < 3:
        return {"refused": "folded"}
    back = project(np.linalg.inv(homography), overlap)
    query_area = min(polygon_area(back) / (query.width * query.height), 1.0)
    reference_area = min(polygon_area(overlap) / (reference.width * reference.height), 1.0)
    matches, (errors, inside) = hypothesis.matches, hypothesis.errors
    inliers = np.flatnonzero(errors < INLIER_PX)
    count, exact = len(inliers), int((errors[inliers] < _EXACT_PX).sum())
    strict = matches.ratio_test & inside
    tilt, shear, perspective = camera_signs(homography, back)
    size = query.width, query.height
    # Corners that a rotation leaves free are nothing that contains the reference.
    extent = min(float(np.ptp(back, axis=0).prod()) / (size[0] * size[1]), 1.0)
    return {
        "mirrored": hypothesis.mirrored,
        "contrast_reversed": float(matches.contrast_reversed[inliers].mean()) if count else 0.0,
        "tentative": len(matches.pairs),
        "inliers": count,
        "inlier_ratio": count / max(int(inside.sum()), count, 1),
        "guided_inliers": max(hypothesis.guided_inliers, count),
        "exact_inliers": exact,
        "consistency": float((strict & (errors < _CONSISTENT_PX)).sum() / (1 + strict.sum())),
        "angle_error_deg": _angle_error(hypothesis, inliers) if count else np.nan,
        "distinct_inliers": float(count),
        "reprojection_error_px": float(np.median(errors[inliers])) if count else np.nan,
        "tilt_deg": tilt,
        "shear_deg": shear,
        "perspective": perspective,
        "query_area": query_area,
        "reference_area": reference_area,
        **{f"ncc_{name}": value for name, value in asdict(hypothesis.correlation).items()},
        **_refinement_columns(hypothesis, classifier),
        "drawn": is_drawn(reference.grey),
        "explained_cells": _explained_cells(hypothesis, inliers),
        "hypothesis_source": hypothesis.source,
        "model": hypothesis.model,
        "direction": direction(extent, reference_area),
        "transform": in_words(homography, size, overlap, extent, reference_area),
        **{f"h{i}{j}": float(homography[i, j]) for i in range(3) for j in range(3)},
    }


def _explained_cells(hypothesis: Hypothesis, inliers: np.ndarray) -> int:
    """The cells of `explained_cells` in which an inlier lies, or the centre of a block that correlates."""
    query, overlay = hypothesis.query, hypothesis.alignment.overlay()
    places = [query.keypoints[hypothesis.matches.pairs[inliers, 0], :2].astype(np.float64)]
    if overlay is not None:
        to_query_px = np.linalg.inv(overlay.to_work @ hypothesis.alignment.homography)
        to_query_px = np.linalg.inv(query.to_grey_px) @ to_query_px
        places.append(project(to_query_px, overlay.inlier_centres()))
    xy = np.concatenate(places)
    xy = xy[np.isfinite(xy).all(axis=1)]
    row, column = cell_of(xy, (query.width, query.height), CELLS)
    return sum(1 << int(cell) for cell in np.unique(column + CELLS * row))


def _refinement_columns(hypothesis: Hypothesis, classifier: Classifier | None) -> dict:
    """The columns that a refined alignment gives."""
    refinement = hypothesis.refinement
    if refinement is None:
        return {}
    alignment = refinement.alignment
    planes = None if classifier is None else pair_planes(alignment)
    return {
        "copy_probability": 0.0 if classifier is None or planes is None else classifier(planes),
        "colour_difference": colour_difference(hypothesis.query, hypothesis.reference, alignment),
        "aligned_blocks": refinement.aligned_blocks,
        "localisable_blocks": refinement.localisable_blocks,
        "displaced_blocks": refinement.displaced_blocks,
        "model_consistency": refinement.model_consistency,
    }


def _angle_error(hypothesis: Hypothesis, inliers: np.ndarray) -> float:
    """Median error, in degrees, of the inliers' angles under the transform."""
    rows = hypothesis.matches.pairs[inliers]
    here = hypothesis.query.keypoints[rows[:, 0]]
    there = hypothesis.reference.keypoints[rows[:, 1]]
    angle = here[:, 3] + np.pi * hypothesis.matches.contrast_reversed[inliers]
    ahead = here[:, :2] + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    homography = hypothesis.homography
    step = project(homography, ahead) - project(homography, here[:, :2])
    difference = np.arctan2(step[:, 1], step[:, 0]) - there[:, 3]
    return float(np.degrees(np.median(abs((difference + np.pi) % (2 * np.pi) - np.pi))))
