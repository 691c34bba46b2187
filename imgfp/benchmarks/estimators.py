"""Homography estimators compared on the same putative matches."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec

import cv2
import numpy as np
import pandas as pd

from imgfp import store
from imgfp.geometry import project
from imgfp.stages import verification
from imgfp.verify.estimation import INLIER_PX, estimate_homography
from imgfp.verify.matching import nearest_two, tentative_matches
from imgfp.verify.refinement import align
from imgfp.verify.view import View, alignment_of


def compare_estimators(
    run: store.Run, library: store.Library, candidates: pd.DataFrame
) -> pd.DataFrame:
    """Robust estimators compared on the same candidates (columns query_id, reference_id).

    All get the same putative matches. Returns one row per estimator: pairs, confirmed (share of them whose
    pixels agree under the estimated homography, in more than half of the overlap and 0.2 more than by chance),
    inliers (median over the pairs that every estimator confirms) and milliseconds of processor time per
    pair. PoseLib is included if it is installed (extra `peers`).
    """
    frame_px = verification.frame_short_side_px(library)
    readers = [verification.ViewReader(side, frame_px) for side in (run, library)]
    estimators = {
        name: call
        for name, call in _ESTIMATORS.items()
        if name != "PoseLib" or find_spec("poselib")
    }
    rows = []
    for number, ids in enumerate(
        zip(candidates["query_id"], candidates["reference_id"], strict=True)
    ):
        sides = [
            reader.read({image_id: image_id})[image_id]
            for reader, image_id in zip(readers, ids, strict=True)
        ]
        nearest = nearest_two(sides[0].variants, sides[1].variants)
        mirrored, (matches, contrast_reversed) = max(
            ((mirror, tentative_matches(nearest, mirror)) for mirror in (False, True)),
            key=lambda variant: len(variant[1][0]),
        )
        ends = [side.keypoints[at] for side, at in zip(sides, matches.T, strict=True)]
        for name, estimate in estimators.items():
            start = time.process_time()
            homography = estimate(
                *ends, mirrored, contrast_reversed, sides[0].frame_px, sides[1].frame_px
            )
            seconds = time.process_time() - start
            rows.append((number, name, seconds, *_confirm(homography, *ends, *sides)))
    table = pd.DataFrame(rows, columns=["pair", "estimator", "seconds", "inliers", "confirmed"])
    by_all = table.groupby("pair")["confirmed"].transform("all")
    groups = table.groupby("estimator", sort=False)
    return pd.DataFrame(
        {
            "pairs": groups.size(),
            "confirmed": groups["confirmed"].mean(),
            "inliers": table[by_all].groupby("estimator", sort=False)["inliers"].median(),
            "milliseconds": 1000 * groups["seconds"].mean(),
        }
    ).reset_index()


def _robust(estimate: Callable[[np.ndarray, np.ndarray], np.ndarray | None]):
    """An estimator of homographies from points, adapted to frame pixels."""

    def adapted(query, reference, _mirrored, _contrast_reversed, query_px, reference_px):
        if len(query) < 4:
            return None
        matrix = estimate(
            query[:, :2].astype(np.float64) / query_px,
            reference[:, :2].astype(np.float64) / reference_px,
        )
        if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
            return None
        return np.diag([reference_px] * 2 + [1]) @ matrix @ np.diag([1 / query_px] * 2 + [1])

    return adapted


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


def _confirm(homography, query_ends, reference_ends, query: View, reference: View):
    """Inliers of a homography, and whether the pixels confirm it."""
    if homography is None:
        return 0, False
    projected = project(homography, query_ends[:, :2].astype(np.float64))
    errors = np.linalg.norm(projected - reference_ends[:, :2], axis=1) / reference.frame_px
    overlay = align(alignment_of(query, reference, homography)).overlay()
    confirmed = (
        overlay is not None
        and overlay.inlier_ratio > 0.5
        and overlay.inlier_ratio - overlay.chance > 0.2
    )
    return int((errors < INLIER_PX).sum()), confirmed
