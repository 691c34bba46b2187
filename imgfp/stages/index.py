"""Notebooks 04 and 07: the Faiss index of a library, built in parts and extended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import LocalFeatures
from imgfp.search import index
from imgfp.store import IndexFolder, IndexKind, Library


@dataclass(frozen=True)
class IndexReport:
    """An index on disk: its factory string, vectors, parts and size in megabytes."""

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
class OpenIndex:
    """An index ready to search: its parts, and which image owns which vector number."""

    parts: list
    image_ids: np.ndarray
    offsets: np.ndarray


def build_index(
    library: Library,
    kind: IndexKind,
    *,
    factory: str,
    seed: int,
    part_images: int,
) -> IndexReport:
    """Build or extend the index of a library's keypoints or vectors; current parts stay.

    factory: a Faiss factory string, or "auto" to plan by the number of vectors. The index is trained
    once per factory string and way of extracting features; new shards only add or rebuild the last
    part, of at most `part_images` references (a part holds at least one shard).
    """
    indexed = library.local_features if kind == "local" else library.descriptors
    sources = store.shards(indexed, ".h5")
    if not sources:
        raise store.StoreError(f"{indexed} holds nothing yet; run the notebook before")
    folder = library.index(kind)
    described = [store.describe(path) for path in sources]
    counts = [_rows(path, kind) for path in sources]
    total = int(sum(count.sum() for count in counts))
    if not total:
        raise ValueError(f"{library.root}: no reference has any {indexed.name} to search among")
    chosen = index.resolve(factory, total, kind)
    settings = {"factory": chosen, "seed": seed, "features": described[0]["settings"]}
    with store.lock(library.root):
        trained = folder.trained
        made = store.origin(_train, settings)
        if not store.is_current(trained, made):
            store.save(trained, _train(sources, chosen, total, seed), made)
        groups = _groups([len(count) for count in counts], part_images)
        for number, members in enumerate(groups):
            path = folder.part(number)
            inputs = [store.describe(trained)["sha256"], *(described[i]["sha256"] for i in members)]
            inputs.append(str(sum(int(counts[i].sum()) for i in range(members[0]))))
            made = store.origin(_build_part, settings, inputs)
            if not store.is_current(path, made):
                part = _build_part(trained, [sources[i] for i in members], first=int(inputs[-1]))
                store.save(path, part, made)
        for stale in folder.parts()[len(groups) :]:
            store.remove(stale)
        inputs = [entry["sha256"] for entry in described]
        made = store.origin(_owners, settings, inputs)
        if not store.is_current(folder.owners, made):
            store.save(folder.owners, _owners(counts), made)
    parts = folder.parts()
    size = sum(path.stat().st_size for path in parts)
    return IndexReport(chosen, total, len(parts), size / 1e6)


def index_inputs(library: Library, kind: IndexKind) -> tuple[str, ...]:
    """Hashes of everything that a search in this index depends on. Raises StoreError when there is no
    index."""
    folder = library.index(kind)
    parts = folder.parts()
    if not parts:
        raise store.StoreError(f"{folder.root} has no index yet; run the notebook that builds it")
    return tuple(store.describe(path)["sha256"] for path in [*parts, folder.owners])


def open_index(library: Library, kind: IndexKind) -> OpenIndex:
    """The index, its parts memory-mapped and not copied; cached while it does not change on disk."""
    return _opened(library.index(kind), index_inputs(library, kind))


@lru_cache(maxsize=2)
def _opened(folder: IndexFolder, inputs: tuple[str, ...]) -> OpenIndex:
    owners = store.load(folder.owners)
    offsets = np.concatenate([[0], owners["vectors"].cumsum()]).astype(np.int64)
    parts = [index.from_bytes(store.load(path), path.name, shared=True) for path in folder.parts()]
    return OpenIndex(parts, owners["image_id"].to_numpy(), offsets)


def _rows(path: Path, kind: IndexKind) -> pd.Series:
    """Vectors of each image of a shard."""
    if kind == "local":
        return store.feature_counts(path)
    ids = store.load(path).image_ids
    return pd.Series(1, index=ids, dtype="int64")


def _vectors(path: Path) -> np.ndarray:
    record = store.load(path)
    return record.descriptors if isinstance(record, LocalFeatures) else record.vectors


def _groups(sizes: list[int], part_images: int) -> list[list[int]]:
    """Numbers of consecutive shards in groups of at most `part_images` images."""
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
