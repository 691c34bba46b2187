# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every artefact's one reader and one writer.

An artefact is a file with a sidecar `<file>.json` beside it, which holds its origin (kind, version, code,
settings, inputs: see `provenance`), size and SHA-256, and a seal, the SHA-256 of all that. The file is written beside its place, flushed, read
back and renamed; the sidecar is written last and read first. So an artefact is whole or absent, and one of
the same origin is never computed again.
"""

from __future__ import annotations

import io
import json
import mmap
import os
from collections.abc import Callable, Iterable, Sequence, Sized
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from imgfp import __version__
from imgfp.datatypes import RENAMED_COLUMNS, RENAMED_VALUES, Descriptors, LocalFeatures
from imgfp.inference import sha256_of
from imgfp.store.fetched import refuse_fetched
from imgfp.store.files import StoreError, hash_of, seal_of, write_bytes
from imgfp.store.provenance import Origin

#: Rows that a table keeps together on disk: the least that `load_rows` reads.
ROW_GROUP = 32
#: Shards that a sample is drawn from, at least: images of one shard are often alike.
SHARDS_DRAWN = 16
#: Environment variable that is set for the notebook of a stage that the user asked to redo.
REDO = "IMGFP_REDO"
#: Environment variable that is set where the user asked to try refused files again.
RETRY = "IMGFP_RETRY"
#: What version 0.1.0 called the function that made evidence tables.
_EVIDENCE_OF_0_1 = "imgfp.stages.pairs.score_pairs"
#: What has been redone in this process.
_redone: set[Path] = set()


def save(path: Path, record: Any, made: Origin | dict[str, Any], **facts: Any) -> dict[str, Any]:
    """Write a record and its sidecar; returns the sidecar.

    The suffix must fit the record: `.parquet` DataFrame, `.arrow` DataFrame or pyarrow.Table (read back as a
    Table that lies in the file), `.h5` LocalFeatures or Descriptors, `.json` plain values, `.faiss` bytes or an iterator
    of them (read back as a map of the file, which processes share). made: of `provenance.origin` or
    `origin_of`; facts: kept beside it.
    """
    refuse_fetched(path)
    sidecar = sidecar_of(path)
    sidecar.unlink(missing_ok=True)
    digest = write_bytes(path, _ENCODERS[path.suffix](record))
    described = {
        **(made.described() if isinstance(made, Origin) else made),
        "sha256": digest,
        "bytes": path.stat().st_size,
        "mtime_ns": path.stat().st_mtime_ns,
        **({"rows": len(record)} if isinstance(record, Sized) else {}),
        "imgfp": __version__,
        **facts,
    }
    write_sidecar(path, described)
    return described


def load(path: Path, columns: Sequence[str] | None = None) -> Any:
    """Read an artefact, its bytes checked against the sidecar. `columns`: of a table, only these.

    Raises StoreError naming the file when it is missing, half-written or damaged.
    """
    verify(path)
    if path.suffix == ".parquet":
        if describe(path).get("maker") == _EVIDENCE_OF_0_1:
            return _read_renamed(path, columns)
        return _read_table(path, columns)
    return _DECODERS[path.suffix](path)


def columns_of(path: Path) -> list[str]:
    """Names of the columns of a stored `.parquet` table."""
    verify(path)
    return pq.read_schema(path).names


def load_rows(path: Path, rows: Sequence[int], columns: Sequence[str]) -> pd.DataFrame:
    """Single rows of a stored table that holds pictures, in the order asked; the rest stays on disk."""
    verify(path)
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        groups = sorted({row // ROW_GROUP for row in rows})
        arrow = file.read_row_groups(groups, columns=list(columns))
    arrow.validate(full=True)
    base = {group: number * ROW_GROUP for number, group in enumerate(groups)}
    places = [base[row // ROW_GROUP] + row % ROW_GROUP for row in rows]
    return arrow.take(places).to_pandas()


def describe(path: Path) -> dict:
    """The sidecar of an artefact. Raises StoreError when there is none, or not as it was written; those of
    version 0.1 have no seal."""
    try:
        described = json.loads(sidecar_of(path).read_bytes())
        sealed = described.get("seal", _seal(described)) == _seal(described)
        if sealed and {"sha256", "bytes"} <= set(described):
            return described
    except FileNotFoundError:
        raise StoreError(f"{path} is missing or unfinished; run the stage that makes it") from None
    except (ValueError, AttributeError):
        pass
    raise StoreError(f"{sidecar_of(path)} is damaged; delete it and run again")


def origin_of(path: Path, inputs: Sequence[str]) -> dict[str, Any]:
    """The origin of an artefact, for one that is the same of other inputs (hashes)."""
    kept = {"kind", "maker", "version", "code", "settings"}
    found = {name: value for name, value in describe(path).items() if name in kept}
    return found | {"inputs": hash_of(list(inputs))}


def is_current(path: Path, wanted: Origin) -> bool:
    """True when the artefact is there, whole in size, and was made as `wanted`.

    Where the runner redoes a stage, False at the first question about each path.
    """
    if os.environ.get(REDO) and path not in _redone:
        _redone.add(path)
        return False
    try:
        found = describe(path)
        return not wanted.differences(found) and path.stat().st_size == found["bytes"]
    except (StoreError, OSError, KeyError):
        return False


def what_differs(path: Path, wanted: Origin) -> str:
    """In words, how a stored artefact was made otherwise than `wanted`; blank when it is absent or was
    made so."""
    try:
        return wanted.differences(describe(path))
    except StoreError:
        return ""


def remove(path: Path) -> None:
    """Delete an artefact or a sealed file, sidecar or seal first so that it is never read as whole."""
    refuse_fetched(path)
    for beside in (sidecar_of(path), seal_of(path)):
        beside.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def shards(folder: Path, suffix: str) -> list[Path]:
    """The finished shards of a folder in order."""
    return sorted(p for p in folder.glob(f"shard-*{suffix}") if sidecar_of(p).exists())


def draw_shards(paths: Sequence[Path], items: int, seed: int = 0) -> list[Path]:
    """Some of these shards, drawn at random: `SHARDS_DRAWN` or more, which hold `items` items if all do, so that a look at
    a large folder reads a small part of it."""
    drawn: list[Path] = []
    held = 0
    for at in np.random.default_rng(seed).permutation(len(paths)).tolist():
        if len(drawn) >= SHARDS_DRAWN and held >= items:
            break
        drawn.append(paths[at])
        held += describe(paths[at]).get("rows", 0)
    return sorted(drawn)


def load_tables(folder: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All table shards of a folder, joined in order. Raises StoreError when there are none."""
    parts = [load(path, columns) for path in shards(folder, ".parquet")]
    if not parts:
        raise StoreError(f"{folder} holds nothing yet; run the stage that fills it")
    return pd.concat(parts, ignore_index=True)


