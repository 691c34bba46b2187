"""Everything that is known about one proposed pair, as one flat row of the evidence table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from imgfp.agreement import overlap_of
from imgfp.geometry import camera_signs, project
from imgfp.judge import lay_out
from imgfp.maps import Map, Matches, best_map
from imgfp.matching import first_at_each_position
from imgfp.pictures import Picture
from imgfp.readings import nearest_two, ratio_matches, tentative_matches
from imgfp.transforms import direction, in_words

__all__ = ["COLUMNS", "Judge", "Picture", "score_pair", "score_query"]

#: Says of a pair as by `judge.lay_out` how sure it is a copy, 0..1: a `judge.PairJudge`.
Judge = Callable[[np.ndarray], float]

#: Columns of `score_query`, in order, with the dtypes that tables store them in.
COLUMNS: dict[str, str] = {
    "matches_plain": "int32",  # the seed's count: squared ratio 1.8, one a rounded position
    "matches_mirrored": "int32",  # the same with the mirrored reference
    "matches": "int32",  # the larger of the two: the seed's score of the pair
    "mirrored": "bool",  # the map turns the query over
    "inverted": "float32",  # share of inliers read with inverted brightness
    "tentative": "int32",  # mutual matches that went into the geometry
    "inliers": "int32",  # of them, those that agree with the map
    "inlier_ratio": "float32",  # inliers / tentative matches inside the overlap
    "guided_inliers": "int32",  # found anew near where the map sends keypoints; at least inliers
    "exact_inliers": "int32",  # inliers within one frame pixel of where the map sends them
    "consistency": "float32",  # of sure matches in the overlap, (exact inliers) / (1 + all)
    "angle_error": "float32",  # median turn of inliers against the map's own, degrees
    "distinct_inliers": "float32",  # each inlier over the references that share its query keypoint
    "error": "float32",  # median distance of the inliers from where the map sends them, frame px
    "tilt": "float32",  # of the map against the picture's sides, degrees; editing leaves none
    "shear": "float32",  # by how much the map takes square sides apart, degrees
    "perspective": "float32",  # by how much it enlarges one corner more than another; 0: none
    "query_area": "float32",  # share of the query that the overlap covers
    "reference_area": "float32",  # share of the reference that the overlap covers
    "agreement": "float32",  # share of the overlap's texture whose pixels agree
    "agreement_chance": "float32",  # the same, laid wrong on purpose
    "agreement_edges": "float32",  # share of the blocks whose edges agree, beyond chance
    "agreement_inside": "float32",  # share in the rectangle where agreement outweighs most
    "agreement_fine": "float32",  # share of the overlap's texture that agrees in its fine detail
    "agreeing_blocks": "int32",  # blocks that agree in that rectangle
    "agreement_steady": "float32",  # of blocks that agree nearby, the share that agrees best here
    "agreement_best": "float32",  # 80th percentile of block correlations
    "close_blocks": "int32",  # blocks of the close look that agree right here; 0: none was taken
    "firm_blocks": "int32",  # blocks of it that tell to a pixel where they agree
    "moved_blocks": "int32",  # of them, those that agree elsewhere: parallax, or something moved
    "explained": "float32",  # share of its blocks that one plain map puts right, see refine.KINDS
    "judged": "float32",  # how sure the trained eye is of a copy, 0..1; 0: there was no close look
    "map_from": "str",  # what proposed the map: matches, frame, or "" for no map
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
    query: Picture, reference: Picture, *, ratio: float = 1.8, judge: Judge | None = None
) -> dict:
    """The evidence of one pair: a value for every key of COLUMNS.

    All counts, shares and correlations say: higher is more alike. With no believable map the areas
    and the agreement are 0, `refused` names the reason and the map h00..h22 is NaN. A map comes from
    matched keypoints; where they give none that the pixels confirm, the searched parts are laid on
    each other as whole frames in all eight ways ("frame"), for pictures with hardly any keypoints.
    `distinct_inliers` equals `inliers`: see `score_query`. ratio: of the seed's match count, second
    over first squared distance. judge: looks at pairs that got a close look; None: nobody does.
    """
    return _score(query, reference, ratio, judge)[0]


def score_query(
    query: Picture,
    references: Mapping[str, Picture],
    *,
    ratio: float = 1.8,
    judge: Judge | None = None,
) -> pd.DataFrame:
    """The evidence of one query against all its candidates: a row each, reference_id first.

    Seen together, an inlier whose query keypoint is also an inlier in k - 1 other references counts
    1/k in `distinct_inliers` (the burstiness of Jegou et al. 2009 across pictures). A pair whose
    inliers lie in text, a logo or a texture that many references have, and whose pixels do not
    agree beyond it, is refused as shared_by_many.
    """
    rows, kept = [], []
    for reference_id, reference in references.items():
        row, inliers = _score(query, reference, ratio, judge)
        rows.append({"reference_id": reference_id, **row})
        kept.append(inliers)
    shared = np.bincount(np.concatenate([*kept, []]).astype(int), minlength=1)
    for row, inliers in zip(rows, kept, strict=True):
        row["distinct_inliers"] = float((1 / shared[inliers]).sum())
        crowded = row["inliers"] > _SHARED_BY_MANY * row["distinct_inliers"]
        if crowded and row["agreement"] < 0.3:
            row["refused"] = "shared_by_many"
    table = pd.DataFrame(rows, columns=["reference_id", *COLUMNS])
    return table.astype({"reference_id": "str", **COLUMNS})


def _score(
    query: Picture, reference: Picture, ratio: float, judge: Judge | None
) -> tuple[dict, np.ndarray]:
    """The row of `score_pair`, and the query keypoints (k,) that are inliers."""
    row = _nothing()
    tentative: dict[int, Matches] = {}
    if len(query.keypoints) and len(reference.keypoints):
        nearest = nearest_two(query.readings, reference.readings)
        for mirrored, name in ((0, "matches_plain"), (1, "matches_mirrored")):
            row[name] = _seed_count(nearest, mirrored, query, reference, ratio)
            pairs, inverted = tentative_matches(nearest, bool(mirrored))
            readings = mirrored, inverted.astype(int), pairs[:, 0]
            sure = nearest.first[readings] * ratio < nearest.second[readings]
            tentative[mirrored] = Matches(pairs, inverted, sure)
        row["matches"] = max(row["matches_plain"], row["matches_mirrored"])
    refused, found = best_map(query, reference, tentative)
    if found is None:
        return row | {"refused": refused}, np.empty(0, np.int64)
    inliers = found.errors[0] < INLIER_PX
    return row | _describe(found, query, reference, judge), found.matches.pairs[inliers, 0]


def _nothing() -> dict:
    zeros = {"bool": False, "str": "", "float32": 0.0, "int32": 0, "float64": np.nan}
    return {name: zeros[kind] for name, kind in COLUMNS.items()} | {
        "error": np.nan,
        "angle_error": np.nan,
        "tilt": np.nan,
        "shear": np.nan,
        "perspective": np.nan,
    }


def _seed_count(nearest, mirrored: int, query: Picture, reference: Picture, ratio: float) -> int:
    pairs = ratio_matches(nearest, (mirrored, 0), ratio)
    frames = [side.keypoints[:, :2] / side.frame_px for side in (query, reference)]
    return len(first_at_each_position(*frames, pairs))


def _describe(found: Map, query: Picture, reference: Picture, judge: Judge | None) -> dict:
    """The columns that a map gives."""
    overlap = overlap_of(query.corners, reference.corners, found.homography)
    if len(overlap) < 3:
        return {"refused": "folded"}
    back = project(np.linalg.inv(found.homography), overlap)
    query_area = _area(back) / (query.width * query.height)
    reference_area = _area(overlap) / (reference.width * reference.height)
    query_area, reference_area = min(query_area, 1.0), min(reference_area, 1.0)
    errors, inside = found.errors
    inliers = np.flatnonzero(errors < INLIER_PX)
    count, agreement = len(inliers), found.agreement
    matches = found.matches
    sure = matches.sure & inside
    signs = camera_signs(found.homography, back)
    return {
        "mirrored": found.mirrored,
        "inverted": float(matches.inverted[inliers].mean()) if count else 0.0,
        "tentative": len(matches.pairs),
        "inliers": count,
        "inlier_ratio": count / max(int(inside.sum()), count, 1),
        "guided_inliers": max(found.guided, count),
        "exact_inliers": int((errors[inliers] < 1).sum()),
        "consistency": float((sure & (errors < 1.5)).sum() / (1 + sure.sum())),
        "angle_error": _angle_error(found, inliers, query, reference) if count else np.nan,
        "distinct_inliers": float(count),
        "error": float(np.median(errors[inliers])) if count else np.nan,
        **dict(zip(("tilt", "shear", "perspective"), signs, strict=True)),
        "query_area": query_area,
        "reference_area": reference_area,
        "agreement": agreement.share,
        "agreement_chance": agreement.chance,
        "agreement_edges": agreement.edges,
        "agreement_inside": agreement.inside,
        "agreeing_blocks": agreement.agreeing,
        "agreement_fine": agreement.fine,
        "agreement_steady": agreement.steady,
        "agreement_best": agreement.best,
        **_closer(found, judge),
        "map_from": found.source,
        "model": found.model,
        "direction": direction(query_area, reference_area),
        "transform": in_words(
            found.homography, (query.width, query.height), overlap, query_area, reference_area
        ),
        **{f"h{i}{j}": float(found.homography[i, j]) for i in range(3) for j in range(3)},
    }


def _closer(found: Map, judge: Judge | None) -> dict:
    """The columns that a close look gives."""
    if found.closer is None:
        return {}
    laid = None
    if judge is not None:
        laid = lay_out(found.query.grey, found.reference.grey, found.closer.homography)
    return {
        "judged": judge(laid) if laid is not None else 0.0,
        "close_blocks": found.closer.blocks,
        "firm_blocks": found.closer.firm,
        "moved_blocks": found.closer.moved,
        "explained": found.closer.explained,
    }


def _angle_error(found: Map, inliers: np.ndarray, query: Picture, reference: Picture) -> float:
    """Median difference, in degrees, of the inliers' orientations and where the map turns them."""
    rows = found.matches.pairs[inliers]
    here, there = query.keypoints[rows[:, 0]], reference.keypoints[rows[:, 1]]
    angle = here[:, 3] + np.pi * found.matches.inverted[inliers]
    ahead = here[:, :2] + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    step = project(found.homography, ahead) - project(found.homography, here[:, :2])
    difference = np.arctan2(step[:, 1], step[:, 0]) - there[:, 3]
    return float(np.degrees(np.median(abs((difference + np.pi) % (2 * np.pi) - np.pi))))


def _area(polygon: np.ndarray) -> float:
    """Area of a polygon (k,2), by the shoelace formula."""
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
