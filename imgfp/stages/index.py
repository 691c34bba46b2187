# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebooks 03 and 07: the Faiss index of a library, built in parts side by side, extended and merged.

`index.json` names the parts that hold; all else in the folder is what an unfinished build has left, which the
next one takes up. A part holds the vectors of consecutive shards and is named after the first and last.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from imgfp import store
from imgfp.datatypes import LocalFeatures
from imgfp.runner.cluster import ShardResult, Task, machines, map_shards
from imgfp.runner.machine import this_machine
from imgfp.search import gpu, index
from imgfp.search.plan import IndexPlan, plan_index, refusal
from imgfp.store import IndexFolder, IndexKind, Library

#: References that one task encodes: what is lost when it is killed.
TASK_IMAGES = 2048
#: An index that "auto" has planned is kept until the library has this many times the vectors it was planned for.
KEPT_UNTIL = 4
#: Shards that the training sample is drawn from, at least.
_SAMPLED_SHARDS = 64


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
    """An index ready to search, and whose vectors it holds."""

    index: index.Index
    owners: Owners


@dataclass(frozen=True)
class Owners:
    """Whose vectors an index holds: the places, ascending, and ids of images, both in a mapped file."""

    places: np.ndarray
    ids: Any

    def image_ids(self, places: np.ndarray) -> np.ndarray:
        """Id of the image at each place (n,) of `index.places_of`. Raises ValueError for a foreign place."""
        rows = np.searchsorted(self.places, places)
        if rows.size and (self.places[np.minimum(rows, len(self.places) - 1)] != places).any():
            raise ValueError("the index holds an image that its owners lack; build it again")
        return self.ids.take(rows).to_numpy(zero_copy_only=False)


@store.produces("index")
def build_index(
    library: Library,
    kind: IndexKind,
    *,
    factory: str,
    seed: int,
    part_images: int,
    cluster: str = "local",
    workers: int = 0,
) -> IndexReport:
    """Build or extend the index of a library's keypoints or vectors; parts that hold are kept.

    factory: as in `index.resolve`; "auto" plans by the number of vectors and keeps an earlier plan while it is
    good enough. The index is trained once per factory string and way of extracting features. New shards are
    encoded in worker processes, `TASK_IMAGES` references a task, and merged into parts of at most
    `part_images` references; a part is merged with the one before it when it has grown to half its size, so
    that an index has few. Raises StoreError, before anything is computed, for an index that does not fit in
    memory or on the disk.
    """
    with store.lock(library.root):
        indexed = library.local_features if kind == "local" else library.descriptors
        sources = store.shards(indexed, ".h5")
        if not sources:
            raise store.StoreError(f"{indexed} holds nothing yet; run the notebook before")
        folder = library.index(kind)
        former = _manifest(folder)
        shards, owners = _shards(sources, folder, former, kind)
        total = int(shards["vectors"].sum())
        images = shards["images"].to_numpy()
        chosen = _planned(folder, factory, total, kind)
        settings = {
            "factory": chosen,
            "seed": seed,
            "features": store.describe(sources[0])["settings"],
        }
        made = store.origin(train_index, settings)
        trained = store.is_current(folder.trained, made)
        kept = _Parts.of(folder, sources, shards, settings).kept(former) if trained else []
        new = _new_spans(kept, images, min(TASK_IMAGES, part_images))
        merged = _merged(sorted([*kept, *new]), set(new), images, part_images)
        again = [(group[0][0], group[-1][1]) for group in merged if len(group) > 1]
        written = sum(int(shards["vectors"].iloc[a : b + 1].sum()) for a, b in [*new, *again])
        planned = plan_index(total, kind, _vectors(sources[0]).shape[1], chosen)
        _refuse_too_large(library, planned, written, cluster, workers)
        if not trained:
            data = train_index(sources, shards, seed=seed, factory=chosen)
            store.save(folder.trained, data, made, planned_for=total)
        parts = _Parts.of(folder, sources, shards, settings)
        where: dict[str, Any] = {"cluster": cluster, "workers": workers, "lock_dir": library.root}
        tasks = [parts.task(span) for span in new]
        map_shards(build_part, tasks, settings, title=f"{kind} index", **where)
        tasks = [parts.merging(group) for group in merged if len(group) > 1]
        map_shards(build_part, tasks, settings, title=f"{kind} index, merging", **where)
        paths = [parts.task((group[0][0], group[-1][1])).path for group in merged]
        return _finish(library, kind, chosen, shards, owners, paths, former)


