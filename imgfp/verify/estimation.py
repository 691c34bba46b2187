"""Homography estimation from putative matches, and the tests that refuse implausible transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from imgfp.geometry import local_areas, project

#: Largest reprojection error of an inlier, in pixels of the coarser frame.
INLIER_PX = 4.0
#: Largest error of a vote for a similarity: a single match determines it only roughly.
_VOTE_PX = 5 * INLIER_PX

#: Why a transform between two images is refused, in the order of the tests.
REFUSALS = {
    "too_few": "fewer than three matches agree on one transform",
    "collapsed": "the matches cover fewer than three distinct positions in one of the images",
    "all_on_a_line": "the matches are collinear, which does not determine a transform",
    "folded": "the transform folds the overlap or maps part of it to infinity",
    "extreme_scale": "one image would be reduced to less than a twentieth of the other",
    "squeezed": "one direction would be stretched five times more than another",
    "extreme_perspective": "one corner of the overlap would be scaled five times more than another",
}


@dataclass(frozen=True)
class Verification:
    """A transform from query to reference that matches agree on, or the reason why there is none.

    homography (3,3) float64, query pixel -> reference pixel, None if refused; inliers (m,) bool
    over the matches given; model "similarity", "affine", "homography" or "" (none); refused "" or a
    key of REFUSALS.
    """

    homography: np.ndarray | None
    inliers: np.ndarray
    model: str = ""
    refused: str = ""


def estimate_homography(
    query_keypoints: np.ndarray,
    reference_keypoints: np.ndarray,
    *,
    mirrored: bool = False,
    contrast_reversed: np.ndarray | None = None,
    query_px: float = 1.0,
    reference_px: float = 1.0,
) -> Verification:
    """The transform from query to reference that most matches agree on.

    Keypoints (m,4), row i of both is match i: x, y, size, angle in radians. mirrored: only
    transforms that mirror the query. contrast_reversed (m,) bool: the match is with the
    contrast-reversed query keypoint, whose angle differs by pi. query_px, reference_px: pixels of
    each image per pixel of the frame in which the keypoints were found. An inlier has a
    reprojection error of less than INLIER_PX pixels of the coarser of the two frames.

    One match determines a similarity by its position, size and angle, so that every match proposes
    one and all matches vote (the weak geometric consistency of Jegou et al. 2008, as exact votes).
    This is exhaustive, not random, and finds 3 consistent matches among 100. The voters of the
    winner then determine an affine transform and, if there are at least 8, a homography by OpenCV's
    MAGSAC++ (Barath et al. 2020), which has a fixed seed.
    """
    count = len(query_keypoints)
    if count < 3:
        return Verification(None, np.zeros(count, bool), refused="too_few")
    query = np.array(query_keypoints, np.float64)
    reference = np.array(reference_keypoints, np.float64)
    query[:, :3] /= query_px
    reference[:, :3] /= reference_px
    if contrast_reversed is not None:
        query[:, 3] += np.pi * contrast_reversed
    if mirrored:
        query[:, 0] *= -1
        query[:, 3] = np.pi - query[:, 3]
    voters = _similarity_votes(query, reference)
    found = _best_fit(query[:, :2], reference[:, :2], voters)
    if found.homography is None:
        return found
    mirror = np.diag([-1.0 if mirrored else 1.0, 1.0, 1.0])
    to_frame, from_frame = np.diag([1 / query_px] * 2 + [1]), np.diag([reference_px] * 2 + [1])
    homography = from_frame @ found.homography @ mirror @ to_frame
    return Verification(homography / homography[2, 2], found.inliers, found.model)


def refusal(homography: np.ndarray, query: np.ndarray, reference: np.ndarray) -> str:
    """Why a transform that does not mirror is refused: a key of REFUSALS, or "".

    query, reference (k,2): the inliers in pixels of their frames.
    """
    if len(query) < 3 or not np.isfinite(homography).all():
        return "too_few"
    for points in (query, reference):
        cells = np.rint(points / 3) @ [1.0, 1e6]  # one number per cell of three pixels
        if len(np.unique(cells)) < 3:
            return "collapsed"
        across, along = np.linalg.eigvalsh(np.cov(points.T))
        if across < 0.04**2 * along:
            return "all_on_a_line"
    low, high = query.min(axis=0), query.max(axis=0)
    corners = np.array([[x, y] for x in (low[0], high[0]) for y in (low[1], high[1])])
    depths = corners @ homography[2, :2] + homography[2, 2]
    areas = local_areas(homography, corners)
    if depths.min() * depths.max() <= 0 or areas.min() <= 0:
        return "folded"
    scales = np.sqrt(areas)
    if scales.min() < 1 / 20 or scales.max() > 20:
        return "extreme_scale"
    centre = (low + high) / 2
    steps = project(homography, centre + np.array([[0, 0], [0.5, 0], [0, 0.5]]))
    stretch = np.linalg.svd((steps[1:] - steps[0]).T, compute_uv=False)
    if stretch[0] > 5 * stretch[1]:
        return "squeezed"
    if scales.max() > 5 * scales.min():
        return "extreme_perspective"
    return ""


def _similarity_votes(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(m,) bool: the matches that agree with the similarity that most of them agree with."""
    scale = reference[:, 2] / query[:, 2]
    turn = reference[:, 3] - query[:, 3]
    cosine, sine = np.cos(turn), np.sin(turn)
    # Row i is the similarity of match i: x' = a x - b y + c, y' = b x + a y + d.
    a, b = scale * cosine, scale * sine
    c = reference[:, 0] - a * query[:, 0] + b * query[:, 1]
    d = reference[:, 1] - b * query[:, 0] - a * query[:, 1]
    points = np.stack([query[:, 0], query[:, 1], np.ones(len(query))])
    off_x = np.stack([a, -b, c], axis=1) @ points - reference[:, 0]
    off_y = np.stack([b, a, d], axis=1) @ points - reference[:, 1]
    reach = _VOTE_PX * np.maximum(scale, 1)
    votes = off_x**2 + off_y**2 < (reach**2)[:, None]
    size = np.log(scale)
    votes &= abs(size[:, None] - size) < np.log(1.7)
    turns = np.stack([cosine, sine], axis=1)
    votes &= turns @ turns.T > 0.87  # 30 degrees
    return votes[votes.sum(axis=1).argmax()]


