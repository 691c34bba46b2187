"""Homography estimators compared on the same matches."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from imgfp import store
from imgfp.geometry import project
from imgfp.stages import verification
from imgfp.verify.estimation import estimate_homography
from imgfp.verify.evidence import INLIER_PX
from imgfp.verify.matching import nearest_two, tentative_matches
from imgfp.verify.refinement import align
from imgfp.verify.view import View


def compare_estimators(run: Path, library: Path, candidates: pd.DataFrame) -> pd.DataFrame:
    """How well robust estimators find the map of proposed pairs (columns query_id, reference_id).

    All see the same tentative matches. Returns a row an estimator: pairs, confirmed (share of them where
    the pixels agree once the query is laid on the reference by its map, more than half of the overlap
    and 0.2 beyond chance), inliers (median over the pairs that every estimator has confirmed) and
    milliseconds of processor time a pair. PoseLib is among them where it is installed (extra `peers`).
    """
    views = [store.FeatureLookup(run / "local_features")]
    known = [store.FeatureLookup(library / "local_features")]
    frame_px = verification.frame_short_side_px(library)
    estimators = {
        name: call
        for name, call in _ESTIMATORS.items()
        if name != "PoseLib" or find_spec("poselib")
    }
    rows = []
    for number, pair in enumerate(candidates.itertuples()):
        sides = [
            verification.whole_picture(run, views, pair.query_id, frame_px),
            verification.whole_picture(library, known, pair.reference_id, frame_px),
        ]
        nearest = nearest_two(sides[0].variants, sides[1].variants)
        mirrored, (matches, contrast_reversed) = max(
            ((turned, tentative_matches(nearest, turned)) for turned in (False, True)),
            key=lambda reading: len(reading[1][0]),
        )
        ends = [side.keypoints[at] for side, at in zip(sides, matches.T, strict=True)]
        for name, estimate in estimators.items():
            start = time.process_time()
            found = estimate(
                *ends, mirrored, contrast_reversed, sides[0].frame_px, sides[1].frame_px
            )
            seconds = time.process_time() - start
            rows.append((number, name, seconds, *_is_right(found, *ends, *sides)))
    table = pd.DataFrame(rows, columns=["pair", "estimator", "seconds", "inliers", "confirmed"])
    everybody = table.groupby("pair")["confirmed"].transform("all")
    groups = table.groupby("estimator", sort=False)
    return pd.DataFrame(
        {
            "pairs": groups.size(),
            "confirmed": groups["confirmed"].mean(),
            "inliers": table[everybody].groupby("estimator", sort=False)["inliers"].median(),
            "milliseconds": 1000 * groups["seconds"].mean(),
        }
    ).reset_index()


def _robust(estimate: Callable[[np.ndarray, np.ndarray], np.ndarray | None]):
    """An estimator of homographies from points, made to work in frame pixels."""

    def found(query, reference, _mirrored, _inverted, query_px, reference_px):
        if len(query) < 4:
            return None
        matrix = estimate(
            query[:, :2].astype(np.float64) / query_px,
            reference[:, :2].astype(np.float64) / reference_px,
        )
        if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
            return None
        return np.diag([reference_px] * 2 + [1]) @ matrix @ np.diag([1 / query_px] * 2 + [1])

    return found


def _ours(query, reference, mirrored, contrast_reversed, query_px, reference_px):
    scales = {"query_px": query_px, "reference_px": reference_px}
    return estimate_homography(
        query, reference, mirrored=mirrored, contrast_reversed=contrast_reversed, **scales
    ).homography


def _poselib(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    import poselib

    return poselib.estimate_homography(query, reference, {"max_reproj_error": INLIER_PX}, {})[0]


_ESTIMATORS = {
    "imgfp: votes, then MAGSAC++": _ours,
    "OpenCV MAGSAC++": _robust(
        lambda q, r: cv2.findHomography(q, r, cv2.USAC_MAGSAC, INLIER_PX, maxIters=2000)[0]
    ),
    "OpenCV RANSAC": _robust(
        lambda q, r: cv2.findHomography(q, r, cv2.RANSAC, INLIER_PX, maxIters=2000)[0]
    ),
    "PoseLib": _robust(_poselib),
}


def _is_right(homography, query_ends, reference_ends, query: View, reference: View):
    """Inliers of a map, and whether the pixels confirm it."""
    if homography is None:
        return 0, False
    sent = project(homography, query_ends[:, :2].astype(np.float64))
    off = np.linalg.norm(sent - reference_ends[:, :2], axis=1) / reference.frame_px
    between = reference.to_grey_px @ homography @ np.linalg.inv(query.to_grey_px)
    seen = align(query.grey, reference.grey, between)
    confirmed = seen is not None and seen.share > 0.5 and seen.share - seen.chance > 0.2
    return int((off < INLIER_PX).sum()), confirmed
