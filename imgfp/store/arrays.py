# SPDX-License-Identifier: AGPL-3.0-or-later
"""Arrays and tables for other tools, written part by part: `.npy` and Parquet."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imgfp.store.files import StoreError, make_folder, write_bytes

_PIECE_BYTES = 1 << 20


def write_npy(path: Path, parts: Iterable[np.ndarray]) -> None:
    """Write arrays (n,d) float32 of one width, below each other, as one array in NumPy's format 1.0, of which one part at a
    time is in memory. Raises StoreError where there are none."""
    make_folder(path.parent)
    with tempfile.TemporaryFile(dir=path.parent) as out:
        rows, width = 0, 0
        for part in parts:
            if not rows:
                width = part.shape[1]
                _write_header(out, rows, width)
            out.write(np.ascontiguousarray(part, "<f4").tobytes())
            rows += len(part)
        if not rows:
            raise StoreError(f"there are no vectors to write to {path.name}; run notebook 06")
        out.seek(0)
        _write_header(
            out, rows, width
        )  # as long as before: NumPy leaves room for a larger number of rows
        out.seek(0)
        write_bytes(path, iter(lambda: out.read(_PIECE_BYTES), b""))


def _write_header(out, rows: int, width: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(out, header)


def write_parquet(path: Path, parts: Iterable[pa.Table]) -> None:
    """Write tables of one schema, below each other, as one Parquet file, of which one part at a time is in memory. Raises
    StoreError where there are none."""
    make_folder(path.parent)
    with tempfile.TemporaryFile(dir=path.parent) as out:
        writer = None
        for part in parts:
            writer = writer or pq.ParquetWriter(out, part.schema, compression="zstd")
            writer.write_table(part)
        if writer is None:
            raise StoreError(f"there is nothing to write to {path.name}; run notebook 06")
        writer.close()
        out.seek(0)
        write_bytes(path, iter(lambda: out.read(_PIECE_BYTES), b""))
