# SPDX-License-Identifier: AGPL-3.0-or-later
"""Does the index propose the right references when the library has many more keypoints?

    python -m imgfp.benchmarks.index_scale LIBRARY RUN TRUTH --keypoints 10000000 --storage auto IVF8192,SQ8_direct

The keypoints of a library are joined by jittered copies of themselves up to the number asked for. A copy is
about as far from its keypoint as the eleventh nearest keypoint of another photograph is, and copies of many
images are mixed, so that no added image is a copy of another. Every storage is then searched with the copies among
the queries of a run; exact search, for as many queries as `--exact` says, is the yardstick.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.search import index, propose
from imgfp.store import formats

#: Standard deviation of the jitter, per dimension of RootSIFT x 255.
JITTER = 14.0
#: Keypoints of each added image.
IMAGE_KEYPOINTS = 400
RULES: dict[str, Any] = {
    "candidates": 10,
    "rule": "robust",
    "ratio": 1.5,
    "min_hits": 3,
    "min_hits_single": 5,
    "max_mean_squared_distance": 8000.0,
}
VARIANTS = ["plain", "mirrored", "contrast_reversed"]
_STEP = 500_000


class Keypoints:
    """Descriptors of a library and jittered copies of them, made again whenever they are read."""

    def __init__(self, library: store.Library, total: int, seed: int) -> None:
        records = [store.load(path) for path in store.shards(library.local_features, ".h5")]
        self.real = np.concatenate([record.descriptors for record in records])
        self.image_ids = [image_id for record in records for image_id in record.image_ids]
        counts = np.concatenate([np.diff(record.offsets) for record in records])
        added = max(0, total - len(self.real))
        counts = np.concatenate([counts, np.full(-(-added // IMAGE_KEYPOINTS), IMAGE_KEYPOINTS)])
        self.ids = index.ids_of(np.arange(len(counts)), counts)[: len(self.real) + added]
        self._seed = seed

    def __len__(self) -> int:
        return len(self.ids)

    def pieces(self) -> Iterator[np.ndarray]:
        """All descriptors (n,128) uint8, some at a time; the real ones first."""
        for start in range(0, len(self), _STEP):
            stop = min(start + _STEP, len(self))
            real = self.real[start:stop]
            rng = np.random.default_rng([self._seed, start])
            rows = rng.integers(0, len(self.real), stop - start - len(real))
            yield np.concatenate([real, jittered(self.real[rows], rng)])

    def sample(self, count: int) -> np.ndarray:
        """About `count` descriptors of the whole."""
        rng = np.random.default_rng(self._seed)
        share = min(1.0, count / len(self))
        return np.concatenate([piece[rng.random(len(piece)) < share] for piece in self.pieces()])


def jittered(descriptors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Descriptors (n,128) uint8 with noise, of the same norm."""
    noisy = descriptors + rng.normal(0, JITTER, descriptors.shape).astype(np.float32)
    noisy = np.clip(noisy, 0, None)
    noisy *= 255 / np.maximum(np.linalg.norm(noisy, axis=1, keepdims=True), 1)
    return np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)


