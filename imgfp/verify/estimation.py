"""Which keypoints of two pictures are the same, and which map between the pictures they agree on.

A query may be mirrored, and its brightness inverted, in whole (a negative) or in part (solarised).
Both only permute a SIFT descriptor, so all four readings of a pair are compared from the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from imgfp.geometry import local_areas, project
from imgfp.verify.matching import first_at_each_position


def match(
    query_descriptors: np.ndarray,
    reference_descriptors: np.ndarray,
    query_keypoints: np.ndarray,
    reference_keypoints: np.ndarray,
    *,
    ratio: float = 1.8,
    dedup: bool = True,
    mutual: bool = False,
) -> np.ndarray:
    """Matches of one pair of pictures: (k,2) int64 rows of query and reference, in query order.

    Descriptors (n,128), (m,128) uint8; keypoints (n,>=2), (m,>=2), x and y first. A query keypoint
    is matched to its nearest reference keypoint when the second nearest is more than `ratio` times
    as far, in *squared* distance (1.8 is Lowe's 0.745; 1 switches the test off).
    dedup: one match per position rounded to whole pixels, on either side, the first wins; so the
    keypoints' unit matters. mutual: the query keypoint must also be the reference keypoint's
    nearest. One reference keypoint has no second nearest and matches nothing.
    """
    if len(query_descriptors) == 0 or len(reference_descriptors) < 2:
        return np.empty((0, 2), np.int64)
    distances = _squared_distances(query_descriptors, reference_descriptors)
    rows = np.arange(len(distances))
    nearest = distances.argmin(axis=1)
    first = distances[rows, nearest]
    kept = np.ones(len(rows), bool)
    if mutual:
        kept &= distances.argmin(axis=0)[nearest] == rows
    distances[rows, nearest] = np.inf
    kept &= first * ratio < distances.min(axis=1)
    pairs = np.stack([rows, nearest], axis=1)[kept]
    if not dedup:
        return pairs
    return pairs[first_at_each_position(query_keypoints, reference_keypoints, pairs)]


def count_matches_seed(
    query_descriptors: np.ndarray,
    reference_descriptors: np.ndarray,
    mirrored_reference_descriptors: np.ndarray,
    query_keypoints: np.ndarray,
    reference_keypoints: np.ndarray,
    *,
    ratio: float = 1.8,
) -> tuple[int, int]:
    """Number of matches with the reference and with its mirror image; the seed's score is the larger.

    mirrored_reference_descriptors (m,128): of `sift.mirror_descriptors`, same row order. See `match`.
    """
    counts = [
        len(match(query_descriptors, side, query_keypoints, reference_keypoints, ratio=ratio))
        for side in (reference_descriptors, mirrored_reference_descriptors)
    ]
    return counts[0], counts[1]


def _squared_distances(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n,m) float32, exact: sums of products of bytes of unit-like vectors stay below 2**24."""
    query, reference = query.astype(np.float32), reference.astype(np.float32)
    norms = [np.einsum("ij,ij->i", side, side) for side in (query, reference)]
    return norms[0][:, None] + norms[1] - 2 * (query @ reference.T)


def estimate_homography(
    query_keypoints: np.ndarray,
    reference_keypoints: np.ndarray,
    *,
    mirrored: bool = False,
    contrast_reversed: np.ndarray | None = None,
    query_px: float = 1.0,
    reference_px: float = 1.0,
    tolerance: float = 4.0,
) -> Verification:
    """The map from query to reference that most matches agree on.

    Keypoints (m,4), row i of both is match i: x, y, size, angle in radians. mirrored: look for maps
    that turn the picture over. inverted (m,) bool: the query keypoint was read with inverted
    brightness, which turns its angle by half a circle. query_px, reference_px: pixels of each
    picture per pixel of the frame that the keypoints were found in. tolerance: how far, in pixels
    of the coarser of the two frames, an inlier may lie from where the map sends it.

    One match fixes a similarity by its place, size and angle, so every match proposes one and all
    matches vote (the weak geometric consistency of Jegou et al. 2008, as exact votes): this needs
    no luck and finds 3 agreeing matches among 100. The winner's voters then fix an affinity and, if
    there are 8, a homography by OpenCV's MAGSAC++ (Barath et al. 2020), which has a fixed seed.
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
    voters = similarity_votes(query, reference, 5 * tolerance)
    found = best_fit(query[:, :2], reference[:, :2], voters, tolerance)
    flip = np.diag([-1.0 if mirrored else 1.0, 1.0, 1.0])
    scale_q, scale_r = np.diag([1 / query_px] * 2 + [1]), np.diag([reference_px] * 2 + [1])
    if found.homography is None:
        return found
    homography = scale_r @ found.homography @ flip @ scale_q
    return Verification(homography / homography[2, 2], found.inliers, found.model)


#: Why a map between two pictures is not believed, in the order of the tests.
REFUSALS = {
    "too_few": "fewer than three matches agree on one map",
    "collapsed": "the matches sit on fewer than three places of one of the pictures",
    "all_on_a_line": "the matches lie on a line, which fixes no map",
    "folded": "the map turns part of the overlap over or sends it to infinity",
    "extreme_scale": "one picture would be shrunk to less than a twentieth of the other",
    "squeezed": "one direction would be stretched five times more than another",
    "extreme_perspective": "one corner of the overlap would be scaled five times more than another",
}


@dataclass(frozen=True)
class Verification:
    """A map from query to reference that matches agree on, or the reason why there is none.

    homography (3,3) float64, query pixel -> reference pixel, None when refused; inliers (m,) bool
    over the matches given; model "similarity", "affine", "homography" or "" (none); refused "" or
    a key of REFUSALS.
    """

    homography: np.ndarray | None
    inliers: np.ndarray
    model: str = ""
    refused: str = ""


def similarity_votes(query: np.ndarray, reference: np.ndarray, tolerance: float) -> np.ndarray:
    """(m,) bool: the matches that agree with the similarity proposed by the best of them."""
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
    reach = tolerance * np.maximum(scale, 1)
    votes = off_x**2 + off_y**2 < (reach**2)[:, None]
    size = np.log(scale)
    votes &= abs(size[:, None] - size) < np.log(1.7)
    turns = np.stack([cosine, sine], axis=1)
    votes &= turns @ turns.T > 0.87  # 30 degrees
    return votes[votes.sum(axis=1).argmax()]


def best_fit(
    query: np.ndarray, reference: np.ndarray, voters: np.ndarray, tolerance: float
) -> Verification:
    """The richest map that the voters support and no test refuses; points (m,2) in frame pixels."""
    if voters.sum() < 3:
        return Verification(None, voters, refused="too_few")
    matrix, inliers = _shrink(query, reference, voters, tolerance, _fit_similarity)
    fits = [(matrix, inliers, "similarity")]
    if inliers.sum() >= 5:
        matrix, inliers = _shrink(query, reference, inliers, tolerance, _fit_affinity)
        fits.append((matrix, inliers, "affine"))
    if inliers.sum() >= 8:
        near = _residuals(matrix, query, reference) < 5 * tolerance
        fits.append((*_fit_homography(query, reference, near, tolerance), "homography"))
    # A richer map must be worth its freedom: it explains more matches, or as many as finely.
    reasons, best = [], None
    for matrix, inliers, model in fits:
        reasons.append(refusal(matrix, query[inliers], reference[inliers]))
        if not reasons[-1] and (best is None or inliers.sum() >= best.inliers.sum()):
            best = Verification(matrix, inliers, model)
    return best or Verification(None, voters, refused=reasons[0])


def _shrink(query, reference, inliers, tolerance, fit) -> tuple[np.ndarray, np.ndarray]:
    """Refit on the inliers of ever smaller tolerances, so that a rough start can grow."""
    matrix = fit(query[inliers], reference[inliers])
    for factor in (3.0, 1.5, 1.0):
        inliers = _residuals(matrix, query, reference) < factor * tolerance
        if inliers.sum() < 3:
            break
        matrix = fit(query[inliers], reference[inliers])
    return matrix, inliers


def _fit_similarity(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Least squares (3,3) of a turn, a scale and a shift, as complex numbers."""
    at_q, at_r = (side[:, 0] + 1j * side[:, 1] for side in (query, reference))
    centred = at_q - at_q.mean()
    power = (abs(centred) ** 2).sum()
    linear = (centred.conj() * (at_r - at_r.mean())).sum() / power if power else 1.0 + 0j
    shift = at_r.mean() - linear * at_q.mean()
    return np.array(
        [[linear.real, -linear.imag, shift.real], [linear.imag, linear.real, shift.imag], [0, 0, 1]]
    )


def _fit_affinity(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Least squares (3,3) of an affine map; of a similarity where the points lie on a line."""
    middle_q, middle_r = query.mean(axis=0), reference.mean(axis=0)
    centred = query - middle_q
    spread = centred.T @ centred
    if np.linalg.det(spread) <= 1e-9 * np.trace(spread) ** 2:
        return _fit_similarity(query, reference)
    linear = np.linalg.solve(spread, centred.T @ (reference - middle_r)).T
    return np.vstack([np.column_stack([linear, middle_r - linear @ middle_q]), [0, 0, 1]])


def _fit_homography(query, reference, near, tolerance) -> tuple[np.ndarray, np.ndarray]:
    """MAGSAC++ over the matches in `near`; identity and no inliers where it finds none."""
    threshold = tolerance * max(1.0, _scale(_fit_affinity(query[near], reference[near])))
    matrix, _ = cv2.findHomography(
        query[near], reference[near], cv2.USAC_MAGSAC, threshold, maxIters=500, confidence=0.99
    )
    if matrix is None:
        return np.eye(3), np.zeros(len(query), bool)
    return matrix, _residuals(matrix, query, reference) < tolerance


def _scale(matrix: np.ndarray) -> float:
    """Linear scale of an affine map."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def _residuals(matrix: np.ndarray, query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Distances (m,) between mapped query and reference points, in pixels of the coarser frame.

    NaN where a point is sent to infinity, which is nearer than nothing.
    """
    sent = query @ matrix[:, :2].T + matrix[:, 2]
    depth = sent[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = ((sent[:, :2] / depth[:, None] - reference) ** 2).sum(axis=1)
        return np.sqrt(squared / np.maximum(abs(np.linalg.det(matrix) / depth**3), 1))


def refusal(homography: np.ndarray, query: np.ndarray, reference: np.ndarray) -> str:
    """Why a map that does not mirror is not believed, a key of REFUSALS, or "".

    query, reference (k,2): the inliers in the pixels of their frames.
    """
    if len(query) < 3 or not np.isfinite(homography).all():
        return "too_few"
    for points in (query, reference):
        places = np.rint(points / 3) @ [1.0, 1e6]  # one number a cell of three pixels
        if len(np.unique(places)) < 3:
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