def index_inputs(library: Library, kind: IndexKind) -> tuple[str, ...]:
    """Hashes of everything that a search in this index depends on. Raises StoreError when there is no
    index."""
    folder = library.index(kind)
    if not folder.manifest.exists():
        raise store.StoreError(f"{folder.root} has no index yet; run the notebook that builds it")
    return store.describe(folder.manifest)["sha256"], _catalogue_digest(library)


def _catalogue_digest(library: Library) -> str:
    """What tells the images of a library, at its snapshot, from others; blank for one of version 0.1.0."""
    exists = library.catalogue.exists()
    return store.describe(library.catalogue)["sha256"] if exists else ""


def open_index(
    library: Library, kind: IndexKind, parts: tuple[str, ...] = (), device: str = "cpu"
) -> OpenIndex:
    """The index with its parts memory-mapped and not copied, or with some of them by file name; cached while it
    does not change on disk. device: of `gpu.search_device`; on a GPU it is searched in a copy, which stays until
    others need its memory, or `release_gpus`. Raises RuntimeError where it cannot be copied."""
    named = library, kind, parts, index_inputs(library, kind)
    opened = _opened(*named)
    if device == "cpu":
        return opened
    copied = _copied_to_gpu((*named, device), opened.index, device)
    return replace(opened, index=replace(opened.index, gpu=copied))


def open_owners(library: Library, kind: IndexKind) -> Owners:
    """Whose vectors the index holds; cached while it does not change on disk."""
    return _owners(library.index(kind), index_inputs(library, kind))


def part_shares(library: Library, kind: IndexKind, machines: int) -> list[tuple[str, ...]]:
    """File names of the parts of an index in at most `machines` shares of about the same size."""
    index_inputs(library, kind)
    folder = library.index(kind)
    names = [part["file"] for part in store.load(folder.manifest)["parts"]]
    size = {name: (folder.root / name).stat().st_size for name in names}
    shares: list[list[str]] = [[] for _ in range(min(machines, len(names)))]
    for name in sorted(names, key=lambda name: (-size[name], name)):
        min(shares, key=lambda share: sum(size[held] for held in share)).append(name)
    return [tuple(sorted(share)) for share in shares]


#: The copies of indexes, or of shares of them, that this process has on GPUs, oldest first.
_copies: dict[Any, gpu.GpuIndex] = {}
_copying = threading.Lock()


def _copied_to_gpu(key: Any, original: index.Index, device: str) -> gpu.GpuIndex:
    with _copying:
        if key not in _copies:
            while _copies and gpu.shortage(original.trained, len(original), device):
                del _copies[next(iter(_copies))]
            parts, removed = original.parts, original.removed
            _copies[key] = gpu.to_gpu(original.trained, parts, removed, device)
        return _copies[key]


def release_gpus() -> None:
    """Free the memory of GPUs that this process holds indexes in."""
    with _copying:
        _copies.clear()


@lru_cache(maxsize=4)
def _opened(
    library: Library, kind: IndexKind, names: tuple[str, ...], inputs: tuple[str, ...]
) -> OpenIndex:
    folder = library.index(kind)
    manifest = store.load(folder.manifest)
    trained = index.from_bytes(store.load(folder.trained), folder.trained.name)
    paths = [folder.root / name for name in names or [part["file"] for part in manifest["parts"]]]
    parts = [index.open_part(store.load(path), trained, path.name) for path in paths]
    nprobe = index.nprobe_for(trained.nlist, kind)
    if manifest.get("catalogue") == _catalogue_digest(library):
        removed = store.load(folder.removed)["id"].to_numpy()
    else:  # another run has changed the library
        removed = removed_ids(library, kind, store.load(folder.owners))
    return OpenIndex(index.Index(trained, parts, nprobe, removed), _owners(folder, inputs))


@lru_cache(maxsize=4)
def _owners(folder: IndexFolder, inputs: tuple[str, ...]) -> Owners:
    places, ids = (store.load(folder.owners)[name].chunk(0) for name in ("place", "image_id"))
    return Owners(places.to_numpy(), ids)


# ------------------------------------------------------------------------------------------ plan


def _planned(folder: IndexFolder, factory: str, total: int, kind: IndexKind) -> str:
    """The factory string to build by; "auto" keeps the one that the folder was trained for while it fits."""
    wanted = index.resolve(factory if total else "Flat", total, kind)
    if factory != "auto" or not folder.trained.exists():
        return wanted
    described = store.describe(folder.trained)
    former, planned_for = described["settings"].get("factory", ""), described.get("planned_for", 0)
    same_codec = former.rpartition(",")[2] == wanted.rpartition(",")[2]
    fits = planned_for / KEPT_UNTIL <= total <= planned_for * KEPT_UNTIL
    return former if same_codec and fits else wanted


