# SPDX-License-Identifier: AGPL-3.0-or-later
"""Matching of SIFT descriptors: nearest neighbours, ratio test, putative and guided matches.

A query may be mirrored, and its contrast reversed, in whole (a negative) or in part (solarised).
Both only permute the entries of a SIFT descriptor, so that all four variants of the query are
matched from the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgfp.geometry import local_areas, project
from imgfp.sift import MIRROR, REVERSE

# Mirroring and contrast reversal form a group of four that moves every entry of a descriptor: 32
# orbits.
_LEADERS = np.array(
    [i for i in range(128) if i == min(i, MIRROR[i], REVERSE[i], MIRROR[REVERSE[i]])]
)
_ORBITS = np.stack([_LEADERS, MIRROR[_LEADERS], REVERSE[_LEADERS], MIRROR[REVERSE[_LEADERS]]])
_SIGNS = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], np.float32)

#: Largest squared distance of RootSIFT bytes at which two descriptors may show the same patch under
#: edits (the 2021 system's rule for whole images is a mean of 8000; unrelated patches are about
#: 45000 apart).
MAX_SQUARED_DISTANCE = 30_000
#: Guided matches: largest distance from the predicted position in frame pixels, largest difference
#: of the angles in degrees, and largest ratio of the scales.
_GUIDED_PX, _GUIDED_DEG, _GUIDED_SCALE = 8.0, 25, 1.6


def variant_spectrum(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (n,128) uint8 -> (4,n,32) float32 for `nearest_two`: their Fourier transform over
    the group of mirroring and contrast reversal, computed once per image.

    The four blocks are sums and differences of each entry and its images under mirroring, contrast
    reversal and both. Products of equal blocks give the products of all four variants by changes of
    sign alone, at the cost of one.
    """
    return np.einsum("kg,ngo->kno", _SIGNS, descriptors[:, _ORBITS].astype(np.float32))


@dataclass(frozen=True)
class Nearest:
    """The two nearest reference keypoints of every query keypoint, for four variants of the query.

    Axis 0: the query as it is, mirrored. Axis 1: its contrast as it is, reversed. index (2,2,n)
    int64: row of the nearest; first, second (2,2,n) float32: squared distances of the nearest and
    the second nearest (inf if there is only one reference keypoint); mutual (2,2,n) bool: no query
    keypoint is nearer to that reference keypoint.
    """

    index: np.ndarray
    first: np.ndarray
    second: np.ndarray
    mutual: np.ndarray


