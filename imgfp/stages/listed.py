# SPDX-License-Identifier: AGPL-3.0-or-later
"""Queries, candidates, scores and predictions that a file lists, in place of those that a stage computes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import Branch, table
from imgfp.runner.cluster import HERE, MapReport, ShardResult, Task, map_shards
from imgfp.scoring.metrics import are_in
from imgfp.search.propose import within_limits
from imgfp.stages.crops import read_crops
from imgfp.stages.identical import are_identical, own_pairs
from imgfp.stages.inventory import list_files
from imgfp.stages.search import read_candidates
from imgfp.store import Collection, Library, Run, formats, isc2021
from imgfp.store.formats import FormatError
from imgfp.verify.evidence import COLUMNS

#: Value of `refused` in the evidence of a pair of which a file tells the match count alone.
MEASURED_ELSEWHERE = "measured_elsewhere"
_PAIR = ["query_id", "reference_id"]


def list_queries(run: Run, source: str, file: str) -> str:
    """The source of the queries of a run: that of a profile, or a manifest of those of its images that a list names.

    source: folder or manifest; file: names of images as in the folder, without extension or with other folders before
    them; "": all of the source. Raises FormatError naming the line of a name that is not there.
    """
    if not file:
        return source
    path, files = store.project_path(file), list_files(source)
    whole = dict(zip(files["path"], files["image_id"], strict=True))
    by_name: dict[str, set[str]] = {}
    for where, image_id in whole.items():
        for name in (image_id, PurePosixPath(where).name, PurePosixPath(image_id).name):
            by_name.setdefault(name, set()).add(image_id)
    chosen: dict[str, int] = {}
    for line, name in enumerate(isc2021.read_list(path), 1):
        known = by_name.get(name) or by_name.get(PurePosixPath(name).name) or set()
        if len(known) != 1:
            there = f"there are {len(known)}" if known else f"there is none{_like(name, by_name)}"
            raise FormatError(path, line, f"expected an image of {source}, got {name!r}; {there}")
        (image_id,) = known
        if image_id in chosen:
            wrong = f"expected each image once, got that of line {chosen[image_id]} again"
            raise FormatError(path, line, wrong)
        chosen[image_id] = line
    if not chosen:
        raise FormatError(path, None, f"expected names of images of {source}, got an empty file")
    rows = files.loc[files["image_id"].isin([*chosen]), ["image_id", "path"]]
    store.write_bytes(run.query_list_csv, rows.to_csv(index=False, lineterminator="\n").encode())
    return str(run.query_list_csv)


def list_candidates(
    run: Run, library: Library, branch: Branch, file: str, *, described: str = "all"
) -> MapReport:
    """Candidates of a branch from a file of pairs, in place of a search; see `formats.read_pair_table`, `isc2021.read_pairs`.

    A score is a number of votes, or in the branch global a cosine similarity, and higher ones come first; without
    scores the order is that of the file, and votes and similarity are 0. Every pair counts as accepted. The branch crop
    compares the best crop of a query, or the query where it has none; global, where described is "sure", the global
    crop, else the query. Raises FormatError naming the line of a reference that the library does not hold.
    """
    path = store.project_path(file)
    pairs = formats.read_pair_table(path)
    pairs = _known_pairs(path, isc2021.read_pairs(path) if pairs is None else pairs, run, library)
    pairs = _with_views(pairs, run, branch, described)
    if branch == "global" and (wrong := pairs["score"].abs() > 1).any():
        line, score = pairs.loc[wrong, ["line", "score"]].iloc[0]
        raise FormatError(path, int(line), f"expected a cosine of -1..1, got {score:g}")
    made = pairs.assign(
        branch=branch,
        mean_squared_distance=2 - 2 * pairs["score"] if branch == "global" else np.nan,
        score=pairs["score"].fillna(0.0),
        mirrored=False,
        accepted=True,
        group_id=store.open_groups(library).of_ids(pairs["reference_id"]),
    )
    made = made.sort_values(["view_id", "score"], ascending=[True, False], kind="stable")
    made["rank"] = made.groupby("view_id").cumcount()
    return _save(run, run.candidates(branch), table("candidates", made.drop(columns="line")), path)


def list_scores(
    run: Run, library: Library, files: Mapping[Branch, str], **limits: Any
) -> MapReport:
    """Evidence of the candidates of some branches from files of scores, in place of a verification: match counts, and
    nothing else. Candidates without a score stay to be verified; evidence of files that are not named any more is removed.

    files: branch -> file of scores, see `list_predictions`; "": none; limits: of `propose.within_limits`. Raises FormatError naming
    the line of a pair that is no candidate of its branch within the limits, and of one that another branch gives another
    score, though it compares the same images.
    """
    parts: list[pd.DataFrame] = []
    named = {branch: store.project_path(file) for branch, file in files.items() if file}
    for branch, path in named.items():
        scores = _known_pairs(path, _scores(path), run, library)
        candidates = read_candidates(run, branch)
        proposed = are_in(scores, candidates)
        identical = are_identical(run, library, candidates)
        candidates = candidates[within_limits(candidates, identical, **limits)]
        absent = ~are_in(scores, candidates)
        if absent.any():
            row = scores[absent].iloc[0]
            wrong = f"expected a candidate of the branch {branch}, got {row['query_id']}, {row['reference_id']}"
            remedy = f"give this file as {branch}_candidates_file, too"
            if proposed[absent][0]:
                remedy = "it is beyond the limits of the run: candidates_scored, candidates_verified, the branch's lowest score"
            raise FormatError(path, int(row["line"]), f"{wrong}; {remedy}")
        without = int((~are_in(candidates, scores)).sum())
        if without:
            print(f"{path.name}: {without:,} candidates have no score there and are verified here")
        found = candidates[["query_id", "view_id", "reference_id"]].merge(
            scores.rename(columns={"score": "matches"}), on=_PAIR
        )
        parts.append(found.assign(path=str(path)))
    every = pd.concat(parts) if parts else pd.DataFrame(columns=["query_id", "view_id", "matches"])
    return _save(run, run.listed_evidence, _evidence(every), *named.values())


def list_predictions(run: Run, library: Library, file: str) -> pd.DataFrame:
    """The `predictions` of a file of scores, best first, see `formats.read_pair_table`, `isc2021.read_scores`. Raises
    FormatError."""
    path = store.project_path(file)
    scores = _known_pairs(path, _scores(path), run, library).drop(columns="line")
    order = ["score", *_PAIR]
    return table("predictions", scores.sort_values(order, ascending=[False, True, True]))


def _scores(path: Path) -> pd.DataFrame:
    """The pairs of a file, each with a score."""
    table = formats.read_pair_table(path)
    return isc2021.read_scores(path) if table is None else table


def _evidence(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows query_id, view_id, reference_id, matches, path, line as a table of evidence. Raises FormatError."""
    keys = ["view_id", "reference_id"]
    rows = rows.reset_index(drop=True)
    if len(rows):
        other = rows["matches"] != rows.groupby(keys)["matches"].transform("first")
        if other.any():
            row = rows[other].iloc[0]
            wrong = f"expected the score that another branch has for these images, got {row['matches']:g}"
            raise FormatError(row["path"], int(row["line"]), wrong)
        rows = rows.drop_duplicates(keys, ignore_index=True)
    zero = {"int32": 0, "int64": 0, "bool": False, "str": "", "float32": np.nan, "float64": np.nan}
    made = pd.DataFrame({name: zero[kind] for name, kind in COLUMNS.items()}, rows.index)
    counts = {"matches": rows["matches"], "matches_plain": rows["matches"]}
    made = made.assign(**counts, refused=MEASURED_ELSEWHERE).astype(COLUMNS)
    ids = {name: rows.get(name, pd.Series(dtype="str")) for name in ("query_id", *keys)}
    return pd.concat([pd.DataFrame(ids).astype("str"), made], axis=1)


