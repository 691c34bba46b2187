# SPDX-License-Identifier: AGPL-3.0-or-later
"""File formats of others: keypoint and score texts of the 2021 system, descriptor HDF5, challenge CSVs,
manifests.

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
from typing import Any

import h5py
import numpy as np
import pandas as pd

from imgfp import sift, store, urls
from imgfp.datatypes import Descriptors, table
from imgfp.images import printable
from imgfp.inference import same_model
from imgfp.store.files import undefused

#: A keypoint line of the seed takes about 400 bytes, a path at most 4,096.
MAX_LINE_BYTES = 1 << 16
#: A manifest at a URL is read into memory.
MAX_MANIFEST_BYTES = 2**30
#: An HDF5 dataset may promise this many bytes for one that is stored.
MAX_INFLATION = 1000


class FormatError(ValueError):
    """A foreign file that cannot be read or written; the message names file, line and remedy."""

    def __init__(self, path: str | os.PathLike, line: int | None, wrong: str) -> None:
        place = printable(path) if line is None else f"{printable(path)}, line {line}"
        super().__init__(f"{place}: {wrong}")


# ---------------------------------------------------------------- the seed's keypoint text


def read_keypoints(path: Path, frame_scale: float) -> tuple[str, np.ndarray, np.ndarray]:
    """One image's keypoint text of the seed: its id, keypoints (n,4) float32, descriptors (n,128) uint8.

    A line is `<id>_<number>_<x>_<y>_<scale>_<angle>||<128 comma-separated bytes>`, the id may hold
    underscores. The file holds x, y in a downscaled frame and does not say how far: `frame_scale` is
    frame pixels per picture pixel (`sift.frame_scale`), 1 keeps the frame's. Keypoints come back as in
    `sift.extract`, except that angles stay as they are in the file (they differ by whole turns);
    descriptors in the layout of `sift.extract`. An empty file gives the id "".
    """
    image_id = ""
    rows: list[list[float]] = []
    histograms: list[list[int]] = []
    for line, text in _lines(path):
        head, bars, tail = text.partition("||")
        fields = head.rsplit("_", 5)
        if not bars or len(fields) != 6:
            raise FormatError(
                path, line, "expected <id>_<i>_<x>_<y>_<scale>_<angle>||<128 numbers>"
            )
        if rows and fields[0] != image_id:
            raise FormatError(
                path, line, f"id {fields[0]!r} in a file of {image_id!r}; split the file"
            )
        image_id = fields[0]
        _number(fields[1], path, line, "keypoint number")
        rows.append([_number(value, path, line, "keypoint") for value in fields[2:]])
        histograms.append(_bytes128(tail, path, line))
    keypoints = np.array(rows, np.float64).reshape(-1, 4)
    keypoints[:, :2] = (keypoints[:, :2] + 0.5) / frame_scale - 0.5
    keypoints[:, 2] *= sift.SIZE_PER_SCALE / frame_scale
    descriptors = sift.from_seed_layout(np.array(histograms, np.uint8).reshape(-1, 128))
    return image_id, keypoints.astype(np.float32), descriptors


def write_keypoints(
    path: Path, image_id: str, keypoints: np.ndarray, descriptors: np.ndarray, frame_scale: float
) -> None:
    """Write one image's features as the seed's keypoint text; arguments as `read_keypoints` gives them.

    Six significant digits, as the seed wrote: a file read with frame_scale 1 is written byte for byte.
    """
    _refuse_breaks(path, [image_id], "\n\r")
    rows = np.array(keypoints, np.float64)
    rows[:, :2] = (rows[:, :2] + 0.5) * frame_scale - 0.5
    rows[:, 2] *= frame_scale / sift.SIZE_PER_SCALE
    lines = [
        f"{image_id}_{i}_{x:.6g}_{y:.6g}_{scale:.6g}_{angle:.6g}||{','.join(map(str, numbers))}\n"
        for i, ((x, y, scale, angle), numbers) in enumerate(
            zip(rows.tolist(), sift.to_seed_layout(descriptors).tolist(), strict=True)
        )
    ]
    store.write_bytes(path, "".join(lines).encode())


def _bytes128(text: str, path: Path, line: int) -> list[int]:
    try:
        values = [int(value) for value in text.split(",")]
    except ValueError:
        raise FormatError(path, line, "a descriptor value is not a whole number") from None
    if len(values) != 128 or min(values) < 0 or max(values) > 255:
        raise FormatError(path, line, f"expected 128 values of 0..255, got {len(values)} values")
    return values


# --------------------------------------------------------------------- tab-separated pairs


def read_pairs(path: Path) -> pd.DataFrame:
    """Pair text `query<TAB>reference`, further columns ignored: columns query_id, reference_id."""
    rows = [fields[:2] for _, fields in _tabbed(path, 2)]
    return pd.DataFrame(rows, columns=["query_id", "reference_id"], dtype=object)


def read_scores(path: Path) -> pd.DataFrame:
    """Score text `query<TAB>reference<TAB>score` as the `predictions` table, in the order of the file."""
    rows = [
        (fields[0], fields[1], _number(fields[2], path, line, "score"))
        for line, fields in _tabbed(path, 3)
    ]
    return table("predictions", pd.DataFrame(rows, columns=["query_id", "reference_id", "score"]))


def write_pairs(path: Path, pairs: pd.DataFrame) -> None:
    """Write the columns query_id, reference_id as pair text, in order."""
    _write_tabbed(path, pairs, ["query_id", "reference_id"])


def write_scores(path: Path, predictions: pd.DataFrame) -> None:
    """Write a `predictions` table as score text, in order; whole numbers without a decimal point."""
    scores = [f"{score:.17g}" if score % 1 else f"{score:.0f}" for score in predictions["score"]]
    _write_tabbed(path, predictions.assign(score=scores), ["query_id", "reference_id", "score"])


def _tabbed(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    for line, text in _lines(path):
        fields = text.split("\t")
        if len(fields) < columns or not all(fields[:2]):
            raise FormatError(
                path, line, f"expected {columns} tab-separated values, got {text[:80]!r}"
            )
        yield line, fields


def _write_tabbed(path: Path, frame: pd.DataFrame, columns: list[str]) -> None:
    for name in columns[:2]:
        _refuse_breaks(path, frame[name], "\t\n\r")
    rows = frame[columns].itertuples(index=False, name=None)
    store.write_bytes(path, "".join("\t".join(row) + "\n" for row in rows).encode())


# -------------------------------------------------------------------------- CSV with header


def read_truth(path: Path) -> pd.DataFrame:
    """Ground truth CSV (`query_id,reference_id`, blank for none; more columns are ignored)."""
    rows = [map(undefused, row) for _, row in _csv_rows(path, ["query_id", "reference_id"])]
    return table("truth", pd.DataFrame(rows, columns=["query_id", "reference_id"]))


def read_predictions(path: Path) -> pd.DataFrame:
    """Predictions CSV (`query_id,reference_id,score`; higher is more alike; more columns ignored)."""
    names = ["query_id", "reference_id", "score"]
    rows = [
        (undefused(query), undefused(reference), _number(score, path, line, "score"))
        for line, (query, reference, score) in _csv_rows(path, names)
    ]
    return table("predictions", pd.DataFrame(rows, columns=names))


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
    with _opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader = csv.reader(text, strict=True)
        try:
            header = next(reader, [])
            missing = [name for name in names if name not in header]
            if missing:
                raise FormatError(
                    path, 1, f"the header lacks {missing}; it reads {','.join(header)[:120]!r}"
                )
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
                    _refuse_breaks(path, part.image_ids, "\0")
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


def _opened(path: str | Path):
    if urls.is_url(path):
        return io.BytesIO(urls.read(path, MAX_MANIFEST_BYTES))
    try:
        return open(path, "rb")
    except OSError as error:
        raise FormatError(path, None, f"cannot be read: {error.strerror}") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and texts without their line ends; only a line feed ends a line."""
    with _opened(path) as file:
        for line, data in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            if len(data) == MAX_LINE_BYTES:
                raise FormatError(path, line, f"longer than {MAX_LINE_BYTES} bytes; is it text?")
            try:
                yield line, data.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError:
                raise FormatError(path, line, "not UTF-8 text") from None


def _number(text: str, path: Path, line: int, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(path, line, f"{what} {text[:40]!r} is not a finite number")
    return value


def _refuse_breaks(path: Path, ids: Iterable[str], breaks: str) -> None:
    for image_id in ids:
        if any(character in image_id for character in breaks):
            raise FormatError(
                path, None, f"this format cannot hold the id {image_id!r}; use another format"
            )