def _shards(
    sources: list[Path], folder: IndexFolder, former: dict[str, Any], kind: IndexKind
) -> tuple[pd.DataFrame, pa.Table]:
    """number, sha256, images and vectors of each shard, and whose vectors they hold (`owners`: place, image_id).
    The first shards, as far as they are those of the former manifest, are not opened."""
    named = [(store.shard_number(path), store.describe(path)["sha256"]) for path in sources]
    rows: list[dict[str, Any]] = []
    owners: list[pa.Table] = []
    try:
        recorded = former.get("shards", [])
        pairs = zip(recorded, named, strict=False)
        rows = [
            shard
            for shard, _ in itertools.takewhile(
                lambda pair: (pair[0]["number"], pair[0]["sha256"]) == pair[1], pairs
            )
        ]
        held = sum(shard["images"] for shard in rows)
        owners = [store.load(folder.owners).slice(0, held)] if rows else []
    except store.StoreError as error:
        print(f"{error}; every shard is opened again")
        rows = []
    for path, (number, digest) in list(zip(sources, named, strict=True))[len(rows) :]:
        counts = _counts(path, kind)
        shard = {"images": len(counts), "vectors": int(counts.sum())}
        rows.append({**shard, "number": number, "sha256": digest})
        places = store.place_of(number, np.arange(len(counts)))
        ids = pa.array(counts.index.to_numpy(), pa.large_string())
        owners.append(pa.table({"place": places, "image_id": ids}))
    return pd.DataFrame(rows), owners_of(owners)


#: First and last row, in the table of shards, of the shards that a part holds.
Span = tuple[int, int]


def _refuse_too_large(
    library: Library, planned: IndexPlan, written: int, cluster: str, workers: int
) -> None:
    """Raises StoreError where an index does not fit in memory, or the vectors that are `written` not on the disk."""
    here = this_machine(library.root)
    reason = refusal(
        planned,
        memory_bytes=here.memory_bytes,
        disk_bytes=here.disk_bytes,
        written_bytes=written * planned.vector_bytes,
        machines=machines(cluster),
        processes=workers or here.cores,
    )
    if reason:
        raise store.StoreError(reason)


@dataclass(frozen=True)
class _Parts:
    """Tasks that make the parts of an index."""

    folder: IndexFolder
    sources: list[Path]
    shards: pd.DataFrame
    settings: dict[str, Any]
    trained: str

    @classmethod
    def of(
        cls,
        folder: IndexFolder,
        sources: list[Path],
        shards: pd.DataFrame,
        settings: dict[str, Any],
    ) -> _Parts:
        """The parts of the index that is trained in `folder`."""
        return cls(folder, sources, shards, settings, store.describe(folder.trained)["sha256"])

    def task(self, span: Span, parts: Sequence[Path] = ()) -> Task:
        """The part of a span from its shards, or from parts that hold them."""
        first, last = span
        rows = self.shards.iloc[first : last + 1]
        arguments = {
            "trained": self.folder.trained,
            "sources": [] if parts else self.sources[first : last + 1],
            "parts": list(parts),
        }
        path = self.folder.part(rows["number"].iloc[0], rows["number"].iloc[-1])
        return Task(path, (self.trained, *rows["sha256"]), arguments, int(rows["images"].sum()))

    def merging(self, spans: list[Span]) -> Task:
        """One part of consecutive spans, from their parts."""
        return self.task((spans[0][0], spans[-1][1]), [self.task(span).path for span in spans])

    def kept(self, former: dict[str, Any]) -> list[Span]:
        """Spans of the former parts that still hold."""
        row_of = {number: row for row, number in enumerate(self.shards["number"])}
        spans = []
        for part in former.get("parts", []):
            first, last = (row_of.get(number) for number in part["shards"])
            if first is not None and last is not None and self._holds((first, last)):
                spans.append((first, last))
        return spans

    def _holds(self, span: Span) -> bool:
        task = self.task(span)
        return store.is_current(task.path, store.origin(build_part, self.settings, task.inputs))


def _new_spans(kept: list[Span], images: np.ndarray, task_images: int) -> list[Span]:
    """Spans of consecutive shards that no kept part covers, of at most `task_images` references, but of one
    shard at least."""
    covered = {row for first, last in kept for row in range(first, last + 1)}
    spans: list[Span] = []
    held = 0
    for row in range(len(images)):
        if row in covered:
            continue
        if spans and spans[-1][1] == row - 1 and held + images[row] <= task_images:
            spans[-1] = (spans[-1][0], row)
            held += images[row]
        else:
            spans.append((row, row))
            held = images[row]
    return spans


