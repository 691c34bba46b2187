# SPDX-License-Identifier: AGPL-3.0-or-later
"""Does the index propose the right references when the library has many more keypoints?

    python -m imgfp.benchmarks.index_scale LIBRARY RUN TRUTH FOLDER --keypoints 10000000 --storage auto IVF8192,SQ8_direct

The keypoints of a library are joined by jittered copies of themselves up to the number asked for. A copy is
about as far from its keypoint as the eleventh nearest keypoint of another photograph is, and copies of many
images are mixed, so that no added image is a copy of another. Every storage is then searched with the copies among
the queries of a run; exact search, for as many queries as `--exact` says, is the yardstick.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

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
        self._real_ids = index.ids_of(np.arange(len(counts)), counts)
        self._total = max(total, len(self.real))
        self._seed = seed

    def __len__(self) -> int:
        return self._total

    def starts(self) -> range:
        """Where the pieces begin."""
        return range(0, len(self), _STEP)

    def piece(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Descriptors (n,128) uint8 and ids (n,) int64 of the piece that begins there; the real ones come first."""
        stop = min(start + _STEP, len(self))
        real = self.real[start:stop]
        rng = np.random.default_rng([self._seed, start])
        descriptors = np.concatenate([real, self._copies(stop - start - len(real), rng)])
        added = np.arange(start + len(real), stop) - len(self.real)
        place = len(self.image_ids) + added // IMAGE_KEYPOINTS
        number = added % IMAGE_KEYPOINTS
        ids = np.concatenate([self._real_ids[start:stop], place << index.VECTOR_BITS | number])
        return descriptors, ids

    def sample(self, count: int) -> np.ndarray:
        """`count` descriptors (count,128) uint8, real ones and copies in the shares of the whole; all if there are
        fewer."""
        rng = np.random.default_rng(self._seed)
        real = self.real
        if count < len(self):
            real = real[rng.random(len(real)) < count / len(self)]
        return np.concatenate([real, self._copies(min(count, len(self)) - len(real), rng)])

    def _copies(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return jittered(self.real[rng.integers(0, len(self.real), max(count, 0))], rng)


def jittered(descriptors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Descriptors (n,128) uint8 with noise, of the same norm."""
    noisy = descriptors + rng.normal(0, JITTER, descriptors.shape).astype(np.float32)
    noisy = np.clip(noisy, 0, None)
    noisy *= 255 / np.maximum(np.linalg.norm(noisy, axis=1, keepdims=True), 1)
    return np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)


@dataclass(frozen=True)
class Build:
    """An index on disk: factory string, the trained index, its one part, processor seconds."""

    factory: str
    trained: Any
    part: index.Part
    train_cpu_s: float
    build_cpu_s: float


def build(keypoints: Keypoints, factory: str, folder: Path, workers: int) -> Build:
    """The index of all keypoints in `folder`. What is there already is not computed again, so a build that was
    killed goes on; its processor time is that of the pieces made last."""
    trained_path, merged_path = folder / "trained.faiss", folder / "merged.faiss"
    clock = time.process_time()
    if not trained_path.exists():
        sample = keypoints.sample(index.training_size(factory) or 1)
        store.write_bytes(trained_path, index.to_bytes(index.train(factory, sample)))
    training = time.process_time() - clock
    trained = index.from_bytes(trained_path.read_bytes())
    paths = [folder / f"piece-{start:012}.faiss" for start in keypoints.starts()]
    seconds = 0.0
    if not merged_path.exists():
        todo = [
            (start, path)
            for start, path in zip(keypoints.starts(), paths, strict=True)
            if not path.exists()
        ]
        # Processes of their own: a fork of one that has used Faiss's threads may hang.
        spawned = multiprocessing.get_context("spawn")
        start_with = (keypoints, trained_path)
        with ProcessPoolExecutor(workers, spawned, _start, start_with) as pool:
            futures = [pool.submit(_encode, start, path) for start, path in todo]
            for future in tqdm(
                as_completed(futures), total=len(futures), unit="piece", mininterval=5
            ):
                seconds += future.result()
        clock = time.process_time()
        parts = [index.open_part(_mapped(path), trained) for path in paths]
        store.write_bytes(merged_path, map(bytes, index.merge(parts)))
        seconds += time.process_time() - clock
        del parts
    for path in paths:
        path.unlink(missing_ok=True)
    part = index.open_part(_mapped(merged_path), trained)
    return Build(factory, trained, part, training, seconds)


_worker: dict[str, Any] = {}


def _start(keypoints: Keypoints, trained: Path) -> None:
    _worker.update(keypoints=keypoints, trained=index.from_bytes(trained.read_bytes()))


def _encode(start: int, path: Path) -> float:
    """Write the part of one piece; processor seconds, without those that made the keypoints."""
    descriptors, ids = _worker["keypoints"].piece(start)
    clock = time.process_time()
    with index.one_thread():
        store.write_bytes(path, map(bytes, index.encode(_worker["trained"], descriptors, ids)))
    return time.process_time() - clock


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def measure(
    built: Build,
    queries: Sequence[tuple[np.ndarray, np.ndarray, int]],
    nprobes: Sequence[int],
    neighbours: int,
) -> list[dict[str, Any]]:
    """Rows of size, build time, search time and recall of one index; queries: keypoints, descriptors and the
    row of the true reference."""
    default = index.nprobe_for(built.trained.nlist, "local")
    searched = index.Index(built.trained, [built.part], default)
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
                    "storage": built.factory,
                    "nprobe": nprobe or searched.nprobe,
                    "bytes_per_keypoint": built.part.data.size / len(built.part),
                    "train_cpu_s": built.train_cpu_s,
                    "build_cpu_us_per_keypoint": 1e6 * built.build_cpu_s / len(built.part),
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
    for start in tqdm(keypoints.starts(), unit="piece", mininterval=5):
        piece, ids = keypoints.piece(start)
        searched = index.build(piece, "local", "Flat", ids=ids)
        nearest = propose.nearest_keypoints(
            searched, descriptors, variants=VARIANTS, neighbours=neighbours, nprobe=1
        )
        for name in VARIANTS:
            found[name] = [index.merge_results([*found[name], nearest[name]])]
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
    parser.add_argument(
        "folder", type=Path, help="where the indexes are made; kept, and used again"
    )
    parser.add_argument("--keypoints", type=int, default=0, help="0: those of the library")
    parser.add_argument("--storage", nargs="+", default=["auto"])
    parser.add_argument("--nprobe", nargs="+", type=int, default=[0], help="0: the plan's")
    parser.add_argument("--neighbours", type=int, default=11)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--exact", type=int, default=0, help="queries of the exact search")
    parser.add_argument("--workers", type=int, default=1, help="processes that build")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    keypoints = Keypoints(store.Library(asked.library), asked.keypoints, asked.seed)
    queries = copies(
        store.Run(asked.run), asked.truth, keypoints.image_ids, asked.queries, asked.seed
    )
    print(f"{len(keypoints):,} keypoints, {len(queries)} queries")
    rows: list[dict[str, Any]] = []
    for storage in asked.storage:
        factory = index.resolve(storage, len(keypoints), "local")
        folder = asked.folder / f"{factory}-{len(keypoints)}-{asked.seed}"
        built = build(keypoints, factory, folder, asked.workers)
        rows += measure(built, queries, asked.nprobe, asked.neighbours)
        print(pd.DataFrame(rows).round(4).to_string(index=False), flush=True)
    if asked.exact:
        few = queries[: asked.exact]
        print(f"the first {len(few)} queries: {exact(keypoints, few, asked.neighbours)}")


if __name__ == "__main__":
    main()
