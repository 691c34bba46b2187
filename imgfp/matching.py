"""Which keypoints of two pictures are the same, and which map between the pictures they agree on.

A query may be mirrored, and its brightness inverted, in whole (a negative) or in part (solarised).
Both only permute a SIFT descriptor, so all four readings of a pair are compared from the same bytes.
"""

from __future__ import annotations

import numpy as np

from imgfp.geometry import Verification, best_fit, similarity_votes


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


def first_at_each_position(
    query_keypoints: np.ndarray, reference_keypoints: np.ndarray, pairs: np.ndarray
) -> list[int]:
    """Rows of `pairs` left when each rounded position, on either side, may be used once."""
    places = [
        map(tuple, np.rint(keypoints[pairs[:, side], :2]).astype(np.int64).tolist())
        for side, keypoints in enumerate((query_keypoints, reference_keypoints))
    ]
    used: tuple[set, set] = (set(), set())
    kept = []
    for row, (here, there) in enumerate(zip(*places, strict=True)):
        if here not in used[0] and there not in used[1]:
            used[0].add(here)
            used[1].add(there)
            kept.append(row)
    return kept


def verify(
    query_keypoints: np.ndarray,
    reference_keypoints: np.ndarray,
    *,
    mirrored: bool = False,
    inverted: np.ndarray | None = None,
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
    if inverted is not None:
        query[:, 3] += np.pi * inverted
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