def _merged(
    spans: list[Span],
    new: set[Span],
    images: np.ndarray,
    part_images: int,
) -> list[list[Span]]:
    """Groups of consecutive spans that are merged into one part each: new ones together, then every part with
    the one before it where that is at most twice as large, within `part_images` references."""
    groups: list[list[Span]] = []

    def size(group: list[Span]) -> int:
        return int(sum(images[first : last + 1].sum() for first, last in group))

    for span in spans:
        both_new = groups and span in new and set(groups[-1]) <= new
        if both_new and size(groups[-1]) + size([span]) <= part_images:
            groups[-1].append(span)
        else:
            groups.append([span])
    merged: list[list[Span]] = []
    for group in groups:
        merged.append(group)
        while len(merged) > 1:
            before, last = size(merged[-2]), size(merged[-1])
            if before > 2 * last or before + last > part_images:
                break
            merged[-2:] = [merged[-2] + merged[-1]]
    return merged


# ------------------------------------------------------------------------------------------ build


def _sample(sources: list[Path], shards: pd.DataFrame, size: int, seed: int) -> np.ndarray:
    """About `size` vectors, spread over all shards, or over enough of them drawn at random."""
    rng = np.random.default_rng(seed)
    filled = np.flatnonzero(shards["vectors"])
    if not len(filled):  # references without keypoints: only the width and type matter
        return np.zeros_like(_vectors(sources[0]), shape=(1, _vectors(sources[0]).shape[1]))
    mean = shards["vectors"].to_numpy()[filled].mean()
    count = min(len(filled), max(_SAMPLED_SHARDS, int(np.ceil(2 * size / mean))))
    chosen = np.sort(rng.choice(filled, count, replace=False)) if count < len(filled) else filled
    share = min(1.0, max(1, size) / shards["vectors"].iloc[chosen].sum())
    parts = []
    for row in chosen:
        vectors = _vectors(sources[row])
        parts.append(vectors[rng.random(len(vectors)) < share] if share < 1 else vectors)
    sample = np.concatenate(parts)
    return sample if len(sample) else _vectors(sources[filled[0]])[:1]


@store.produces("index_trained", version=2)
def train_index(sources: list[Path], shards: pd.DataFrame, *, factory: str, seed: int) -> bytes:
    """The index without vectors, trained on a sample of all shards."""
    size = index.training_size(factory)
    return index.to_bytes(index.train(factory, _sample(sources, shards, size, seed), seed))


@store.produces("index_part", version=2)
def build_part(
    trained: Path, sources: list[Path], parts: list[Path], **settings: Any
) -> ShardResult:
    """The vectors of some shards as a part, or several parts as one, which is the same."""
    empty = index.from_bytes(store.load(trained), trained.name)
    if parts:
        opened = [index.open_part(store.load(path), empty, path.name) for path in parts]
        return ShardResult(index.merge(opened))
    vectors, ids = [], []
    for path in sources:
        vectors.append(_vectors(path))
        counts = _counts(path, "local" if vectors[-1].dtype == np.uint8 else "global")
        places = store.place_of(store.shard_number(path), np.arange(len(counts)))
        ids.append(index.ids_of(places, counts.to_numpy()))
    return ShardResult(index.encode(empty, np.concatenate(vectors), np.concatenate(ids)))


def _counts(path: Path, kind: IndexKind) -> pd.Series:
    """Vectors of each image of a shard."""
    if kind == "local":
        return store.feature_counts(path)
    ids = store.load(path).image_ids
    return pd.Series(1, index=ids, dtype="int64")


def _vectors(path: Path) -> np.ndarray:
    record = store.load(path)
    return record.descriptors if isinstance(record, LocalFeatures) else record.vectors


# ----------------------------------------------------------------------------------------- finish


def _manifest(folder: IndexFolder) -> dict[str, Any]:
    try:
        return store.load(folder.manifest) if folder.manifest.exists() else {}
    except store.StoreError as error:  # its writer was killed
        print(f"{error}; the index is put together again")
        return {}


