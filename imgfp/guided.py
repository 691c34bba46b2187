"""More matches where a map says they must be."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from imgfp.geometry import local_areas, project
from imgfp.readings import INVERT, MIRROR

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
    test: a repeated pattern is told apart by its place. See `matching.verify` for the pixels.
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
    i, j, inverted = i[fits], j[fits], turn[fits] < 0
    side = described[:, MIRROR] if mirrored else described
    read = np.where(inverted[:, None], side[i][:, INVERT], side[i]).astype(np.int32)
    distance = ((read - known[j].astype(np.int32)) ** 2).sum(axis=1)
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] < MAX_SQUARED_DISTANCE]
    # The best of a query keypoint must also be the best of its partner.
    first_i = np.zeros(len(order), bool)
    first_j = np.zeros(len(order), bool)
    first_i[np.unique(i[order], return_index=True)[1]] = True
    first_j[np.unique(j[order], return_index=True)[1]] = True
    kept = order[first_i & first_j]
    return np.stack([i[kept], j[kept]], axis=1), inverted[kept]


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
