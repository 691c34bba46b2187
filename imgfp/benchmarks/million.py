# SPDX-License-Identifier: AGPL-3.0-or-later
"""A library of a million references in synthetic shards: indexed, searched, run again, extended and reduced.

    python -m imgfp.benchmarks.million FOLDER --references 1000000 --keypoints 12

What decoding and extraction would give is drawn at random and written as the artefacts of the stages, which then
take it for their own: a manifest names files that do not exist, all images have one tiny thumbnail, descriptors vary
in `LATENT` dimensions, and queries are jittered copies of references. Every step runs in a new process, as a
notebook does. A folder whose shards are there already is used again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from imgfp import stages, store
from imgfp.benchmarks.index_scale import RULES, VARIANTS
from imgfp.datatypes import Descriptors, LocalFeatures, table
from imgfp.decoding import Limits
from imgfp.descriptors.registry import load_model
from imgfp.images import encode_jpeg
from imgfp.search import index, propose
from imgfp.stages.descriptors import describe, model_settings
from imgfp.stages.features import extract_features, stored_features
from imgfp.stages.inventory import image_tasks, inspect_files, listing_task
from imgfp.stages.search import read_candidates
from imgfp.store import Collection, Library, Run

#: Independent numbers that a descriptor is a function of. Real descriptors vary in about as many dimensions.
LATENT = 24
#: Standard deviation of a query's descriptor from that of its reference, per dimension of RootSIFT x 255.
JITTER = 5.0
#: Standard deviation of a query's vector from that of its reference, by its norm.
VECTOR_JITTER = 0.7
#: Images of a shard.
SHARD_IMAGES = 2048
#: References that are added, and references that are removed.
CHANGED = 1000
_WIDTH, _HEIGHT = 400, 300
_LISTED: dict[str, Any] = {"thumbnail_short_side_px": 8}
_MODEL: dict[str, Any] = {"model": "gist-grid", "weights": "", "device": "cpu", "batch_size": 32}
_SIFT: dict[str, Any] = {"short_side_px": 300}


@dataclass(frozen=True)
class World:
    """A folder with the library, its manifests and its runs; sizes and the seed of what is drawn."""

    folder: Path
    references: int
    keypoints: int
    queries: int
    exact: int
    workers: int
    seed: int

    @property
    def library(self) -> Library:
        return Library(self.folder / "library")

    def run(self, name: str) -> Run:
        return Run(self.folder / name)

    def manifest(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    @property
    def removed(self) -> np.ndarray:
        """Numbers of the references that are removed, spread over the shards."""
        return np.linspace(0, self.references - 1, CHANGED).astype(np.int64)

    def asked(self, run: str) -> np.ndarray:
        """Numbers of the references whose copies are the queries of a run."""
        rng = np.random.default_rng([self.seed, 1, *run.encode()])
        kept = np.setdiff1d(np.arange(self.references), self.removed)
        among = {
            "removed": self.removed,
            "added": self.references + np.arange(CHANGED),
        }.get(run, kept)
        return np.sort(rng.choice(among, min(self.queries, len(among)), replace=False))


def reference_id(number: int) -> str:
    """The id of a reference by its number."""
    return f"{number // 10_000:05d}/{number:09d}"


# ---------------------------------------------------------------------------------------- written


def write_references(world: World, start: int, stop: int) -> str:
    """New shards of the references from `start` to `stop`: images, keypoints, vectors."""
    library = world.library
    chunks = [
        np.arange(first, min(first + SHARD_IMAGES, stop))
        for first in range(start, stop, SHARD_IMAGES)
    ]
    plane = np.random.default_rng(world.seed).standard_normal((LATENT, 128), np.float32)
    for shard, numbers in enumerate(chunks, -(-start // SHARD_IMAGES)):
        if _last_file(library, shard).exists():
            continue
        rng = np.random.default_rng([world.seed, 2, int(numbers[0])])
        drawn = rng.standard_normal((len(numbers) * world.keypoints, LATENT), np.float32) @ plane
        vectors = rng.standard_normal((len(numbers), _dim()), np.float32)
        ids = [reference_id(number) for number in numbers.tolist()]
        _write_shard(library, shard, ids, world, _root_sift(abs(drawn)), vectors, rng)
    return f"{len(chunks):,} shards"


def write_queries(world: World, name: str) -> str:
    """A run whose queries are jittered copies of references of the library."""
    ids = [reference_id(number) for number in world.asked(name).tolist()]
    lookup = stored_features(world.library)
    descriptors = np.concatenate([lookup.of(image_id)[1] for image_id in ids])
    vectors = np.concatenate([_vector_of(world.library, image_id) for image_id in ids])
    rng = np.random.default_rng([world.seed, 3, *name.encode()])
    noise = rng.normal(0, JITTER, descriptors.shape)
    moved = rng.normal(0, VECTOR_JITTER / np.sqrt(vectors.shape[1]), vectors.shape)
    queries = [f"copy of {image_id}" for image_id in ids]
    _write_shard(
        world.run(name), 0, queries, world, _root_sift(descriptors + noise), vectors + moved, rng
    )
    stages.list_images(world.run(name), "", shard_images=SHARD_IMAGES, **_LISTED)
    return f"{len(ids):,} queries"


def _vector_of(library: Library, image_id: str) -> np.ndarray:
    (place,) = store.open_catalogue(library).places_of([image_id])
    shard, row = store.shard_and_row(place)
    with store.open_h5(_last_file(library, int(shard))) as file:
        return file["vectors"][int(row)][None]


def _write_shard(
    collection: Collection,
    number: int,
    ids: list[str],
    world: World,
    descriptors: np.ndarray,
    vectors: np.ndarray,
    rng: np.random.Generator,
) -> None:
    files = pd.DataFrame({"image_id": ids, "path": [_path(world, name) for name in ids]})
    files = files.assign(file_bytes=0, mtime_ns=0, source=str(world.manifest("references")))
    listed = listing_task(collection, number, files, Limits())
    pixels = np.full((6, 8, 3), 128, np.uint8)
    # Without blocks a file is known by its size and date.
    facts: dict[str, Any] = {
        "blocks": "",
        "format": "JPEG",
        "width": _WIDTH,
        "height": _HEIGHT,
        "notes": "",
        "reason": "",
    }
    images = files.assign(**facts, sha256=[store.hash_of(name) for name in ids])
    images["thumbnail"] = [encode_jpeg(pixels, 90)] * len(ids)
    _save(listed, inspect_files, table("images", images), _LISTED)
    at = np.arange(len(ids) + 1) * world.keypoints
    lows, highs = (0, 0, 3, 0), (_WIDTH, _HEIGHT, 30, 2 * np.pi)
    keypoints = rng.uniform(lows, highs, (at[-1], 4))
    features = LocalFeatures(np.array(ids, object), at, keypoints, descriptors)
    (task,) = image_tasks(collection, collection.local_features, ".h5", names=[listed.path.stem])
    _save(task, extract_features, features, _SIFT)
    (task,) = image_tasks(collection, collection.descriptors, ".h5", names=[listed.path.stem])
    settings = model_settings(views=["whole"], **_MODEL)
    _save(task, describe, Descriptors(np.array(ids, object), _unit(vectors)), settings)


def _save(task, function: Callable, record: Any, settings: dict[str, Any]) -> None:
    made = store.origin(function, settings, task.inputs)
    store.save(task.path, record, made, items=task.items)


def _last_file(collection: Collection, shard: int) -> Path:
    """The file of a shard that `_write_shard` writes last."""
    return collection.descriptors / f"{store.shard_name(shard)}.h5"


def _path(world: World, image_id: str) -> str:
    return str(store.project_path(world.folder / "absent" / image_id))


@lru_cache(maxsize=1)
def _dim() -> int:
    return load_model("gist-grid", "", "cpu").dim


def _root_sift(drawn: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(255 * _unit(np.clip(drawn, 0, None)), 0, 255)).astype(np.uint8)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_manifest(world: World, numbers: np.ndarray) -> str:
    """The manifest that names the references of the library."""
    ids = [reference_id(number) for number in numbers.tolist()]
    rows = pd.DataFrame({"image_id": ids, "path": [_path(world, name) for name in ids]})
    store.write_sheet(world.manifest("references"), rows)
    return f"{len(ids):,} references"


# ----------------------------------------------------------------------------------------- stages


def list_references(world: World) -> str:
    """Notebook 01, without the queries."""
    source = str(world.manifest("references"))
    report = stages.list_images(
        world.library, source, shard_images=SHARD_IMAGES, workers=world.workers, **_LISTED
    )
    return str(report)


def extract(world: World) -> str:
    """Notebooks 02 and 06 of the references: nothing may be left to compute."""
    reports = (
        stages.extract_local_features(world.library, **_SIFT),
        stages.describe_references(world.library, **_MODEL),
    )
    return " and ".join(map(str, reports))


def build(world: World, kind: store.IndexKind) -> str:
    """The index of notebook 03 or 07."""
    built: dict[str, Any] = {"factory": "auto", "seed": world.seed, "part_images": 1_000_000_000}
    report = stages.build_index(world.library, kind, **built, workers=world.workers)
    return (
        f"{report.factory}, {report.vectors:,} in {report.parts} parts, {report.megabytes:,.0f} MB"
    )


def search(world: World, name: str) -> str:
    """Notebooks 03 and 07 of the queries of a run, and how many find the reference that they are a copy of."""
    run, library = world.run(name), world.library
    rules = {**RULES, "variants": VARIANTS, "neighbours": 11, "nprobe": 0, "device": "cpu"}
    stages.local_search(run, library, workers=world.workers, **rules)
    similar: dict[str, Any] = {
        "nprobe": 0,
        "candidates": 10,
        "normalise_neighbours": 10,
        "background": "",
    }
    stages.global_search(run, library, device="cpu", workers=world.workers, **similar)
    found = read_candidates(run)
    found = found[found["query_id"] == "copy of " + found["reference_id"]]
    count = len(world.asked(name))
    said = []
    for branch in ("local", "global"):
        ranks = found.loc[found["branch"] == branch, "rank"]
        said.append(f"{branch}: first {(ranks == 0).sum()} and among ten {len(ranks)} of {count}")
    return "; ".join(said)


def search_exactly(world: World, name: str) -> str:
    """Exact search of all keypoints for the first queries of a run, in comparison with the index."""
    run, library = world.run(name), world.library
    record = store.load(run.local_features / f"{store.shard_name(0)}.h5")
    ids = record.image_ids[: world.exact]
    descriptors = record.descriptors[: record.offsets[world.exact]]
    nearest: dict[str, propose.Neighbours] = {}
    for path in store.shards(library.local_features, ".h5"):
        shard = store.load(path)
        places = store.place_of(store.shard_number(path), np.arange(len(shard)))
        vector_ids = index.ids_of(places, np.diff(shard.offsets))
        flat = index.build(shard.descriptors, "local", "Flat", ids=vector_ids)
        asked: dict[str, Any] = {"variants": VARIANTS, "neighbours": 11, "nprobe": 1}
        found = propose.nearest_keypoints(flat, descriptors, **asked)
        nearest = {
            variant: index.merge_results([nearest.get(variant, found[variant]), found[variant]])
            if nearest
            else found[variant]
            for variant in VARIANTS
        }
    catalogue = store.open_catalogue(library)
    found_by_index = read_candidates(run, "local").query("rank == 0")
    first = found_by_index.set_index("query_id")["reference_id"].to_dict()
    right = same = 0
    for row, query_id in enumerate(ids):
        span = slice(record.offsets[row], record.offsets[row + 1])
        own = {v: (distances[span], found[span]) for v, (distances, found) in nearest.items()}
        votes = propose.by_votes(own, record.keypoints[span], **RULES)
        best = votes["reference_row"].head(1).tolist()
        names = catalogue.ids_at(np.searchsorted(catalogue.places, best))
        right += [query_id] == [f"copy of {one}" for one in names]
        same += names == [first.get(query_id)]
    return f"exact: first {right} of {len(ids)}; the same first by the index: {same}"


# ---------------------------------------------------------------------------------------- measured


def measured(world: World, title: str, function: Callable[..., str], *arguments: Any) -> dict:
    """Run a step in a new process: its result in words, seconds, and memory of it and its workers in bytes."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawned) as pool:
        row = pool.submit(_measure, world, function, arguments).result()
    print(
        f"{title}: {row['result']}\n    {row['wall_s']:,.1f} s, {row['cpu_s']:,.1f} s of processor time;"
        f" memory of the kernel {row['kernel'] / 1e9:.2f} GB, of a worker {row['worker'] / 1e9:.2f} GB"
        f" (with mapped files {row['kernel_mapped'] / 1e9:.2f} and {row['worker_mapped'] / 1e9:.2f})",
        flush=True,
    )
    return {"step": title, **row}


