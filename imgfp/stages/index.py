"""Notebooks 04 and 07: the Faiss index of a library, built in parts and extended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import LocalFeatures
from imgfp.search import index

FOLDERS = {"local": "local_features", "global": "descriptors"}


@dataclass(frozen=True)
class Built:
    """An index on disk: its factory string, vectors, parts and size in bytes."""

    factory: str
    vectors: int
    parts: int
    megabytes: float

    def _repr_markdown_(self) -> str:
        return (
            f"`{self.factory}`: {self.vectors:,} vectors in {self.parts} "
            f"part{'s' if self.parts > 1 else ''}, {self.megabytes:,.1f} MB"
        )


@dataclass(frozen=True)
class Opened:
    """An index ready to search: its parts, and which image owns which vector number."""

    parts: list
    image_ids: np.ndarray
    offsets: np.ndarray


def build_index(
    library: Path,
    kind: Literal["local", "global"],
    *,
    factory: str,
    seed: int,
    part_images: int,
) -> Built:
    """Build or extend the index of a library's keypoints or vectors; what is current stays.

    factory: a Faiss factory string, or "auto" to plan by the number of vectors. The index is trained
    once for a factory string and a way of extracting features; new shards only make or remake the last
    part, of at most `part_images` references (a part holds at least one shard).
    """
    sources = store.shards(library / FOLDERS[kind], ".h5")
    if not sources:
        raise store.StoreError(f"{library} has no {FOLDERS[kind]} yet; run the notebook before")
    folder = library / "index" / kind
    described = [store.describe(path) for path in sources]
    counts = [_rows(path, kind) for path in sources]
    total = int(sum(count.sum() for count in counts))
    if not total:
        raise ValueError(f"{library}: no reference has any {FOLDERS[kind]} to search among")
    chosen = index.plan(total, kind) if factory == "auto" else factory
    if not any(word in chosen for word in ("IVF", "IDMap")):
        chosen = f"IDMap2,{chosen}"  # only lists and maps keep the ids that parts need
    settings = {"factory": chosen, "seed": seed, "features": described[0]["settings"]}
    with store.lock(library):
        trained = folder / "trained.faiss"
        made = store.origin(_train, settings)
        if not store.is_current(trained, made):
            store.save(trained, _train(sources, chosen, total, seed), made)
        groups = _groups([len(count) for count in counts], part_images)
        for number, members in enumerate(groups):
            path = folder / f"part-{number:03d}.faiss"
            inputs = [store.describe(trained)["sha256"], *(described[i]["sha256"] for i in members)]
            inputs.append(str(sum(int(counts[i].sum()) for i in range(members[0]))))
            made = store.origin(_build_part, settings, inputs)
            if not store.is_current(path, made):
                part = _build_part(trained, [sources[i] for i in members], first=int(inputs[-1]))
                store.save(path, part, made)
        for stale in sorted(folder.glob("part-*.faiss"))[len(groups) :]:
            store.remove(stale)
        inputs = [entry["sha256"] for entry in described]
        path = folder / "owners.parquet"
        made = store.origin(_owners, settings, inputs)
        if not store.is_current(path, made):
            store.save(path, _owners(counts), made)
    parts = _parts(folder)
    size = sum(path.stat().st_size for path in parts)
    return Built(chosen, total, len(parts), size / 1e6)


def index_inputs(library: Path, kind: str) -> tuple[str, ...]:
    """Hashes of everything a search in this index depends on."""
    folder = library / "index" / kind
    return tuple(store.describe(p)["sha256"] for p in [*_parts(folder), folder / "owners.parquet"])


def open_index(library: Path, kind: str) -> Opened:
    """The index, its parts mapped and not copied, kept for the next call while it does not change on disk."""
    return _opened(library / "index" / kind, index_inputs(library, kind))


@lru_cache(maxsize=2)
def _opened(folder: Path, inputs: tuple[str, ...]) -> Opened:
    owners = store.load(folder / "owners.parquet")
    offsets = np.concatenate([[0], owners["vectors"].cumsum()]).astype(np.int64)
    parts = [index.from_bytes(store.load(path), path.name, shared=True) for path in _parts(folder)]
    return Opened(parts, owners["image_id"].to_numpy(), offsets)


def _parts(folder: Path) -> list[Path]:
    found = sorted(folder.glob("part-*.faiss"))
    if not found:
        raise store.StoreError(f"{folder} has no index yet; run the notebook that builds it")
    return found


def _rows(path: Path, kind: str) -> pd.Series:
    """Vectors of each image of a shard."""
    if kind == "local":
        return store.feature_counts(path)
    ids = store.load(path).image_ids
    return pd.Series(1, index=ids, dtype="int64")


def _vectors(path: Path) -> np.ndarray:
    record = store.load(path)
    return record.descriptors if isinstance(record, LocalFeatures) else record.vectors


def _groups(sizes: list[int], part_images: int) -> list[list[int]]:
    """Consecutive shards, as many as fit into `part_images` images, in each group."""
    groups: list[list[int]] = [[]]
    held = 0
    for number, size in enumerate(sizes):
        if groups[-1] and held + size > part_images:
            groups.append([])
            held = 0
        groups[-1].append(number)
        held += size
    return groups


def _sample(sources: list[Path], factory: str, total: int, seed: int) -> np.ndarray:
    """About as many vectors as training wants, spread over all shards."""
    share = min(1.0, max(1, index.training_size(factory)) / total)
    rng = np.random.default_rng(seed)
    parts = []
    for path in sources:
        vectors = _vectors(path)
        parts.append(vectors[rng.random(len(vectors)) < share] if share < 1 else vectors)
    sample = np.concatenate(parts)
    return sample if len(sample) else _vectors(sources[0])[:1]


@store.produces("index_trained", formerly=["train"])
def _train(sources: list[Path], factory: str, total: int, seed: int) -> bytes:
    """The index without vectors, trained on a sample of all shards."""
    return index.to_bytes(index.train(factory, _sample(sources, factory, total, seed), seed))


@store.produces("index_part", formerly=["part"])
def _build_part(trained: Path, sources: list[Path], first: int) -> bytes:
    """The trained index filled with the vectors of some shards, which count on from `first`."""
    built = index.from_bytes(store.load(trained), trained.name)
    for source in sources:
        vectors = _vectors(source)
        index.add(built, vectors, first)
        first += len(vectors)
    return index.to_bytes(built)


@store.produces("index_owners", formerly=["owners"])
def _owners(counts: list[pd.Series]) -> pd.DataFrame:
    """How many consecutive vectors each image has in the index."""
    return pd.DataFrame(
        {
            "image_id": np.concatenate([count.index.to_numpy() for count in counts]),
            "vectors": np.concatenate([count.to_numpy() for count in counts]),
        }
    )
