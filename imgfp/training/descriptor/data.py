# SPDX-License-Identifier: AGPL-3.0-or-later
"""Photographs to train on, and test queries whose edits are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from imgfp.decoding import read_image
from imgfp.images import ImageError, resize_short_side, walk_images
from imgfp.store import project_path

#: Enough for views of 128 px after a crop; about 150 kB per photograph.
SHORT_SIDE_PX = 192


def load_readable(
    paths: Sequence[str | Path], short_side_px: int = SHORT_SIDE_PX
) -> tuple[list[np.ndarray], list[int], list[str]]:
    """Small (H,W,3) uint8 copies of all readable files, their rows in `paths`, and one line per file that
    is not readable."""
    photographs, rows, rejects = [], [], []
    for row, path in enumerate(paths):
        try:
            photographs.append(resize_short_side(read_image(path), short_side_px))
            rows.append(row)
        except ImageError as error:
            rejects.append(f"{path}: {error.reason}")
    return photographs, rows, rejects


def load_folder(folder: str, groups_csv: str = "") -> tuple[list[np.ndarray], list[str], list[str]]:
    """`load_readable` of all images below a folder, sorted by name, with the group of each: photographs,
    groups, rejects. Raises ValueError for a folder without a readable image."""
    root = project_path(folder)
    files = sorted(walk_images(root))
    photographs, rows, rejects = load_readable(files)
    if not photographs:
        raise ValueError(
            f"{root} holds no readable image; set photo_dir to a folder of photographs"
        )
    return photographs, groups_of([files[row] for row in rows], root, groups_csv), rejects


def groups_of(paths: Sequence[Path], folder: Path, groups_csv: str = "") -> list[str]:
    """The group of each file, blank for none, from a CSV with the columns path (below `folder`) and
    group. Raises ValueError for a table without them, and for one that lists none of the files."""
    if not groups_csv:
        return [""] * len(paths)
    table = pd.read_csv(project_path(groups_csv), dtype=str).fillna("")
    if not {"path", "group"} <= set(table):
        raise ValueError(f"{groups_csv} needs the columns path and group, has {list(table)}")
    group_of = dict(zip(table["path"], table["group"], strict=True))
    names = [path.relative_to(folder).as_posix() for path in paths]
    if names and not any(name in group_of for name in names):
        raise ValueError(f"{groups_csv} lists none of the files of {folder}, such as {names[0]!r}")
    return [group_of.get(name, "") for name in names]


@dataclass(frozen=True)
class Check:
    """Test queries with known edits: files by id, truth (query_id, reference_id, blank for none) and meta
    (query_id, ops joined by "+")."""

    references: dict[str, Path]
    queries: dict[str, Path]
    truth: pd.DataFrame
    meta: pd.DataFrame


def read_check(queries_dir: str, references_dir: str, truth_csv: str, meta_csv: str = "") -> Check:
    """Ids are file names without extension. Raises ValueError for a query of the truth without a file;
    without `meta_csv` every query has an empty list of edits."""
    folders = [project_path(folder) for folder in (references_dir, queries_dir)]
    references, queries = ({p.stem: p for p in sorted(walk_images(f))} for f in folders)
    truth = pd.read_csv(project_path(truth_csv), dtype=str).fillna("")
    missing = [query for query in truth["query_id"] if query not in queries]
    if missing:
        raise ValueError(
            f"{len(missing)} queries of {truth_csv} have no file, first {missing[0]!r}"
        )
    if meta_csv:
        meta = pd.read_csv(project_path(meta_csv), dtype=str)[["query_id", "ops"]].fillna("")
    else:
        meta = truth[["query_id"]].assign(ops="")
    return Check(references, {query: queries[query] for query in truth["query_id"]}, truth, meta)