def _finish(
    library: Library,
    kind: IndexKind,
    factory: str,
    shards: pd.DataFrame,
    owners: pa.Table,
    paths: list[Path],
    former: dict[str, Any],
) -> IndexReport:
    """Write whose vectors the index holds, and which parts hold; remove the rest, except the parts of the former
    index, which another run may be searching."""
    folder = library.index(kind)
    # With its number: a shard that is made again may have the same bytes under another number.
    named = shards["number"].astype(str) + " " + shards["sha256"]
    before = {f"{shard['number']} {shard['sha256']}" for shard in former.get("shards", [])}

    def save_manifest() -> None:
        used = [folder.trained, folder.owners, folder.removed, *paths]
        hashes = {path.name: store.describe(path)["sha256"] for path in used}
        # With the hashes in it, the manifest changes whenever a search could find something else.
        manifest = {
            "factory": factory,
            "sha256": hashes,
            "catalogue": _catalogue_digest(library),
            "vectors": int(shards["vectors"].sum()),
            "parts": [
                {"file": path.name, "shards": [int(n) for n in path.stem.split("-")[1:]]}
                for path in paths
            ],
            "shards": shards.to_dict("records"),
        }
        _save(folder.manifest, build_index, manifest, [*hashes.values(), manifest["catalogue"]])

    if {*named} < before and _catalogue_digest(library) == former["catalogue"]:
        # Vectors leave before what is known of them, so that a build which is killed shows none that is masked.
        save_manifest()
    _save(folder.owners, owners_of, owners, named.tolist())
    removed = removed_ids(library, kind, owners)
    _save(folder.removed, removed_ids, pd.DataFrame({"id": removed}), removed.tolist())
    save_manifest()
    _remove_others(folder, former)
    size = sum(path.stat().st_size for path in paths)
    return IndexReport(factory, int(shards["vectors"].sum()), len(paths), size / 1e6)


def largest_part(library: Library, kind: IndexKind) -> int:
    """References in the largest part of an index; 1 where its manifest is unfinished."""
    manifest = _manifest(library.index(kind))
    spans = [range(part["shards"][0], part["shards"][1] + 1) for part in manifest.get("parts", [])]
    held = {shard["number"]: shard["images"] for shard in manifest.get("shards", [])}
    return max((sum(held.get(n, 0) for n in span) for span in spans), default=1)


def remove_former_parts(library: Library, kind: IndexKind) -> None:
    """Delete the parts of the former index that the present one has no use for, which no run may be searching."""
    _remove_others(library.index(kind), {})


def _remove_others(folder: IndexFolder, former: dict[str, Any]) -> None:
    """Delete what neither the index nor the former manifest names."""
    named = {*_manifest(folder)["sha256"], *(part["file"] for part in former.get("parts", []))}
    for path in (*folder.root.glob("*.faiss"), *folder.root.glob("*.parquet")):
        if path.name not in named:
            store.remove(path)


def _save(path: Path, function: Any, record: Any, inputs: list[Any]) -> None:
    made = store.origin(function, {}, [str(one) for one in inputs])
    if not store.is_current(path, made):
        store.save(path, record, made)


@store.produces("index_owners", version=2)
def owners_of(tables: list[pa.Table]) -> pa.Table:
    """Whose vectors an index holds: place and image_id, by place."""
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables)


@store.produces("index_removed")
def removed_ids(library: Library, kind: IndexKind, owners: pa.Table) -> np.ndarray:
    """Ids (r,) int64 of the indexed vectors whose image is not in the library (at its snapshot), or has changed
    and is in another shard."""
    masked = store.describe(library.masked) if library.masked.exists() else {"rows": 0}
    shards, numbers = store.shard_and_row(owners["place"].to_numpy())
    asked = shards > masked.get("last_shard", np.inf)
    if library.masked.exists():  # a compaction that was killed leaves what is of no image shard
        held = [store.shard_number(path) for path in store.shards(library.images, ".parquet")]
        asked |= ~np.isin(shards, held)
    if masked["rows"]:
        masked_ids = pa.array(store.load(library.masked)["image_id"], pa.large_string())
        asked |= np.asarray(pc.is_in(owners["image_id"], value_set=masked_ids))
    if not asked.any():
        return np.empty(0, np.int64)
    catalogue = store.open_catalogue(library)
    rows = catalogue.rows_of(owners["image_id"].filter(asked).to_pylist())
    shards, numbers = shards[asked], numbers[asked]
    now, _ = store.shard_and_row(catalogue.places[rows])
    gone = (rows < 0) | (now != shards)
    ids = [np.empty(0, np.int64)]
    for shard in np.unique(shards[gone]).tolist():
        at = numbers[gone & (shards == shard)]
        name = store.shard_name(shard)
        counts = np.ones(at.max() + 1)
        if kind == "local":
            counts = store.feature_counts(library.local_features / f"{name}.h5").to_numpy()
        ids.append(index.ids_of(store.place_of(shard, at), counts[at]))
    return np.concatenate(ids)