def digest_of(root: Path, patterns: Sequence[str]) -> str:
    """One hash over every artefact and file below `root` that matches; changes when any byte does."""
    found = sorted({p for pattern in patterns for p in root.glob(pattern) if p.is_file()})
    parts = []
    for path in found:
        if path.name.startswith("."):
            continue
        if path.suffix == ".json" and path.with_suffix("").exists():
            continue  # a sidecar; its artefact speaks for it
        try:
            whole = describe(path)["sha256"] if sidecar_of(path).exists() else sha256_of(path)
        except StoreError as error:
            whole = str(error)  # so that the stage which made it runs again
        parts.append((path.relative_to(root).as_posix(), whole, path.stat().st_size))
    return hash_of(parts)


def write_sidecar(path: Path, described: dict[str, Any]) -> None:
    """Write the sidecar of an artefact, sealed."""
    plain = json.loads(json.dumps(described, default=str))
    plain["seal"] = _seal(plain)
    write_bytes(sidecar_of(path), json.dumps(plain, indent=1, sort_keys=True).encode())


def _seal(described: dict[str, Any]) -> str:
    return hash_of({name: value for name, value in described.items() if name != "seal"})


def sidecar_of(path: Path) -> Path:
    """Where the sidecar of an artefact lies."""
    return path.with_name(path.name + ".json")


def verify(path: Path, *, every_byte: bool = False) -> None:
    """Raises StoreError naming an artefact that is missing or not as it was written.

    A file of the size and date that its sidecar keeps is taken for sound: a library of terabytes is opened
    by many processes. Formats with checksums of their own find damage while they are read; every_byte looks
    at the file itself.
    """
    described = describe(path)
    try:
        status = path.stat()
    except OSError:
        raise StoreError(f"{path} is missing; run the stage that makes it") from None
    state = status.st_size, status.st_mtime_ns
    stamped = (described["bytes"], described.get("mtime_ns")) == state
    if every_byte or path.suffix == ".json":
        digest = sha256_of(path)
    else:
        digest = described["sha256"] if stamped else _checked_digest(path, *state)
    if digest != described["sha256"]:
        raise StoreError(
            f"{path} is damaged (its SHA-256 is not the one written); delete it, run again"
        )