def _known_pairs(path: Path, pairs: pd.DataFrame, run: Run, library: Library) -> pd.DataFrame:
    """Pairs in the ids of a run and its library, with the line of each; without those of queries that the run does not
    hold, and of a file with itself, of which a sentence tells. Raises FormatError."""
    if "line" not in pairs:
        pairs = pairs.assign(line=np.arange(1, len(pairs) + 1))
    for name, collection in zip(_PAIR, (run, library), strict=True):
        pairs[f"given_{name}"] = pairs[name]
        pairs[name] = _ids(pairs[name], collection)
    foreign = pairs[pairs["query_id"] == ""]
    if len(foreign):
        line, given = foreign[["line", "given_query_id"]].iloc[0]
        told = f"{len(foreign):,} lines name no readable query of this run and are left out"
        print(f"{path.name}: {told}: first line {line}, {given!r}")
        if len(foreign) == len(pairs):
            raise FormatError(path, int(line), f"expected a query of this run, got {given!r}")
        pairs = pairs[pairs["query_id"] != ""]
    unknown = pairs[pairs["reference_id"] == ""]
    if len(unknown):
        line, given = unknown[["line", "given_reference_id"]].iloc[0]
        wrong = f"expected a readable reference of {store.show(library.root)}, got {given!r}"
        raise FormatError(path, int(line), f"{wrong}; remove such lines, or add the image")
    twins = pairs[pairs.duplicated(_PAIR)]
    if len(twins):
        line, query_id, reference_id = twins[["line", *_PAIR]].iloc[0]
        wrong = f"expected each pair once, got {query_id}, {reference_id} again"
        raise FormatError(path, int(line), wrong)
    own = are_in(pairs, own_pairs(run, library))
    if own.any():
        print(f"{path.name}: {int(own.sum()):,} pairs are of a file with itself and are left out")
    return pairs.loc[~own, [*_PAIR, "score", "line"]].reset_index(drop=True)


