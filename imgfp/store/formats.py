# SPDX-License-Identifier: AGPL-3.0-or-later
"""File formats of others: descriptor HDF5, challenge CSVs, manifests. Texts of the 2021 system: `isc2021`.

Readers never evaluate text; what they do not understand becomes a FormatError that names file and line.
Writers write whole or not at all. Ids are data: whatever a format can hold goes through unchanged, and
what it cannot hold is refused.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from imgfp import store, urls
from imgfp.datatypes import TABLES, Descriptors, table
from imgfp.images import printable
from imgfp.inference import same_model
from imgfp.store.files import undefused

#: A manifest at a URL is read into memory.
MAX_MANIFEST_BYTES = 2**30
#: An HDF5 dataset may promise this many bytes for one that is stored.
MAX_INFLATION = 1000


class FormatError(ValueError):
    """A foreign file that cannot be read or written; the message names file, line and remedy."""

    def __init__(self, path: str | os.PathLike, line: int | None, wrong: str) -> None:
        place = printable(path) if line is None else f"{printable(path)}, line {line}"
        super().__init__(f"{place}: {wrong}")


# -------------------------------------------------------------------------- CSV with header


def read_truth(path: Path) -> pd.DataFrame:
    """Ground truth CSV (`query_id,reference_id`, blank for none; more columns are ignored)."""
    rows = [map(undefused, row) for _, row in _csv_rows(path, ["query_id", "reference_id"])]
    return table("truth", pd.DataFrame(rows, columns=["query_id", "reference_id"]))


def read_predictions(path: Path) -> pd.DataFrame:
    """Predictions CSV (`query_id,reference_id,score`; higher is more alike; more columns ignored)."""
    return table("predictions", _read_scored(path).drop(columns="line"))


def _read_scored(path: Path) -> pd.DataFrame:
    """The columns of `predictions` of a CSV, and the `line` of each row."""
    names = list(TABLES["predictions"])
    rows = [
        (undefused(query), undefused(reference), number(score, path, line, "score"), line)
        for line, (query, reference, score) in _csv_rows(path, names)
    ]
    return pd.DataFrame(rows, columns=[*names, "line"]).astype(TABLES["predictions"])


def read_pair_table(path: Path) -> pd.DataFrame | None:
    """Scored pairs, columns query_id, reference_id, score and `line` (row, in Parquet) in the file: Parquet, or CSV whose
    header names these columns (more are ignored); None for a file that is neither. Raises FormatError."""
    with opened(path) as file:
        start = file.readline(1 << 12)
    names = list(TABLES["predictions"])
    if start.startswith(b"PAR1"):
        try:
            held = pq.read_table(path, columns=names, page_checksum_verification=True)
            held.validate(full=True)
            pairs = held.select(names).to_pandas().astype(TABLES["predictions"])
        except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
            wrong = f"expected a table with the columns {', '.join(names)}: {error}"
            raise FormatError(path, None, wrong) from None
        if held.num_rows and not np.isfinite(pairs["score"]).all():
            row = int(np.flatnonzero(~np.isfinite(pairs["score"]))[0]) + 1
            raise FormatError(path, row, "the score is not a finite number")
        return pairs.assign(line=np.arange(1, len(pairs) + 1))
    header = next(csv.reader([start.decode("utf-8-sig", "replace").strip()]), [])
    return _read_scored(path) if {*names} <= {*header} else None


def read_manifest(path: str | Path) -> pd.DataFrame:
    """Manifest CSV (`image_id,path`) of a file or URL: columns image_id, path (URLs as they are).

    Relative paths count from the manifest's folder. Raises FormatError for a blank id or path, a URL that
    cannot be used, and for what a manifest at a URL may not name: files of this machine, and what lies
    outside its folder and has no URL of its own. Raises UrlError where the manifest cannot be read.
    """
    folder = "" if urls.is_url(path) else os.path.dirname(os.path.abspath(path))

    def named() -> Iterator[tuple[str, str]]:
        for line, (image_id, name) in _csv_rows(path, ["image_id", "path"]):
            if not image_id or not name or "\0" in name:
                raise FormatError(path, line, "an image_id or path is blank or not a path")
            try:
                yield image_id, _named(path, folder, name)
            except ValueError as error:
                raise FormatError(path, line, str(error)) from None

    rows, columns = named(), ["image_id", "path"]
    parts = [pd.DataFrame(columns=columns, dtype="str")]
    while block := list(itertools.islice(rows, _BLOCK_ROWS)):
        parts.append(pd.DataFrame(block, columns=columns, dtype="str"))
    return pd.concat(parts, ignore_index=True)


#: Rows of a manifest that are in memory as Python texts, which take several times the memory of a column.
_BLOCK_ROWS = 50_000


def _named(manifest: str | Path, folder: str, name: str) -> str:
    """The path or URL that a manifest names; folder: of one that is a file."""
    if urls.is_url(name):
        urls.check(name)
        if urls.is_local(name) and urls.is_url(manifest) and not urls.is_local(manifest):
            raise ValueError("a manifest at a URL cannot name files of this machine")
        return name
    if not urls.is_url(manifest):
        return os.path.normpath(os.path.join(folder, name))
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError("a path must lie below the manifest's folder, or be a URL")
    return f"{manifest.rpartition('/')[0]}/{name}"


def write_truth(path: Path, truth: pd.DataFrame) -> None:
    """Write a `truth` table as CSV."""
    store.write_sheet(path, table("truth", truth)[["query_id", "reference_id"]])


def write_predictions(path: Path, predictions: pd.DataFrame) -> None:
    """Write a `predictions` table as CSV, with what columns it has besides."""
    store.write_sheet(path, table("predictions", predictions))


def _csv_rows(path: str | Path, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and the values of the named columns of each row; blank lines are skipped."""
    with opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader = csv.reader(text, strict=True)
        try:
            header = next(reader, [])
            missing = [name for name in names if name not in header]
            if missing:
                wrong = f"the header lacks {missing}; it reads {','.join(header)[:120]!r}"
                raise FormatError(path, 1, f"{wrong}; the first line must name the columns")
            columns = [header.index(name) for name in names]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise FormatError(
                        path, reader.line_num, f"expected {len(header)} values, got {len(row)}"
                    )
                yield reader.line_num, [row[column] for column in columns]
        except UnicodeDecodeError:
            raise FormatError(
                path, reader.line_num + 1, "not UTF-8 text; save it as UTF-8"
            ) from None
        except csv.Error as error:
            raise FormatError(path, reader.line_num, str(error)) from None


