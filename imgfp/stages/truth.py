# SPDX-License-Identifier: AGPL-3.0-or-later
"""The truth that a run is measured by: checked before the run, kept with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from imgfp import store
from imgfp.datatypes import files_of
from imgfp.scoring.truth import resolve
from imgfp.stages.inventory import file_ids, list_files
from imgfp.stages.search import read_candidates
from imgfp.store import Library, Run, formats


def check_truth(values: Mapping[str, Any], run: Run, library: Library) -> list[str]:
    """Read the truth file of a profile against the ids of both folders, before any work; sentences about what was
    left out.

    values: parameters of the run, by name. Raises ValueError naming the file where it cannot be used.
    """
    path = values.get("truth")
    if not path:
        return []
    ids = []
    for name, collection in (("query_dir", run), ("reference_dir", library)):
        folder = values.get(name, "")
        known = set() if name == "query_dir" and folder else {*file_ids(collection)}
        ids.append(known | {*(list_files(folder)["image_id"] if folder else ())})
    return _resolved(store.project_path(path), *ids)[1]


def save_truth(run: Run, library: Library, path: str) -> pd.DataFrame | None:
    """Resolve a truth file by the ids of a run and its library, keep it in the run folder, print what was left
    out, and return it: query_id, reference_id. A group of copies counts as one picture, in the name that the run gives
    it. "": the run has none. Raises ValueError naming a file that cannot be used."""
    if not path:
        store.remove(run.truth_csv)
        return None
    ids = {*file_ids(run)}, {*file_ids(library)}
    truth, notes = _resolved(store.project_path(path), *ids)
    for note in notes:
        print(note)
    truth = _as_answered(truth, run, library)
    formats.write_truth(run.truth_csv, truth)
    return truth


def _resolved(path: Path, *ids: set[str]) -> tuple[pd.DataFrame, list[str]]:
    given = formats.read_truth(path)
    try:
        truth, notes = resolve(given, *ids)
    except ValueError as error:
        raise ValueError(f"{store.show(path)}: {error}") from None
    return truth, [f"{store.show(path)}: {note}" for note in notes]


def _as_answered(truth: pd.DataFrame, run: Run, library: Library) -> pd.DataFrame:
    """The truth with each reference in the name of its group of copies that the run has proposed for the query."""
    groups = store.open_groups(library)
    if not groups:
        return truth
    grouped = truth.assign(group_id=groups.of_ids(truth["reference_id"]))
    grouped = grouped.drop_duplicates(["query_id", "group_id"])
    named = read_candidates(run)[["query_id", "group_id", "reference_id"]].drop_duplicates()
    names = grouped.merge(named, "left", ["query_id", "group_id"], suffixes=("", "_proposed"))
    answered = names["reference_id_proposed"].fillna(names["reference_id"])
    return names.assign(reference_id=files_of(answered))[list(truth)]
