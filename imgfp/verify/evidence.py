"""Everything that is known about one proposed pair, as one flat row of the evidence table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from imgfp.geometry import camera_signs, overlap_of, polygon_area, project
from imgfp.verify.classifier import pair_planes
from imgfp.verify.describe import direction, in_words
from imgfp.verify.hypotheses import Hypothesis, Matches, best_hypothesis
from imgfp.verify.matching import (
    first_at_each_position,
    nearest_two,
    ratio_matches,
    tentative_matches,
)
from imgfp.verify.view import View

__all__ = ["COLUMNS", "Classifier", "View", "score_pair", "score_query"]

#: Says of a pair as by `classifier.pair_planes` how sure it is a copy, 0..1: a `classifier.PairClassifier`.
Classifier = Callable[[np.ndarray], float]

#: Columns of `score_query`, in order, with the dtypes that tables store them in.
COLUMNS: dict[str, str] = {
    "matches_plain": "int32",  # the seed's count: squared ratio 1.8, one a rounded position
    "matches_mirrored": "int32",  # the same with the mirrored reference
    "matches": "int32",  # the larger of the two: the seed's score of the pair
    "mirrored": "bool",  # the map turns the query over
    "contrast_reversed": "float32",  # share of inliers read with inverted brightness
    "tentative": "int32",  # mutual matches that went into the geometry
    "inliers": "int32",  # of them, those that agree with the map
    "inlier_ratio": "float32",  # inliers / tentative matches inside the overlap
    "guided_inliers": "int32",  # found anew near where the map sends keypoints; at least inliers
    "exact_inliers": "int32",  # inliers within one frame pixel of where the map sends them
    "consistency": "float32",  # of sure matches in the overlap, (exact inliers) / (1 + all)
    "angle_error_deg": "float32",  # median turn of inliers against the map's own, degrees
    "distinct_inliers": "float32",  # each inlier over the references that share its query keypoint
    "reprojection_error_px": "float32",  # median distance of the inliers from where the map sends them, frame px
    "tilt_deg": "float32",  # of the map against the picture's sides, degrees; editing leaves none
    "shear_deg": "float32",  # by how much the map takes square sides apart, degrees
    "perspective": "float32",  # by how much it enlarges one corner more than another; 0: none
    "query_area": "float32",  # share of the query that the overlap covers
    "reference_area": "float32",  # share of the reference that the overlap covers
    "ncc_inlier_ratio": "float32",  # share of the overlap's texture whose pixels agree
    "ncc_chance": "float32",  # the same, laid wrong on purpose
    "ncc_edges": "float32",  # share of the blocks whose edges agree, beyond chance
    "ncc_best_rectangle": "float32",  # share in the rectangle where agreement outweighs most
    "ncc_fine": "float32",  # share of the overlap's texture that agrees in its fine detail
    "ncc_inlier_blocks": "int32",  # blocks that agree in that rectangle
    "ncc_stable": "float32",  # of blocks that agree nearby, the share that agrees best here
    "ncc_p80": "float32",  # 80th percentile of block correlations
    "aligned_blocks": "int32",  # blocks of the close look that agree right here; 0: none was taken
    "localisable_blocks": "int32",  # blocks of it that tell to a pixel where they agree
    "displaced_blocks": "int32",  # of them, those that agree elsewhere: parallax, or something moved
    "model_consistency": "float32",  # share of its blocks that one plain map puts right, see refine.KINDS
    "copy_probability": "float32",  # how sure the trained eye is of a copy, 0..1; 0: there was no close look
    "hypothesis_source": "str",  # what proposed the map: matches, frame, or "" for no map
    "model": "str",  # upright, similarity, affine, homography, or "": the plainest that explains it
    "refused": "str",  # why there is no map: a key of geometry.REFUSALS or shared_by_many, or ""
    "direction": "str",  # which picture contains the other
    "transform": "str",  # the map in words
    **{f"h{row}{column}": "float64" for row in range(3) for column in range(3)},
}

#: An inlier lies this near, in pixels of the coarser frame, to where the map sends it.
INLIER_PX = 4.0
#: An inlier keypoint shared by this many references on average is text, a logo or a texture.
_SHARED_BY_MANY = 2.5


def score_pair(
    query: View, reference: View, *, ratio: float = 1.8, classifier: Classifier | None = None
) -> dict:
    """The evidence of one pair: a value for every key of COLUMNS.

    All counts, shares and correlations say: higher is more alike. With no believable map the areas
    and the agreement are 0, `refused` names the reason and the map h00..h22 is NaN. A map comes from
    matched keypoints; where they give none that the pixels confirm, the searched parts are laid on
    each other as whole frames in all eight ways ("frame"), for pictures with hardly any keypoints.
    `distinct_inliers` equals `inliers`: see `score_query`. ratio: of the seed's match count, second
    over first squared distance. judge: looks at pairs that got a close look; None: nobody does.
    """
    return _score(query, reference, ratio, classifier)[0]


def score_query(
    query: View,
    references: Mapping[str, View],
    *,
    ratio: float = 1.8,
    classifier: Classifier | None = None,
) -> pd.DataFrame:
    """The evidence of one query against all its candidates: a row each, reference_id first.

    Seen together, an inlier whose query keypoint is also an inlier in k - 1 other references counts
    1/k in `distinct_inliers` (the burstiness of Jegou et al. 2009 across pictures). A pair whose
    inliers lie in text, a logo or a texture that many references have, and whose pixels do not
    agree beyond it, is refused as shared_by_many.
    """
    rows, kept = [], []
    for reference_id, reference in references.items():
        row, inliers = _score(query, reference, ratio, classifier)
        rows.append({"reference_id": reference_id, **row})
        kept.append(inliers)
    shared = np.bincount(np.concatenate([*kept, []]).astype(int), minlength=1)
    for row, inliers in zip(rows, kept, strict=True):
        row["distinct_inliers"] = float((1 / shared[inliers]).sum())
        crowded = row["inliers"] > _SHARED_BY_MANY * row["distinct_inliers"]
        if crowded and row["ncc_inlier_ratio"] < 0.3:
            row["refused"] = "shared_by_many"
    table = pd.DataFrame(rows, columns=["reference_id", *COLUMNS])
    return table.astype({"reference_id": "str", **COLUMNS})


def _score(
    query: View, reference: View, ratio: float, classifier: Classifier | None
) -> tuple[dict, np.ndarray]:
    """The row of `score_pair`, and the query keypoints (k,) that are inliers."""
    row = _empty_row()
    tentative: dict[int, Matches] = {}
    if len(query.keypoints) and len(reference.keypoints):
        nearest = nearest_two(query.variants, reference.variants)
        for mirrored, name in ((0, "matches_plain"), (1, "matches_mirrored")):
            row[name] = _seed_count(nearest, mirrored, query, reference, ratio)
            pairs, contrast_reversed = tentative_matches(nearest, bool(mirrored))
            variants = mirrored, contrast_reversed.astype(int), pairs[:, 0]
            sure = nearest.first[variants] * ratio < nearest.second[variants]
            tentative[mirrored] = Matches(pairs, contrast_reversed, sure)
        row["matches"] = max(row["matches_plain"], row["matches_mirrored"])
    refused, found = best_hypothesis(query, reference, tentative)
    if found is None:
        return row | {"refused": refused}, np.empty(0, np.int64)
    inliers = found.errors[0] < INLIER_PX
    return row | _alignment_columns(found, query, reference, classifier), found.matches.pairs[
        inliers, 0
    ]


def _empty_row() -> dict:
    zeros = {"bool": False, "str": "", "float32": 0.0, "int32": 0, "float64": np.nan}
    return {name: zeros[kind] for name, kind in COLUMNS.items()} | {
        "reprojection_error_px": np.nan,
        "angle_error_deg": np.nan,
        "tilt_deg": np.nan,
        "shear_deg": np.nan,
        "perspective": np.nan,
    }


def _seed_count(nearest, mirrored: int, query: View, reference: View, ratio: float) -> int:
    pairs = ratio_matches(nearest, (mirrored, 0), ratio)
    frames = [side.keypoints[:, :2] / side.frame_px for side in (query, reference)]
    return len(first_at_each_position(*frames, pairs))


def _alignment_columns(
    found: Hypothesis, query: View, reference: View, classifier: Classifier | None
) -> dict:
    """The columns that a map gives."""
    overlap = overlap_of(query.corners, reference.corners, found.homography)
    if len(overlap) < 3:
        return {"refused": "folded"}
    back = project(np.linalg.inv(found.homography), overlap)
    query_area = polygon_area(back) / (query.width * query.height)
    reference_area = polygon_area(overlap) / (reference.width * reference.height)
    query_area, reference_area = min(query_area, 1.0), min(reference_area, 1.0)
    errors, inside = found.errors
    inliers = np.flatnonzero(errors < INLIER_PX)
    count, agreement = len(inliers), found.agreement
    matches = found.matches
    sure = matches.sure & inside
    signs = camera_signs(found.homography, back)
    return {
        "mirrored": found.mirrored,
        "contrast_reversed": float(matches.contrast_reversed[inliers].mean()) if count else 0.0,
        "tentative": len(matches.pairs),
        "inliers": count,
        "inlier_ratio": count / max(int(inside.sum()), count, 1),
        "guided_inliers": max(found.guided, count),
        "exact_inliers": int((errors[inliers] < 1).sum()),
        "consistency": float((sure & (errors < 1.5)).sum() / (1 + sure.sum())),
        "angle_error_deg": _angle_error(found, inliers, query, reference) if count else np.nan,
        "distinct_inliers": float(count),
        "reprojection_error_px": float(np.median(errors[inliers])) if count else np.nan,
        **dict(zip(("tilt_deg", "shear_deg", "perspective"), signs, strict=True)),
        "query_area": query_area,
        "reference_area": reference_area,
        "ncc_inlier_ratio": agreement.share,
        "ncc_chance": agreement.chance,
        "ncc_edges": agreement.edges,
        "ncc_best_rectangle": agreement.inside,
        "ncc_inlier_blocks": agreement.inlier_blocks,
        "ncc_fine": agreement.fine,
        "ncc_stable": agreement.stable,
        "ncc_p80": agreement.best,
        **_refinement_columns(found, classifier),
        "hypothesis_source": found.source,
        "model": found.model,
        "direction": direction(query_area, reference_area),
        "transform": in_words(
            found.homography, (query.width, query.height), overlap, query_area, reference_area
        ),
        **{f"h{i}{j}": float(found.homography[i, j]) for i in range(3) for j in range(3)},
    }


def _refinement_columns(found: Hypothesis, classifier: Classifier | None) -> dict:
    """The columns that a close look gives."""
    if found.refinement is None:
        return {}
    laid = None
    if classifier is not None:
        laid = pair_planes(found.query.grey, found.reference.grey, found.refinement.homography)
    return {
        "copy_probability": classifier(laid) if laid is not None else 0.0,
        "aligned_blocks": found.refinement.blocks,
        "localisable_blocks": found.refinement.firm,
        "displaced_blocks": found.refinement.moved,
        "model_consistency": found.refinement.model_consistency,
    }


def _angle_error(found: Hypothesis, inliers: np.ndarray, query: View, reference: View) -> float:
    """Median difference, in degrees, of the inliers' orientations and where the map turns them."""
    rows = found.matches.pairs[inliers]
    here, there = query.keypoints[rows[:, 0]], reference.keypoints[rows[:, 1]]
    angle = here[:, 3] + np.pi * found.matches.contrast_reversed[inliers]
    ahead = here[:, :2] + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    step = project(found.homography, ahead) - project(found.homography, here[:, :2])
    difference = np.arctan2(step[:, 1], step[:, 0]) - there[:, 3]
    return float(np.degrees(np.median(abs((difference + np.pi) % (2 * np.pi) - np.pi))))