# ------------------------------------------------------------------- descriptors as HDF5


def read_descriptors(path: Path) -> tuple[Descriptors, Descriptors]:
    """Query and reference descriptors of an ISC file: datasets `query` (n,d), `reference` (m,d),
    `query_ids`, `reference_ids`.

    Vectors that are not of unit norm are normalised. Raises FormatError for datasets that are missing,
    point outside the file, promise far more than they store, or hold zero or non-finite vectors.
    """
    try:
        with h5py.File(path, "r") as file:
            return _side(file, path, "query"), _side(file, path, "reference")
    except FormatError:
        raise
    except FileNotFoundError:
        raise FormatError(path, None, "no such file") from None
    except (OSError, RuntimeError, UnicodeDecodeError, ValueError, KeyError) as error:
        raise FormatError(path, None, f"not a readable HDF5 file: {error}") from None


def descriptor_of(path: Path) -> str:
    """Identity of the model whose vectors `write_descriptors` wrote; "" where a file does not tell. Raises
    FormatError."""
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("descriptor", ""))
    except FileNotFoundError:
        raise FormatError(path, None, "no such file") from None
    except (OSError, RuntimeError, UnicodeDecodeError, ValueError, KeyError) as error:
        raise FormatError(path, None, f"not a readable HDF5 file: {error}") from None


def check_descriptor(path: Path, wanted: str) -> None:
    """Raises FormatError for a descriptor file that tells of another model than `wanted`, an identity or a name."""
    held = descriptor_of(path)
    if not same_model(held, wanted):
        raise FormatError(path, None, f"its vectors are of {held}, expected those of {wanted}")