def measure(
    keypoints: Keypoints,
    queries: Sequence[tuple[np.ndarray, np.ndarray, int]],
    storage: str,
    nprobes: Sequence[int],
    neighbours: int,
) -> list[dict[str, Any]]:
    """Rows of size, build time, search time and recall of one storage; queries: keypoints, descriptors and the
    row of the true reference."""
    chosen = index.resolve(storage, len(keypoints), "local")
    clock = time.process_time()
    trained = index.train(chosen, keypoints.sample(index.training_size(chosen) or 1))
    training = time.process_time() - clock
    clock, parts, start = time.process_time(), [], 0
    for piece in keypoints.pieces():
        ids = keypoints.ids[start : start + len(piece)]
        data = b"".join(bytes(part) for part in index.encode(trained, piece, ids))
        parts.append(index.open_part(data, trained))
        start += len(piece)
    merged = b"".join(bytes(part) for part in index.merge(parts))
    building = time.process_time() - clock
    del parts
    searched = index.Index(
        trained, [index.open_part(merged, trained)], index.nprobe_for(trained.nlist, "local")
    )
    rows = []
    with index.one_thread():
        for nprobe in nprobes:
            clock = time.process_time()
            rank = [
                rank_of(
                    propose.nearest_keypoints(
                        searched, d, variants=VARIANTS, neighbours=neighbours, nprobe=nprobe
                    ),
                    k,
                    true,
                )
                for k, d, true in queries
            ]
            seconds = time.process_time() - clock
            count = sum(len(d) for _, d, _ in queries)
            rows.append(
                {
                    "storage": chosen,
                    "nprobe": nprobe or searched.nprobe,
                    "bytes_per_keypoint": len(merged) / len(keypoints),
                    "train_cpu_s": training,
                    "build_cpu_us_per_keypoint": 1e6 * building / len(keypoints),
                    "search_cpu_ms_per_500_keypoints": 1e3 * seconds / count * 500,
                    "first": float(np.mean([r == 0 for r in rank])),
                    "among_ten": float(np.mean([0 <= r < 10 for r in rank])),
                    "resident_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                }
            )
    return rows


def exact(
    keypoints: Keypoints,
    queries: Sequence[tuple[np.ndarray, np.ndarray, int]],
    neighbours: int,
) -> dict[str, Any]:
    """Recall of exact search."""
    descriptors = np.concatenate([d for _, d, _ in queries])
    found: dict[str, list[propose.Neighbours]] = {name: [] for name in VARIANTS}
    start = 0
    for piece in keypoints.pieces():
        ids = keypoints.ids[start : start + len(piece)]
        searched = index.build(piece, "local", "Flat", ids=ids)
        nearest = propose.nearest_keypoints(
            searched, descriptors, variants=VARIANTS, neighbours=neighbours, nprobe=1
        )
        for name in VARIANTS:
            found[name] = [index.merge_results([*found[name], nearest[name]])]
        start += len(piece)
    ends = np.cumsum([len(d) for _, d, _ in queries])
    rank = []
    for (k, d, true), end in zip(queries, ends, strict=True):
        span = slice(end - len(d), end)
        rank.append(rank_of({n: (a[span], b[span]) for n, [(a, b)] in found.items()}, k, true))
    hits = {
        "first": np.mean([r == 0 for r in rank]),
        "among_ten": np.mean([0 <= r < 10 for r in rank]),
    }
    return {"storage": "exact", **hits}


def copies(
    run: store.Run, truth: Path, image_ids: Sequence[str], count: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Keypoints, descriptors and row of the true reference in `image_ids` of at most `count` queries of a run that
    are copies according to the file `truth`, in an order drawn by the seed."""
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    pairs = formats.read_truth(truth)
    pairs = pairs[pairs["reference_id"].isin(row_of)].sample(frac=1, random_state=seed)
    lookup = store.FeatureLookup(run.local_features)
    known = pairs[[one in lookup for one in pairs["query_id"]]].head(count)
    return [
        (*lookup.of(one), row_of[other])
        for one, other in zip(known["query_id"], known["reference_id"], strict=True)
    ]


def rank_of(found: dict[str, propose.Neighbours], keypoints: np.ndarray, true: int) -> int:
    """Place of the true reference among those with most votes, 0 is the best; -1: it is not among ten."""
    rows = propose.by_votes(found, keypoints, **RULES)["reference_row"].tolist()
    return rows.index(true) if true in rows else -1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--keypoints", type=int, default=0, help="0: those of the library")
    parser.add_argument("--storage", nargs="+", default=["auto"])
    parser.add_argument("--nprobe", nargs="+", type=int, default=[0], help="0: the plan's")
    parser.add_argument("--neighbours", type=int, default=11)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--exact", type=int, default=0, help="queries of the exact search")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    keypoints = Keypoints(store.Library(asked.library), asked.keypoints, asked.seed)
    queries = copies(
        store.Run(asked.run), asked.truth, keypoints.image_ids, asked.queries, asked.seed
    )
    print(f"{len(keypoints):,} keypoints, {len(queries)} queries")
    rows: list[dict[str, Any]] = []
    for storage in asked.storage:
        rows += measure(keypoints, queries, storage, asked.nprobe, asked.neighbours)
        print(pd.DataFrame(rows).round(4).to_string(index=False), flush=True)
    if asked.exact:
        few = queries[: asked.exact]
        print(f"the first {len(few)} queries: {exact(keypoints, few, asked.neighbours)}")


if __name__ == "__main__":
    main()
