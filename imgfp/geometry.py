"""Maps between two pictures that matched keypoints agree on, and which of them to refuse.

Points are (n,2) x, y; a map is a (3,3) homography of them; a similarity and an affine map are the
poorer kinds. Areas are negative where a map mirrors.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

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


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n,2) through a homography (3,3); where it sends them to infinity, inf or NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sent = points @ homography[:, :2].T + homography[:, 2]
        return sent[:, :2] / sent[:, 2:]


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


def local_areas(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """By how much (n,) the map scales areas at points (n,2); negative where it mirrors."""
    depth = points @ homography[2, :2] + homography[2, 2]
    with np.errstate(divide="ignore"):
        return np.linalg.det(homography) / depth**3


def camera_signs(homography: np.ndarray, overlap: np.ndarray) -> tuple[float, float, float]:
    """How far a map is from those that editing makes: tilt and shear in degrees, and perspective.

    tilt: of the picture's sides against the nearest side of the other: cropping, pasting, squeezing,
    mirroring and quarter turns leave none. shear: by how much sides stop being square to each other:
    a rotation leaves none. perspective: by how much the map enlarges one corner of the overlap more
    than another, 0 for none. A second photograph of a thing, taken from elsewhere, has all three.
    overlap (k,2): polygon in query pixels.
    """
    centre = overlap.mean(axis=0)
    depth = homography[2, :2] @ centre + homography[2, 2]
    sent = project(homography, centre[None])[0]
    sides = (homography[:2, :2] - np.outer(sent, homography[2, :2])) / depth
    angles = np.degrees(np.arctan2(sides[1], sides[0]))
    tilt = abs((angles + 45) % 90 - 45).max()
    shear = abs((angles[1] - angles[0]) % 180 - 90)
    depths = overlap @ homography[2, :2] + homography[2, 2]
    with np.errstate(divide="ignore"):
        perspective = abs(depths).max() / abs(depths).min() - 1
    return float(tilt), float(shear), float(perspective)


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
