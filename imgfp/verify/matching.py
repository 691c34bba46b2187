"""The two nearest neighbours of every keypoint under four readings of the query, in one product.

A query may be mirrored, and its brightness inverted, in whole (a negative) or in part (solarised).
Both only permute a SIFT descriptor, so all four readings are compared from the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from imgfp.geometry import local_areas, project
from imgfp.sift import INVERT, MIRROR

# Mirror and inversion make a group of four that moves every entry of a descriptor: 32 orbits.
_LEADERS = np.array([i for i in range(128) if i == min(i, MIRROR[i], INVERT[i], MIRROR[INVERT[i]])])
_ORBITS = np.stack([_LEADERS, MIRROR[_LEADERS], INVERT[_LEADERS], MIRROR[INVERT[_LEADERS]]])
_SIGNS = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], np.float32)


def variant_spectrum(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (n,128) uint8 -> (4,n,32) float32, made once a picture for `nearest_two`.

    The four blocks are sums and differences over each entry and its twins under mirroring,
    inversion and both. Products of equal blocks then give the products of all four readings by
    signs alone, in the time of one.
    """
    return np.einsum("kg,ngo->kno", _SIGNS, descriptors[:, _ORBITS].astype(np.float32))


@dataclass(frozen=True)
class Nearest:
    """The two nearest reference keypoints of every query keypoint, for the four readings.

    Axis 0: the query read as it is, mirrored. Axis 1: its brightness as it is, inverted.
    index (2,2,n) int64; first, second (2,2,n) float32 squared distances (second is inf where there
    is one reference keypoint); mutual (2,2,n) bool: no query keypoint is nearer to that reference
    keypoint.
    """

    index: np.ndarray
    first: np.ndarray
    second: np.ndarray
    mutual: np.ndarray