def nearest_two(query: np.ndarray, reference: np.ndarray) -> Nearest:
    """The two nearest neighbours in all four variants; query (4,n,32), reference (4,m,32) of
    `variant_spectrum`, m >= 1. The distances are exact."""
    n, m = query.shape[1], reference.shape[1]
    norms = [np.einsum("kno,kno->n", side, side) / 4 for side in (query, reference)]
    index = np.empty((4, n), np.int64)
    first, second = np.empty((4, n), np.float32), np.empty((4, n), np.float32)
    column = np.full((4, m), np.inf, np.float32)
    halved = -0.5 * query
    # Blocks of rows small enough that the temporaries stay in the cache and their memory is reused.
    step = max(8, 24_000 // m)
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        count = np.arange(rows.stop - start)
        blocks = [q[rows] @ r.T for q, r in zip(halved, reference, strict=True)]
        blocks[0] += norms[0][rows, None] + norms[1]
        plain, turned = blocks[0] + blocks[1], blocks[0] - blocks[1]
        plain_2, turned_2 = blocks[2] + blocks[3], blocks[2] - blocks[3]
        variants = (plain + plain_2, plain - plain_2, turned + turned_2, turned - turned_2)
        for variant, distances in enumerate(variants):
            nearest = distances.argmin(axis=1)
            index[variant, rows] = nearest
            first[variant, rows] = distances[count, nearest]
            np.minimum(column[variant], distances.min(axis=0), out=column[variant])
            distances[count, nearest] = np.inf
            second[variant, rows] = distances.min(axis=1)
    mutual = first <= np.take_along_axis(column, index, axis=1)
    shape = (2, 2, n)
    return Nearest(
        index.reshape(shape), first.reshape(shape), second.reshape(shape), mutual.reshape(shape)
    )


def ratio_matches(nearest: Nearest, variant: tuple[int, int], ratio: float) -> np.ndarray:
    """Matches (k,2) int64 of one variant by the ratio test, rows of query and reference in query
    order: the second nearest is more than `ratio` times as far as the nearest, in squared distance
    (1.8 is Lowe's 0.745). A single reference keypoint has no second nearest and gives no match."""
    kept = nearest.first[variant] * ratio < nearest.second[variant]
    kept &= np.isfinite(nearest.second[variant])
    rows = np.flatnonzero(kept)
    return np.stack([rows, nearest.index[variant][rows]], axis=1)


def first_at_each_position(
    query_keypoints: np.ndarray, reference_keypoints: np.ndarray, pairs: np.ndarray
) -> list[int]:
    """Rows of `pairs` (m,2) that remain if each position, rounded to whole pixels, is used once per
    image; the first match wins. Keypoints (n,>=2): x, y first, so that their unit matters."""
    positions = [
        map(tuple, np.rint(keypoints[pairs[:, side], :2]).astype(np.int64).tolist())
        for side, keypoints in enumerate((query_keypoints, reference_keypoints))
    ]
    used: tuple[set, set] = (set(), set())
    kept = []
    for row, (here, there) in enumerate(zip(*positions, strict=True)):
        if here not in used[0] and there not in used[1]:
            used[0].add(here)
            used[1].add(there)
            kept.append(row)
    return kept


def tentative_matches(
    nearest: Nearest, mirrored: bool, *, ratio: float = 1.15, at_most: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Putative matches for `estimation.estimate_homography`: mutual nearest neighbours, of either
    contrast, that pass a loose ratio test, because geometry decides next.

    Returns (k,2) rows of query and reference, lowest ratio first, and (k,) bool: the
    contrast-reversed variant is the nearer one. ratio: second over first squared distance; at_most:
    matches kept.
    """
    first, second = nearest.first[int(mirrored)], nearest.second[int(mirrored)]
    better = first.argmin(axis=0)
    rows = np.arange(len(better))
    near, far = first[better, rows], first[1 - better, rows]
    index = nearest.index[int(mirrored), better, rows]
    # The nearest of the other contrast competes too, unless it is the same reference keypoint.
    rival = np.where(nearest.index[int(mirrored), 1 - better, rows] == index, np.inf, far)
    rival = np.minimum(rival, second[better, rows])
    kept = nearest.mutual[int(mirrored), better, rows] & (near * ratio < rival)
    order = np.flatnonzero(kept)
    order = order[np.argsort(near[order] / rival[order], kind="stable")][:at_most]
    return np.stack([order, index[order]], axis=1), better[order] == 1


def guided_matches(
    query: tuple[np.ndarray, np.ndarray],
    reference: tuple[np.ndarray, np.ndarray],
    homography: np.ndarray,
    *,
    mirrored: bool,
    query_px: float = 1.0,
    reference_px: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Matches (k,2) that a rough homography, query -> reference, predicts, and (k,) bool:
    contrast-reversed.

    query, reference: keypoints (n,4) and descriptors (n,128) of each. A match must lie within 8
    pixels of the coarser frame of the predicted position, with an angle within 25 degrees and a
    scale within a factor of 1.6 of the predicted ones, and be mutual nearest among such. There is
    no ratio test: repeated patterns are told apart by their position. query_px, reference_px: see
    `estimate_homography`.
    """
    (query_keypoints, query_bytes), (reference_keypoints, reference_bytes) = query, reference
    here = query_keypoints[:, :2].astype(np.float64)
    angle = query_keypoints[:, 3]
    sent = project(homography, here)
    ahead = project(homography, here + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    heading = np.arctan2(*(ahead - sent).T[::-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(abs(local_areas(homography, here)))
    reach_px = _GUIDED_PX * np.maximum(reference_px, scale * query_px)
    i, j = _near(sent, reference_keypoints[:, :2], reach_px)
    turn = np.cos(heading[i] - reference_keypoints[j, 3])
    stretch = abs(np.log(reference_keypoints[j, 2] / (query_keypoints[i, 2] * scale[i])))
    fits = (abs(turn) > np.cos(np.radians(_GUIDED_DEG))) & (stretch < np.log(_GUIDED_SCALE))
    i, j, contrast_reversed = i[fits], j[fits], turn[fits] < 0
    side = query_bytes[:, MIRROR] if mirrored else query_bytes
    variant = np.where(contrast_reversed[:, None], side[i][:, REVERSE], side[i]).astype(np.int32)
    distance = ((variant - reference_bytes[j].astype(np.int32)) ** 2).sum(axis=1)
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] < MAX_SQUARED_DISTANCE]
    # The best match of a query keypoint must also be the best of its partner.
    first_i = np.zeros(len(order), bool)
    first_j = np.zeros(len(order), bool)
    first_i[np.unique(i[order], return_index=True)[1]] = True
    first_j[np.unique(j[order], return_index=True)[1]] = True
    kept = order[first_i & first_j]
    return np.stack([i[kept], j[kept]], axis=1), contrast_reversed[kept]


def _near(sent: np.ndarray, known: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `sent` (n,2) and of `known` (m,2) that lie within `reach` (n,) of each other."""
    from scipy.spatial import cKDTree  # takes half a second, which the kernels of notebooks save

    low, high = known.min(axis=0, initial=np.inf), known.max(axis=0, initial=-np.inf)
    inside = np.flatnonzero(((sent > low - 1) & (sent < high + 1)).all(axis=1))
    if not len(inside):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    trees = cKDTree(sent[inside]), cKDTree(known)
    # Where perspective enlarges a corner without bound, the search range there is limited.
    furthest = min(reach[inside].max(), 2 * np.median(reach[inside]))
    found = trees[0].sparse_distance_matrix(trees[1], furthest, output_type="ndarray")
    i, j = inside[found["i"]], found["j"]
    close = found["v"] < reach[i]
    return i[close], j[close]
