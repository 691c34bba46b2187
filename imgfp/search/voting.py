# SPDX-License-Identifier: AGPL-3.0-or-later
"""From keypoint hits to candidate references. Pure functions on arrays and tables.

A search gives every query keypoint its k nearest reference keypoints. Each can vote for the image it belongs
to. The system of 2021 counts the single nearest; the other rules restrict the votes, because a keypoint with
many similar ones carries little information about the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Side of a cell, whose query keypoints share one vote per image, in pixels of a 300-px frame.
CELL_PX = 8


@dataclass(frozen=True)
class Votes:
    """Votes for reference images, most first, then least distance, then lowest row.

    reference_row (n,) int64, of a group of copies the member that was hit most; votes (n,) int64, of the whole group,
    higher is more alike; mean_squared_distance (n,) float64 of the hits that voted.
    """

    reference_row: np.ndarray
    votes: np.ndarray
    mean_squared_distance: np.ndarray


def vote(
    image_rows: np.ndarray,
    squared_distances: np.ndarray,
    *,
    ratio: float = 1.0,
    max_squared_distance: float = 0.0,
    hit_ids: np.ndarray | None = None,
    cells: np.ndarray | None = None,
    group_rows: np.ndarray | None = None,
) -> Votes:
    """Votes of the keypoints of one query for reference images.

    image_rows (q,k) int64: reference image of each neighbour, nearest first, -1: none (`index.search`
    and `index.rows_of_ids`); squared_distances (q,k). A keypoint votes once for every image among its
    neighbours, with its nearest hit there, subject to:
    ratio: a hit votes if the last neighbour is more than this many times as far, in squared distance (after
        Jegou, Douze and Schmid, "Exploiting descriptor distances for precise image search", 2011). Text,
        logos and repeated texture then have no votes, nor has an image of which the library holds k copies.
        1 or less: off.
    max_squared_distance: hits at least this far do not vote; 0: off.
    hit_ids (q,k): number of the reference keypoint hit; each counts only its nearest voter, so that one
        reference keypoint cannot collect the votes of a whole page. None: off.
    cells (q,) int64: the cell of each query keypoint; a cell has one vote per image. None: off.
    group_rows (q,k) int64: what names the group of copies of each neighbour's image; a group votes as one image,
        see `one_member_of_each_group`. None: every image is one by itself.

    Equal distances are resolved by the order of keypoints and neighbours.
    """
    _, groups, images, distances = _voting_hits(
        image_rows, squared_distances, ratio, max_squared_distance, hit_ids, cells, group_rows
    )
    return _count(groups, distances, images)


def voters(
    group_row: int,
    image_rows: np.ndarray,
    squared_distances: np.ndarray,
    *,
    ratio: float = 1.0,
    hit_ids: np.ndarray | None = None,
    cells: np.ndarray | None = None,
    group_rows: np.ndarray | None = None,
) -> np.ndarray:
    """The query keypoints (m,) int64 whose votes `vote` counts for a group of copies, or without group_rows for an
    image; the other arguments as there."""
    keypoints, groups, _, _ = _voting_hits(
        image_rows, squared_distances, ratio, 0.0, hit_ids, cells, group_rows
    )
    return keypoints[groups == group_row]


def _voting_hits(
    image_rows: np.ndarray,
    squared_distances: np.ndarray,
    ratio: float,
    max_squared_distance: float,
    hit_ids: np.ndarray | None,
    cells: np.ndarray | None,
    group_rows: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The hits (m,) that `vote` counts: query keypoint, group, image and squared distance of each."""
    image_rows, squared_distances = np.asarray(image_rows), np.asarray(squared_distances)
    if image_rows.ndim != 2 or image_rows.shape != squared_distances.shape:
        raise ValueError(
            f"expected image_rows and squared_distances of one shape (q,k), got {image_rows.shape} "
            f"and {squared_distances.shape}"
        )
    groups = image_rows if group_rows is None else np.asarray(group_rows)
    allowed = (image_rows >= 0) & np.isfinite(squared_distances)
    if ratio > 1:
        allowed &= squared_distances * ratio < squared_distances[:, -1:]
    if max_squared_distance:
        allowed &= squared_distances < max_squared_distance
    keypoint = np.nonzero(allowed)[0]
    rows, distances = groups[allowed], squared_distances[allowed]
    kept = _nearest_of_each(keypoint if cells is None else cells[keypoint], rows, distances)
    if hit_ids is not None:
        kept = kept[_nearest_of_each(hit_ids[allowed][kept], rows[kept], distances[kept])]
    return keypoint[kept], rows[kept], image_rows[allowed][kept], distances[kept]