def nearest_two(query: np.ndarray, reference: np.ndarray) -> Nearest:
    """Two nearest neighbours in all four readings; query (4,n,32), reference (4,m,32) of
    `variant_spectrum`, m >= 1."""
    n, m = query.shape[1], reference.shape[1]
    norms = [np.einsum("kno,kno->n", side, side) / 4 for side in (query, reference)]
    index = np.empty((4, n), np.int64)
    first, second = np.empty((4, n), np.float32), np.empty((4, n), np.float32)
    column = np.full((4, m), np.inf, np.float32)
    halved = -0.5 * query
    # So few rows at a time that the temporaries stay in the cache and the allocator reuses them.
    step = max(8, 24_000 // m)
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        count = np.arange(rows.stop - start)
        blocks = [q[rows] @ r.T for q, r in zip(halved, reference, strict=True)]
        blocks[0] += norms[0][rows, None] + norms[1]
        plain, turned = blocks[0] + blocks[1], blocks[0] - blocks[1]
        plain_2, turned_2 = blocks[2] + blocks[3], blocks[2] - blocks[3]
        variants = (plain + plain_2, plain - plain_2, turned + turned_2, turned - turned_2)
        for reading, distances in enumerate(variants):
            nearest = distances.argmin(axis=1)
            index[reading, rows] = nearest
            first[reading, rows] = distances[count, nearest]
            np.minimum(column[reading], distances.min(axis=0), out=column[reading])
            distances[count, nearest] = np.inf
            second[reading, rows] = distances.min(axis=1)
    mutual = first <= np.take_along_axis(column, index, axis=1)
    shape = (2, 2, n)
    return Nearest(
        index.reshape(shape), first.reshape(shape), second.reshape(shape), mutual.reshape(shape)
    )


def ratio_matches(nearest: Nearest, reading: tuple[int, int], ratio: float) -> np.ndarray:
    """Matches (k,2) of one reading by the ratio test alone, see `match`."""
    kept = nearest.first[reading] * ratio < nearest.second[reading]
    kept &= np.isfinite(nearest.second[reading])
    rows = np.flatnonzero(kept)
    return np.stack([rows, nearest.index[reading][rows]], axis=1)


def tentative_matches(
    nearest: Nearest, mirrored: bool, *, ratio: float = 1.15, at_most: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Mutual matches for `estimate_homography`, inverted brightness or not: (k,2) rows, best ratio first, and
    (k,) bool, True where the inverted reading was the nearer one.

    The ratio test is loose, because geometry decides next.
    """
    first, second = nearest.first[int(mirrored)], nearest.second[int(mirrored)]
    better = first.argmin(axis=0)
    rows = np.arange(len(better))
    near, far = first[better, rows], first[1 - better, rows]
    index = nearest.index[int(mirrored), better, rows]
    # The other reading's nearest rivals the match, unless it is the same reference keypoint.
    rival = np.where(nearest.index[int(mirrored), 1 - better, rows] == index, np.inf, far)
    rival = np.minimum(rival, second[better, rows])
    kept = nearest.mutual[int(mirrored), better, rows] & (near * ratio < rival)
    order = np.flatnonzero(kept)
    order = order[np.argsort(near[order] / rival[order], kind="stable")][:at_most]
    return np.stack([order, index[order]], axis=1), better[order] == 1


#: Squared distance of RootSIFT bytes up to which two descriptors may be the same patch under edits
#: (the seed's rule for whole pictures is a mean of 8000; unrelated patches lie about 45000 apart).
MAX_SQUARED_DISTANCE = 30_000


def guided_matches(
    query: tuple[np.ndarray, np.ndarray],
    reference: tuple[np.ndarray, np.ndarray],
    homography: np.ndarray,
    *,
    mirrored: bool,
    query_px: float = 1.0,
    reference_px: float = 1.0,
    reach: float = 8.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Matches (k,2) that a rough map from query to reference predicts, and (k,) bool: read inverted.

    query, reference: keypoints (n,4) and descriptors (n,128) of each. A pair must lie within
    `reach` pixels of the coarser frame of where the map sends it, turned by at most 25 degrees and
    scaled by at most 1.6 against it, and be each other's nearest such descriptors. There is no ratio
    test: a repeated pattern is told apart by its place. See `estimation.estimate_homography` for the pixels.
    """
    (from_query, described), (in_reference, known) = query, reference
    here = from_query[:, :2].astype(np.float64)
    angle = from_query[:, 3]
    sent = project(homography, here)
    ahead = project(homography, here + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    heading = np.arctan2(*(ahead - sent).T[::-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(abs(local_areas(homography, here)))
    reach_px = reach * np.maximum(reference_px, scale * query_px)
    i, j = _near(sent, in_reference[:, :2], reach_px)
    turn = np.cos(heading[i] - in_reference[j, 3])
    stretch = abs(np.log(in_reference[j, 2] / (from_query[i, 2] * scale[i])))
    fits = (abs(turn) > np.cos(np.radians(25))) & (stretch < np.log(1.6))
    i, j, contrast_reversed = i[fits], j[fits], turn[fits] < 0
    side = described[:, MIRROR] if mirrored else described
    read = np.where(contrast_reversed[:, None], side[i][:, INVERT], side[i]).astype(np.int32)
    distance = ((read - known[j].astype(np.int32)) ** 2).sum(axis=1)
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] < MAX_SQUARED_DISTANCE]
    # The best of a query keypoint must also be the best of its partner.
    first_i = np.zeros(len(order), bool)
    first_j = np.zeros(len(order), bool)
    first_i[np.unique(i[order], return_index=True)[1]] = True
    first_j[np.unique(j[order], return_index=True)[1]] = True
    kept = order[first_i & first_j]
    return np.stack([i[kept], j[kept]], axis=1), contrast_reversed[kept]


def _near(sent: np.ndarray, known: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `sent` (n,2) and of `known` (m,2) that lie within `reach` (n,) of each other."""
    low, high = known.min(axis=0, initial=np.inf), known.max(axis=0, initial=-np.inf)
    inside = np.flatnonzero(((sent > low - 1) & (sent < high + 1)).all(axis=1))
    if not len(inside):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    trees = cKDTree(sent[inside]), cKDTree(known)
    # Where a map in perspective enlarges a corner without end, that corner is searched less far.
    furthest = min(reach[inside].max(), 2 * np.median(reach[inside]))
    found = trees[0].sparse_distance_matrix(trees[1], furthest, output_type="ndarray")
    i, j = inside[found["i"]], found["j"]
    close = found["v"] < reach[i]
    return i[close], j[close]


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