@lru_cache(maxsize=100_000)
def _checked_digest(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_of(path)


def _encode_table(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    pictures = ROW_GROUP if any(pa.types.is_binary(kind) for kind in arrow.schema.types) else None
    pq.write_table(
        arrow, out, compression="zstd", write_page_checksum=True, row_group_size=pictures
    )
    return out.getvalue()


def _encode_arrow(frame: pd.DataFrame | pa.Table) -> Iterable[bytes]:
    out = pa.BufferOutputStream()
    if isinstance(frame, pd.DataFrame):
        frame = pa.Table.from_pandas(frame, preserve_index=False)
    arrow = frame.replace_schema_metadata()
    with pa.ipc.new_file(out, arrow.schema) as file:
        # One batch, so that a column is one array that is used where it lies.
        file.write_table(arrow.combine_chunks(), max_chunksize=max(1, len(frame)))
    return [out.getvalue()]


def _map_arrow(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    table.validate()
    return table


def _read_table(path: Path, columns: Sequence[str] | None) -> pd.DataFrame:
    arrow = pq.read_table(path, columns=columns, page_checksum_verification=True)
    arrow.validate(full=True)
    return arrow.to_pandas()


def _read_renamed(path: Path, columns: Sequence[str] | None) -> pd.DataFrame:
    """Evidence of version 0.1.0 under the present names of its columns and values."""
    former = {new: old for old, new in RENAMED_COLUMNS.items()}
    wanted = None if columns is None else [former.get(name, name) for name in columns]
    found = _read_table(path, wanted).rename(columns=RENAMED_COLUMNS)
    return found.replace({name: RENAMED_VALUES[name] for name in RENAMED_VALUES if name in found})


def _encode_h5(record: LocalFeatures | Descriptors) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.attrs["record"] = type(record).__name__
        ids = [str(i) for i in record.image_ids]
        file.create_dataset("image_ids", data=ids, dtype=h5py.string_dtype())
        names = ("vectors",) if isinstance(record, Descriptors) else _FEATURE_ARRAYS
        for name in names:
            array = getattr(record, name)
            chunks = min(len(array), _CHUNK_ROWS), *array.shape[1:]
            chunked = {"chunks": chunks, "fletcher32": True} if array.size else {}
            # A dataset is otherwise written when its handle is freed, at a moment that garbage collection
            # chooses, and the order of its chunks in the file with it.
            file.create_dataset(name, data=array, **chunked).flush()
    return out.getvalue()


_FEATURE_ARRAYS = ("offsets", "keypoints", "descriptors")
#: Rows of an array that have one checksum: the least that a reader of one image reads.
_CHUNK_ROWS = 256


def open_h5(path: Path) -> h5py.File:
    file = h5py.File(path, "r")
    for name in file:
        # A link or an outside storage could make the file read another file of this machine.
        data = file[name]
        linked = not isinstance(file.get(name, getlink=True), h5py.HardLink)
        if linked or not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
            raise StoreError(f"{path}: '{name}' points outside the file; it is not one of ours")
    return file


def _decode_h5(path: Path) -> LocalFeatures | Descriptors:
    with open_h5(path) as file:
        ids = np.array(file["image_ids"].asstr()[:], dtype=object)
        if file.attrs["record"] == "Descriptors":
            return Descriptors(ids, file["vectors"][:])
        return LocalFeatures(ids, *(file[name][:] for name in _FEATURE_ARRAYS))


def _map_bytes(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


_ENCODERS: dict[str, Callable[[Any], bytes | Iterable[bytes]]] = {
    ".parquet": _encode_table,
    ".arrow": _encode_arrow,
    ".h5": _encode_h5,
    ".json": lambda value: json.dumps(value, indent=1, default=str).encode(),
    ".faiss": lambda pieces: pieces,
}
_DECODERS: dict[str, Callable[[Path], Any]] = {
    ".arrow": _map_arrow,
    ".h5": _decode_h5,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".faiss": _map_bytes,
}
