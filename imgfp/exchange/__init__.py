# SPDX-License-Identifier: AGPL-3.0-or-later
"""A finished run in the files of other systems: `imgfp export RUN --as NAME DIR`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from imgfp import store
from imgfp.exchange import coco, fiftyone, isc2021, label_studio, tables, vectors
from imgfp.results import Results

#: Writes what a run holds below an empty folder, and returns the files that it wrote.
Writer = Callable[[Results, Path], list[Path]]

#: Name of a format -> its writer.
FORMATS: dict[str, Writer] = {
    "isc2021": isc2021.write,
    "csv": tables.write_csv,
    "parquet": tables.write_tables,
    "npy": vectors.write_numpy,
    "coco": coco.write,
    "fiftyone": fiftyone.write,
    "label-studio": label_studio.write,
}


def export(results: Results, name: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a run in the format `name`, a key of FORMATS, to a folder that is empty or not there; returns the files.

    A relative folder counts from the project root. It is written whole or not at all. Raises StoreError for a folder that
    holds something, and for a run that lacks what the format needs.
    """
    target = store.project_path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise store.StoreError(f"{store.show(target)} is not an empty folder; name another one")
    store.make_folder(target)
    try:
        return FORMATS[name](results, target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
