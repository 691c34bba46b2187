# SPDX-License-Identifier: AGPL-3.0-or-later
"""What do candidate recall, bytes and time become when every reference keeps fewer keypoints, and which should it keep?

    python -m imgfp.benchmarks.keypoint_budget LIBRARY RUN TRUTH --budgets 100 200 300 500 0 --rules strongest radius

The library must hold all keypoints (`sift_max_keypoints: 0`), which are stored strongest first: every budget is a
choice among them. The index of the chosen ones is built as planned for their number, and the queries of a run that
are copies are searched in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imgfp import sift, store
from imgfp.benchmarks.index_scale import VARIANTS, copies, rank_of
from imgfp.search import index, propose

#: Bytes of a stored keypoint: x, y, size, angle and a descriptor.
FEATURE_BYTES = 4 * 4 + 128
NEIGHBOURS = 11
#: Rows and columns of the grid of `by_cells`.
_GRID = 8
#: Squares are small enough when at most this share more points than asked for are outside of those of others.
_TOLERANCE = 0.1


def strongest(points: np.ndarray, count: int) -> np.ndarray:
    """The first `count` rows of points, which are ordered by strength."""
    return np.arange(count)


def by_cells(points: np.ndarray, count: int) -> np.ndarray:
    """Rows, ascending, of the strongest point of every cell of a grid, then the second strongest of every cell, and so
    on up to `count`; in the last turn the strongest."""
    extent = np.maximum(np.ptp(points, axis=0), 1)
    cells = (points - points.min(axis=0)) / extent * _GRID
    column, row = np.minimum(cells, _GRID - 1).astype(np.int64).T
    cell = row * _GRID + column
    by_cell = np.argsort(cell, kind="stable")
    turn = np.empty(len(points), np.int64)
    turn[by_cell] = np.arange(len(points)) - np.searchsorted(cell[by_cell], cell[by_cell])
    return np.sort(np.argsort(turn, kind="stable")[:count])


def by_squares(points: np.ndarray, count: int) -> np.ndarray:
    """Rows, ascending, of the `count` strongest points of which none lies in the square around a stronger one, with
    squares about as large as this allows (suppression via square covering: Bailo et al., "Efficient adaptive
    non-maximal suppression algorithms for homogeneous spatial keypoint distribution", 2018). Where too few places
    differ, the strongest others are added."""
    low, high = 0.0, float(np.ptp(points, axis=0).max()) + 1
    best = _uncovered(points, low)
    while len(best) > count * (1 + _TOLERANCE) and high - low > 1:
        side = (low + high) / 2
        found = _uncovered(points, side)
        if len(found) < count:
            high = side
        else:
            low, best = side, found
    others = np.setdiff1d(np.arange(len(points)), best)
    return np.sort(np.concatenate([best, others])[:count])


def _uncovered(points: np.ndarray, side: float) -> np.ndarray:
    left, kept = np.arange(len(points)), []
    while len(left):
        kept.append(left[0])
        left = left[np.abs(points[left] - points[left[0]]).max(axis=1) > side / 2]
    return np.array(kept, np.int64)


#: Choices of `count` among the positions (n,2) of the keypoints of an image, strongest first, n > count: the rows kept.
CHOICES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "strongest": strongest,
    "radius": sift.spread,
    "cells": by_cells,
    "squares": by_squares,
}


class Features:
    """Keypoints (N,4), descriptors (N,128) and image ids of a library of all keypoints; image i owns the rows from
    offsets[i] to offsets[i + 1]. Raises StoreError where the library was made with a budget."""

    def __init__(self, library: store.Library) -> None:
        paths = store.shards(library.local_features, ".h5")
        for path in paths:
            if store.describe(path)["settings"].get("max_keypoints"):
                raise store.StoreError(
                    f"{store.show(path)}: was made with sift_max_keypoints; run the library again with 0"
                )
        records = [store.load(path) for path in paths]
        self.image_ids = [image_id for record in records for image_id in record.image_ids]
        self.keypoints = np.concatenate([record.keypoints for record in records])
        self.descriptors = np.concatenate([record.descriptors for record in records])
        counts = np.concatenate([np.diff(record.offsets) for record in records])
        self.offsets = np.concatenate([[0], np.cumsum(counts)])

    def chosen(self, choice: str, budget: int) -> list[np.ndarray]:
        """The rows that each image keeps; budget 0: all."""
        return [
            start + kept(self.keypoints[start:stop], choice, budget)
            for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True)
        ]


def kept(keypoints: np.ndarray, choice: str, budget: int) -> np.ndarray:
    """The rows, ascending, that an image keeps of its keypoints (n,>=2); choice: a key of CHOICES, budget 0: all."""
    if not 0 < budget < len(keypoints):
        return np.arange(len(keypoints))
    return CHOICES[choice](keypoints[:, :2], budget)


def measure(
    features: Features,
    queries: Sequence[tuple[np.ndarray, np.ndarray, int]],
    choice: str,
    budget: int,
    query_budget: int,
) -> dict[str, Any]:
    """One row of recall, size and time. choice: a key of CHOICES; budget, query_budget: keypoints of a reference and of
    a query, 0: all; queries: keypoints, descriptors and the row of the true reference."""
    clock = time.process_time()
    chosen = features.chosen(choice, budget)
    choosing = time.process_time() - clock
    images, counts = len(chosen), np.array([len(rows) for rows in chosen])
    clock = time.process_time()
    ids = index.ids_of(np.arange(images), counts)
    searched = index.build(features.descriptors[np.concatenate(chosen)], "local", ids=ids)
    building = time.process_time() - clock
    rows = [kept(k, choice, query_budget) for k, _, _ in queries]
    limited = [(k[at], d[at], true) for (k, d, true), at in zip(queries, rows, strict=True)]
    clock = time.process_time()
    with index.one_thread():
        rank = np.array([_rank(searched, *query) for query in limited])
    searching = time.process_time() - clock
    return {
        "rule": choice if budget or query_budget else "all",
        "budget": budget,
        "keypoints": counts.mean(),
        "query_keypoints": np.mean([len(at) for at in rows]),
        "first": np.mean(rank == 0),
        "among_ten": np.mean(rank >= 0),
        "feature_bytes": FEATURE_BYTES * counts.mean(),
        "index_bytes": sum(part.data.nbytes for part in searched.parts) / images,
        "choice_cpu_ms": 1e3 * choosing / images,
        "build_cpu_ms": 1e3 * building / images,
        "search_cpu_ms": 1e3 * searching / len(queries),
    }


def _rank(searched: index.Index, keypoints: np.ndarray, descriptors: np.ndarray, true: int) -> int:
    found = propose.nearest_keypoints(
        searched, descriptors, variants=VARIANTS, neighbours=NEIGHBOURS, nprobe=0
    )
    return rank_of(found, keypoints, true)


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument(
        "--budgets", nargs="+", type=int, default=[100, 200, 300, 500, 0], help="0: all"
    )
    parser.add_argument("--rules", nargs="+", choices=CHOICES, default=["strongest", "radius"])
    parser.add_argument("--query-budget", type=int, default=0, help="keypoints of a query, 0: all")
    parser.add_argument("--queries", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    features = Features(store.Library(asked.library))
    queries = copies(
        store.Run(asked.run), asked.truth, features.image_ids, asked.queries, asked.seed
    )
    print(
        f"{len(features.image_ids):,} references, {len(queries)} queries; bytes and time per image"
    )
    rows = []
    for budget in asked.budgets:
        for choice in asked.rules if budget or asked.query_budget else asked.rules[:1]:
            rows.append(measure(features, queries, choice, budget, asked.query_budget))
            print(pd.DataFrame(rows).round(4).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