def _measure(world: World, function: Callable[..., str], arguments: tuple) -> dict[str, Any]:
    peaks = dict.fromkeys(("kernel", "worker", "kernel_mapped", "worker_mapped"), 0)
    ended = threading.Event()
    watching = threading.Thread(target=_watch, args=(peaks, ended))
    watching.start()
    start = time.perf_counter()
    try:
        result = function(world, *arguments)
    finally:
        wall = time.perf_counter() - start
        ended.set()
        watching.join()
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in spent)
    return {"result": result, "wall_s": wall, "cpu_s": cpu, **peaks}


def _watch(peaks: dict[str, int], ended: threading.Event) -> None:
    """Keep the largest memory of this process and of any of its children, looked at five times a second."""
    here = psutil.Process()
    while True:
        for process in (here, *here.children(recursive=True)):
            kind = "kernel" if process == here else "worker"
            try:
                state = process.memory_info()
            except psutil.Error:
                continue
            peaks[kind] = max(peaks[kind], state.rss - state.shared)
            peaks[kind + "_mapped"] = max(peaks[kind + "_mapped"], state.rss)
        if ended.wait(0.2):
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--references", type=int, default=1_000_000)
    parser.add_argument("--keypoints", type=int, default=12, help="of each image")
    parser.add_argument("--queries", type=int, default=300, help="of each run")
    parser.add_argument("--exact", type=int, default=10, help="queries that are searched exactly")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    world = World(**vars(parser.parse_args()))
    every = np.arange(world.references)
    more = np.arange(world.references + CHANGED)
    kinds: tuple[store.IndexKind, ...] = ("local", "global")
    steps: list[tuple[Any, ...]] = []

    def prepared(title: str) -> None:
        steps.append((f"{title}: list", list_references))
        steps.append((f"{title}: keypoints and descriptors", extract))
        steps.extend((f"{title}: {kind} index", build, kind) for kind in kinds)

    steps.append(("write references", write_references, 0, world.references))
    steps.append(("write manifest", write_manifest, every))
    prepared("first")
    for name in ("batch", "removed", "second"):
        steps.append((f"write queries {name}", write_queries, name))
        steps.append((f"search {name}", search, name))
    prepared("nothing changed")
    steps.append(("nothing changed: search batch", search, "batch"))
    steps.append(("exact search", search_exactly, "batch"))
    steps.append(("write references", write_references, world.references, len(more)))
    steps.append(("write manifest", write_manifest, more))
    prepared("added")
    steps.append(("write queries added", write_queries, "added"))
    steps.append(("search added", search, "added"))
    steps.append(("write manifest", write_manifest, np.setdiff1d(more, world.removed)))
    prepared("removed")
    steps.extend((f"after removal: search {name}", search, name) for name in ("removed", "batch"))
    for step in steps:
        measured(world, *step)
    size = {path: path.stat().st_size for path in world.library.root.rglob("*") if path.is_file()}
    for folder in ("images", "local_features", "descriptors", "index/local", "index/global"):
        held = sum(n for path, n in size.items() if world.library.root / folder in path.parents)
        print(f"{folder}: {held / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
