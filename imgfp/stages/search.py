"""Notebooks 04, 05 and 07: which references a query's keypoints or vector propose."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from imgfp import sift, store
from imgfp.datatypes import table
from imgfp.runner.cluster import ShardResult, Task
from imgfp.runner.params import check_choice
from imgfp.search import index, voting
from imgfp.search.normalisation import background_similarity, best_over_views, normalise_scores
from imgfp.stages.descriptors import VIEW_SEPARATOR
from imgfp.stages.index import index_inputs, open_index
from imgfp.stages.inventory import read_images
from imgfp.store import formats

#: How the bytes of a query's descriptors may be read before they are searched.
DESCRIPTOR_VARIANTS = {
    "plain": lambda d: d,
    "mirrored": sift.mirror_descriptors,
    "contrast_reversed": sift.invert_descriptors,
}


# ------------------------------------------------------------------------------------------ local


def local_tasks(run: Path, features: str, candidates: str, library: Path) -> list[Task]:
    """One task a shard of query or crop features."""
    return _tasks(run, features, candidates, library, "local")


@store.produces("local_candidates", formerly=["imgfp.stages.search.search_local"])
def search_local(
    library: Path, features: Path, query_of: dict[str, str], *, branch: str, **settings
) -> ShardResult:
    """The references that the keypoints of each query (or crop) vote for, as `candidates`.

    settings: see `votes_of`.
    """
    record = store.load(features)
    tables = []
    for view_id in record.image_ids:
        votes = _votes(library, *record.of(view_id), **settings)
        votes.insert(0, "view_id", view_id)
        votes.insert(0, "query_id", query_of[view_id])
        tables.append(votes.assign(branch=branch))
    if not tables:
        return ShardResult(table("candidates").assign(view_id=pd.Series(dtype="str")))
    return ShardResult(table("candidates", pd.concat(tables, ignore_index=True)))


def candidates_of(run: Path, branch: str) -> pd.DataFrame:
    """The candidates of one branch: no rows where it had nothing to ask with, as with no crop at all."""
    parts = [store.load(path) for path in store.shards(run / "candidates" / branch, ".parquet")]
    nothing = table("candidates").assign(view_id=pd.Series(dtype="str"))
    return pd.concat(parts, ignore_index=True) if parts else nothing


def votes_of(features: Path, library: Path, view_id: str, **settings) -> pd.DataFrame:
    """The references that one query's (or crop's) keypoints vote for: reference_id, rank, score
    (votes), mean_squared_distance, mirrored, accepted. An unknown id gets no votes.

    settings: nprobe, neighbours (reference keypoints asked for a query keypoint), readings (of
    READINGS), candidates (references kept), rule ("seed" or "robust"), ratio (of `voting.vote`, for
    the robust rule), min_hits, min_hits_single and max_mean_squared_distance (of
    `voting.accept_seed`).
    """
    lookup = store.FeatureLookup(features)
    found = (
        lookup.of(view_id)
        if view_id in lookup
        else (np.empty((0, 4)), np.empty((0, 128), np.uint8))
    )
    return _votes(library, *found, **settings)


def _votes(
    library: Path,
    keypoints: np.ndarray,
    descriptors: np.ndarray,
    *,
    nprobe: int,
    neighbours: int,
    variants: list[str],
    candidates: int,
    rule: str,
    ratio: float,
    **acceptance,
) -> pd.DataFrame:
    check_choice("vote_rule", rule)
    check_choice("descriptor_variants", variants)
    opened = open_index(library, "local")
    tables = []
    for reading in variants if len(keypoints) else []:
        distances, ids = index.search(
            opened.parts, DESCRIPTOR_VARIANTS[reading](descriptors), neighbours, nprobe
        )
        rows = index.rows_of_ids(ids, opened.offsets)
        robust = {"ratio": ratio, "hit_ids": ids, "cells": voting.cells(keypoints)}
        votes = voting.vote(rows, distances, **(robust if rule == "robust" else {}))
        accepted = voting.accept_seed(votes, **acceptance)
        votes["accepted"] = (votes.index == 0) & accepted
        tables.append(votes.head(candidates).assign(mirrored=reading == "mirrored"))
    columns = ["reference_row", "votes", "mean_squared_distance", "accepted", "mirrored"]
    every = pd.concat(tables) if tables else pd.DataFrame(columns=columns)
    every = every.sort_values(
        ["votes", "mean_squared_distance"], ascending=[False, True], kind="stable"
    )
    every = every.drop_duplicates("reference_row").head(candidates)
    return pd.DataFrame(
        {
            "reference_id": opened.image_ids[every["reference_row"].to_numpy(np.int64)],
            "rank": np.arange(len(every), dtype=np.int32),
            "score": every["votes"].to_numpy(np.float32),
            "mean_squared_distance": every["mean_squared_distance"].to_numpy(np.float32),
            "mirrored": every["mirrored"].to_numpy(bool),
            "accepted": every["accepted"].to_numpy(bool),
        }
    )


# ----------------------------------------------------------------------------------------- global


def global_tasks(run: Path, library: Path) -> list[Task]:
    """One task a shard of query vectors."""
    return _tasks(run, "descriptors", "candidates/global", library, "global")


@store.produces("global_candidates", formerly=["imgfp.stages.search.search_global"])
def search_global(
    library: Path,
    features: Path,
    query_of: dict[str, str],
    *,
    nprobe: int,
    candidates: int,
    normalise_neighbours: int,
    background: str,
) -> ShardResult:
    """The references most similar to each query over its views and crops, as `candidates`.

    normalise_neighbours: subtract from every cosine the query's mean similarity to so many nearest
    background vectors; the background is the library itself (the nearest left out, as it may be what
    the query was made from) or the references of a challenge HDF5 file.
    """
    described = store.load(features)
    opened = open_index(library, "global")
    owners = [_parse_vector_id(vector_id, query_of) for vector_id in described.image_ids]
    if not owners:
        return ShardResult(table("candidates").assign(view_id=pd.Series(dtype="str")))
    views = pd.DataFrame(owners, columns=["query_id", "view_id"])
    wanted = candidates if background else max(candidates, 1 + normalise_neighbours)
    distances, ids = index.search(opened.parts, described.vectors, wanted, nprobe)
    cosine = 1 - distances / 2
    means = np.zeros(len(cosine), np.float32)
    if normalise_neighbours and background:
        known = _background(background).vectors
        means = background_similarity(described.vectors, known, normalise_neighbours)
    elif normalise_neighbours:
        others = slice(1, 1 + normalise_neighbours)
        rest = ids[:, others] >= 0  # a small library runs out of neighbours
        means = np.where(rest, cosine[:, others], 0).sum(axis=1)
        means = means / np.maximum(rest.sum(axis=1), 1)
    scores = normalise_scores(cosine, means)
    tables = []
    for query_id, rows in views.groupby("query_id", sort=True):
        at = rows.index.to_numpy()
        best, best_ids, seen_by = best_over_views(scores[at], ids[at], len(at), candidates)
        found = best_ids[0] >= 0
        seen = at[seen_by[0][found]]
        tables.append(
            pd.DataFrame(
                {
                    "query_id": query_id,
                    "view_id": views["view_id"].to_numpy()[seen],
                    "reference_id": opened.image_ids[best_ids[0][found]],
                    "branch": "global",
                    "rank": np.arange(found.sum()),
                    "score": best[0][found],
                    "mean_squared_distance": 2 - 2 * (best[0][found] + means[seen]),
                    "mirrored": False,
                    "accepted": np.arange(found.sum()) == 0,
                }
            )
        )
    return ShardResult(table("candidates", pd.concat(tables)))


def _parse_vector_id(vector_id: str, query_of: dict[str, str]) -> tuple[str, str]:
    """Query and view (query or crop id) of a vector, which may carry the name of a view behind."""
    item = vector_id if vector_id in query_of else vector_id.rpartition(VIEW_SEPARATOR)[0]
    return query_of[item], item


@lru_cache(maxsize=1)
def _background(path: str):
    return formats.read_descriptors(store.project_path(path))[1]


# ----------------------------------------------------------------------------------------- shared


def _tasks(run: Path, features: str, candidates: str, library: Path, kind: str) -> list[Task]:
    queries = read_images(run, ["image_id"])["image_id"]
    crops = store.load(run / "crops/crops.parquet", ["crop_id", "query_id"])
    query_of = dict(zip(queries, queries, strict=True))
    query_of |= dict(crops[["crop_id", "query_id"]].itertuples(index=False))
    searched = index_inputs(library, kind)
    return [
        Task(
            run / candidates / f"{path.stem}.parquet",
            (store.describe(path)["sha256"], *searched),
            {"library": library, "features": path, "query_of": query_of},
            store.describe(path)["items"],
        )
        for path in store.shards(run / features, ".h5")
    ]
