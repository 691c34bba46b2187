"""The two nearest neighbours of every keypoint under four readings of the query, in one product.

A query may be mirrored, and its brightness inverted, in whole (a negative) or in part (solarised).
Both only permute a SIFT descriptor, so all four readings are compared from the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Where the entries of a descriptor go when its picture is mirrored, and when it is inverted.
_CELLS = np.arange(128).reshape(4, 4, 8)
MIRROR = _CELLS[::-1, :, [0, 7, 6, 5, 4, 3, 2, 1]].ravel()
INVERT = _CELLS[::-1, ::-1].ravel()
# Mirror and inversion make a group of four that moves every entry of a descriptor: 32 orbits.
_LEADERS = np.array([i for i in range(128) if i == min(i, MIRROR[i], INVERT[i], MIRROR[INVERT[i]])])
_ORBITS = np.stack([_LEADERS, MIRROR[_LEADERS], INVERT[_LEADERS], MIRROR[INVERT[_LEADERS]]])
_SIGNS = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], np.float32)


def spread_readings(descriptors: np.ndarray) -> np.ndarray:
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
    `spread_readings`, m >= 1."""
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
        readings = (plain + plain_2, plain - plain_2, turned + turned_2, turned - turned_2)
        for reading, distances in enumerate(readings):
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
    """Mutual matches for `verify`, inverted brightness or not: (k,2) rows, best ratio first, and
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