def _best_fit(query: np.ndarray, reference: np.ndarray, voters: np.ndarray) -> Verification:
    """The most general transform that the voters support and no test refuses; frame pixels."""
    if voters.sum() < 3:
        return Verification(None, voters, refused="too_few")
    matrix, inliers = _shrink(query, reference, voters, _fit_similarity)
    fits = [(matrix, inliers, "similarity")]
    if inliers.sum() >= 5:
        matrix, inliers = _shrink(query, reference, inliers, _fit_affinity)
        fits.append((matrix, inliers, "affine"))
    if inliers.sum() >= 8:
        near = _residuals(matrix, query, reference) < 5 * INLIER_PX
        fits.append((*_fit_homography(query, reference, near), "homography"))
    # A more general model must not lose inliers.
    reasons: list[str] = []
    best: Verification | None = None
    for matrix, inliers, model in fits:
        reasons.append(refusal(matrix, query[inliers], reference[inliers]))
        if not reasons[-1] and (best is None or inliers.sum() >= best.inliers.sum()):
            best = Verification(matrix, inliers, model)
    return best or Verification(None, voters, refused=reasons[0])


def _shrink(
    query: np.ndarray,
    reference: np.ndarray,
    inliers: np.ndarray,
    fit: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Fit to the inliers of ever smaller tolerances, so that a rough start can gain inliers."""
    matrix = fit(query[inliers], reference[inliers])
    for factor in (3.0, 1.5, 1.0):
        inliers = _residuals(matrix, query, reference) < factor * INLIER_PX
        if inliers.sum() < 3:
            break
        matrix = fit(query[inliers], reference[inliers])
    return matrix, inliers


def _fit_similarity(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Least-squares similarity (3,3), computed with complex numbers."""
    at_q, at_r = (side[:, 0] + 1j * side[:, 1] for side in (query, reference))
    centred = at_q - at_q.mean()
    power = (abs(centred) ** 2).sum()
    linear = (centred.conj() * (at_r - at_r.mean())).sum() / power if power else 1.0 + 0j
    shift = at_r.mean() - linear * at_q.mean()
    return np.array(
        [[linear.real, -linear.imag, shift.real], [linear.imag, linear.real, shift.imag], [0, 0, 1]]
    )


def _fit_affinity(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Least-squares affine transform (3,3); a similarity if the points are collinear."""
    middle_q, middle_r = query.mean(axis=0), reference.mean(axis=0)
    centred = query - middle_q
    spread = centred.T @ centred
    if np.linalg.det(spread) <= 1e-9 * np.trace(spread) ** 2:
        return _fit_similarity(query, reference)
    linear = np.linalg.solve(spread, centred.T @ (reference - middle_r)).T
    return np.vstack([np.column_stack([linear, middle_r - linear @ middle_q]), [0, 0, 1]])


def _fit_homography(
    query: np.ndarray, reference: np.ndarray, near: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """MAGSAC++ over the matches in `near` (m,) bool; identity and no inliers if it finds none."""
    scale = _scale(_fit_affinity(query[near], reference[near]))
    threshold = INLIER_PX * max(1.0, scale)
    matrix, _ = cv2.findHomography(
        query[near], reference[near], cv2.USAC_MAGSAC, threshold, maxIters=500, confidence=0.99
    )
    if matrix is None:
        return np.eye(3), np.zeros(len(query), bool)
    return matrix, _residuals(matrix, query, reference) < INLIER_PX


def _scale(matrix: np.ndarray) -> float:
    """Linear scale of an affine transform."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def _residuals(matrix: np.ndarray, query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Distances (m,) between mapped query and reference points, in pixels of the coarser frame.

    NaN for points mapped to infinity; they compare false and are never inliers.
    """
    sent = query @ matrix[:, :2].T + matrix[:, 2]
    depth = sent[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = ((sent[:, :2] / depth[:, None] - reference) ** 2).sum(axis=1)
        return np.sqrt(squared / np.maximum(abs(np.linalg.det(matrix) / depth**3), 1))