def one_member_of_each_group(
    image_rows: np.ndarray, group_rows: np.ndarray, count: int
) -> np.ndarray:
    """Which neighbours of each keypoint remain where copies count as one picture: columns (q,count) int64, nearest
    first, -1 where there are fewer.

    image_rows, group_rows (q,k) int64: image of each neighbour, nearest first, -1: none, and what names its group.
    Of a group only the nearest image remains, with all its neighbours, so that the last of `count` neighbours is as
    far as it would be without the copies.
    """
    kept = image_rows >= 0
    every = np.arange(len(image_rows))
    for column in range(1, image_rows.shape[1]):
        first = (group_rows == group_rows[:, column, None]).argmax(axis=1)
        kept[:, column] &= image_rows[every, first] == image_rows[:, column]
    columns = np.argsort(~kept, axis=1, kind="stable")[:, :count]
    return np.where(np.take_along_axis(kept, columns, 1), columns, -1)


def cells(keypoints: np.ndarray) -> np.ndarray:
    """The cell (q,) int64 of each keypoint (q,>=2) of a query, x and y first, in a grid of CELL_PX with the
    query scaled to about 300 pixels."""
    low, high = keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0)
    step = max(float((high - low).min()), 1.0) * CELL_PX / 300
    x, y = np.floor((keypoints[:, :2] - low) / step).astype(np.int64).T
    return y * (1 << 20) + x


def accept_seed(
    votes: Votes,
    *,
    min_hits: int = 3,
    max_mean_squared_distance: float = 8000.0,
    min_hits_single: int = 5,
) -> bool:
    """Whether the system of 2021 proposes the first reference of `vote`.

    The reference needs more than `min_hits` votes, strictly more than the runner-up, and a mean squared distance
    under `max_mean_squared_distance`; if only one reference was hit at all, more than
    `min_hits_single` votes and the same distance.
    """
    hits = votes.votes
    if not len(hits) or not votes.mean_squared_distance[0] < max_mean_squared_distance:
        return False
    if len(hits) == 1:
        return bool(hits[0] > min_hits_single)
    return bool(hits[0] > min_hits and hits[0] > hits[1])


def _nearest_of_each(first: np.ndarray, second: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Positions, ascending, of the nearest of every pair (first, second), the earliest of equal ones."""
    order = np.lexsort((distances, second, first))
    first, second = first[order], second[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return np.sort(order[starts])


def _count(groups: np.ndarray, distances: np.ndarray, rows: np.ndarray) -> Votes:
    names, at, votes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(at, distances, len(names)) / np.maximum(votes, 1)
    images, image = np.unique(rows, return_inverse=True)
    members, hits = np.unique(at * len(images) + image, return_counts=True)
    # Of each group the member with most hits, then the lowest.
    best = members[np.lexsort((members, -hits, members // max(len(images), 1)))]
    first = np.unique(best // max(len(images), 1), return_index=True)[1]
    references = images[best[first] % max(len(images), 1)]
    order = np.lexsort((references, means, -votes))
    return Votes(references[order].astype(np.int64), votes[order].astype(np.int64), means[order])