def _ids(names: pd.Series, collection: Collection) -> pd.Series:
    """The id of each name in a library or run, with or without extension; "" for one that it does not hold."""
    unique = names.drop_duplicates().tolist()
    catalogue = store.open_catalogue(collection)
    ids = dict(zip(unique, np.where(catalogue.rows_of(unique) >= 0, unique, ""), strict=True))
    rest = [name for name in unique if not ids[name]]
    plain = [name.rpartition(".")[0] or name for name in rest]
    ids |= dict(zip(rest, np.where(catalogue.rows_of(plain) >= 0, plain, ""), strict=True))
    return names.map(ids).astype("str")


def _with_views(pairs: pd.DataFrame, run: Run, branch: Branch, described: str) -> pd.DataFrame:
    """Pairs with the part of the query that is compared: `view_id`."""
    if branch == "local" or (branch == "global" and described != "sure"):
        return pairs.assign(view_id=pairs["query_id"])
    crops = read_crops(run)
    chosen = crops[crops["local_rank"] == 0] if branch == "crop" else crops[crops["is_global"]]
    of_query = dict(zip(chosen["query_id"], chosen["crop_id"], strict=True))
    views = pairs["query_id"].map(of_query)
    if branch == "crop" and views.isna().any():
        print(f"{int(views.isna().sum()):,} pairs compare the whole query, which has no crop")
    return pairs.assign(view_id=views.fillna(pairs["query_id"]).astype("str"))


def _like(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    near = difflib.get_close_matches(PurePosixPath(name).name, [*known], 1)
    return f" (is {near[0]!r} meant?)" if near else ""


@store.produces("listed")
def listed(rows: pd.DataFrame, *, files: list[str]) -> ShardResult:
    """Rows of files, as they are stored. files: their paths, which are only recorded."""
    return ShardResult(rows)


def _save(run: Run, folder: Path, rows: pd.DataFrame, *paths: Path) -> MapReport:
    """Store rows of these files by the shard of their query."""
    places = store.open_catalogue(run).places_of(rows["query_id"].tolist())
    shards, _ = store.shard_and_row(places)
    tasks = []
    for number in map(store.shard_number, store.shards(run.images, ".parquet")) if paths else ():
        here = rows[shards == number].reset_index(drop=True)
        inputs = [store.hash_of(here.astype("str").to_numpy().tolist())]
        path = folder / f"{store.shard_name(number)}.parquet"
        tasks.append(Task(path, inputs, {"rows": here}, len(here)))
    return map_shards(
        listed,
        tasks,
        {"files": [str(path) for path in paths]},
        cluster=HERE,
        title="listed pairs",
        unit="pair",
        lock_dir=run.root,
        output_dir=folder,
    )