def write_descriptors(
    path: Path,
    query: Iterable[Descriptors],
    reference: Iterable[Descriptors],
    descriptor: str = "",
) -> None:
    """Write an ISC descriptor file with checksums on its vectors. Each side comes in parts, of which one at a time
    is in memory. Ids must not hold a NUL. descriptor: identity of the model that made the vectors, kept as an
    attribute. Raises FormatError for a side without parts."""
    store.make_folder(path.parent)
    with tempfile.TemporaryFile(dir=path.parent) as out:
        with h5py.File(out, "w") as file:
            file.attrs["descriptor"] = descriptor
            for name, parts in (("query", query), ("reference", reference)):
                for part in parts:
                    refuse_breaks(path, part.image_ids, "\0")
                    _append(file, name, part.vectors, fletcher32=True)
                    ids = np.array([str(image_id) for image_id in part.image_ids], object)
                    _append(file, f"{name}_ids", ids, dtype=h5py.string_dtype())
                if name not in file:
                    raise FormatError(path, None, f"there are no '{name}' descriptors to write")
        out.seek(0)
        store.write_sealed(path, iter(lambda: out.read(1 << 20), b""))


def _append(file: h5py.File, name: str, rows: np.ndarray, **kind: Any) -> None:
    """Add rows to a dataset, which the first ones create."""
    if name not in file:
        width = rows.shape[1:]
        file.create_dataset(
            name,
            (0, *width),
            maxshape=(None, *width),
            chunks=(256, *width),
            **({"dtype": rows.dtype} | kind),
        )
    data = file[name]
    data.resize(len(data) + len(rows), axis=0)
    data[len(data) - len(rows) :] = rows


def _side(file: h5py.File, path: Path, name: str) -> Descriptors:
    vectors = _dataset(file, path, name)
    ids = _dataset(file, path, f"{name}_ids")
    if vectors.dtype.kind != "f" or vectors.ndim != 2 or ids.shape != vectors.shape[:1]:
        raise FormatError(
            path, None, f"'{name}' {vectors.dtype} {vectors.shape} does not fit its ids {ids.shape}"
        )
    if h5py.check_string_dtype(ids.dtype) is None:
        raise FormatError(path, None, f"'{name}_ids' holds {ids.dtype}, expected text")
    rows = vectors[:].astype(np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 1e-6)).all():
        row = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 1e-6)))[0])
        raise FormatError(path, None, f"'{name}' row {row} is zero or not finite; leave it out")
    if (abs(norms - 1) > 1e-3).any():
        rows = rows / norms
    return Descriptors(ids.asstr()[:], rows)


def _dataset(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise FormatError(
            path, None, f"'{name}' is missing or a link; it must be in the file itself"
        )
    data = file[name]
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise FormatError(path, None, f"'{name}' points outside the file; that is refused")
    if data.size * data.dtype.itemsize > MAX_INFLATION * max(data.id.get_storage_size(), 1):
        raise FormatError(path, None, f"'{name}' {data.shape} promises more than the file holds")
    return data


# -------------------------------------------------------------------------------- helpers


def opened(path: str | Path) -> BinaryIO:
    """A file, or what a URL holds, to be read as bytes. Raises FormatError where it cannot be opened."""
    if urls.is_url(path):
        return io.BytesIO(urls.read(path, MAX_MANIFEST_BYTES))
    try:
        return open(path, "rb")
    except OSError as error:
        raise FormatError(path, None, f"cannot be read: {error.strerror}") from None


def number(text: str, path: str | Path, line: int, what: str) -> float:
    """A finite number. Raises FormatError that names what was expected to be one."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # Python would take 1_000, and the digits of other scripts.
    if not math.isfinite(value) or "_" in text or not text.isascii():
        raise FormatError(path, line, f"{what} {text[:40]!r} is not a finite number")
    return value


def refuse_breaks(path: Path, ids: Iterable[str], breaks: str) -> None:
    """Raise FormatError for an id that holds one of the characters that end a value of the format."""
    for image_id in ids:
        if any(character in image_id for character in breaks):
            raise FormatError(
                path, None, f"this format cannot hold the id {image_id!r}; use another format"
            )
