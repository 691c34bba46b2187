"""Notebook 06: one vector a picture; queries also by their crops and in several views."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import Descriptors
from imgfp.descriptors.registry import load_model
from imgfp.descriptors.views import query_views
from imgfp.images import cut_box
from imgfp.runner.cluster import ShardResult, Task
from imgfp.runner.params import check_choice
from imgfp.stages.inventory import decoded, image_tasks, read_images
from imgfp.store import formats

#: Stands between what was described and the view of it: `<query or crop id>@<view>`. Never parsed but
#: from the right, and view names hold none.
VIEW_SEPARATOR = "@"


def reference_tasks(library: Path) -> list[Task]:
    """One task a shard of references."""
    return image_tasks(library, "descriptors", ".h5")


def query_tasks(run: Path, crops: pd.DataFrame, *, described: str) -> list[Task]:
    """One task a shard of queries: "all", the query and all its crops, or "sure", the global crop
    where there is one, else the query. Raises ParameterError for another word."""
    check_choice("global_described", described)
    crops = crops if described == "all" else crops[crops["is_global"]]
    boxes_of = dict(tuple(crops.groupby("query_id")))
    tasks = []
    for task in image_tasks(run, "descriptors", ".h5"):
        items = []
        for record in task.arguments["images"]:
            boxes = boxes_of.get(record["image_id"], crops.head(0))
            if described == "all" or boxes.empty:
                items.append(record)
            for box in boxes[["crop_id", "x0", "y0", "x1", "y1"]].to_dict("records"):
                items.append({**record, "image_id": box.pop("crop_id"), **box})
        marks = [store.hash_of({k: v for k, v in item.items() if k != "path"}) for item in items]
        tasks.append(Task(task.path, (*task.inputs, *marks), {"images": items}, len(items)))
    return tasks


@store.produces("descriptors", formerly=["imgfp.stages.vectors.describe"])
def describe(
    images: list[dict],
    *,
    model: str,
    weights: str,
    device: str,
    batch_size: int,
    weights_hash: str,
    views: list[str],
) -> ShardResult:
    """Vectors of each image (or the box of it that a record names) in each view, views adjoining.

    `weights_hash` tells one state of the weights from another in the fingerprint.
    """
    loaded = _model(model, weights, device, weights_hash)
    ids: list[str] = []
    rejects: list[tuple[str, str]] = []

    def shown():
        for record, image in decoded(images, rejects):
            box = [record[name] for name in ("x0", "y0", "x1", "y1")] if "x0" in record else None
            part = image if box is None else cut_box(image, np.array(box))
            for name, view in zip(views, query_views(part, views), strict=True):
                plain = views == ["whole"]
                ids.append(record["image_id"] + ("" if plain else VIEW_SEPARATOR + name))
                yield view

    vectors = loaded.embed(shown(), batch_size)
    return ShardResult(Descriptors(np.array(ids, dtype=object), vectors), rejects)


@store.produces("imported_descriptors", formerly=["imgfp.stages.vectors.imported"])
def imported(images: list[dict], *, path: str, file_hash: str, side: str) -> ShardResult:
    """One vector each image, made elsewhere: the `side` ("query" or "reference") of a challenge HDF5
    file. An image without one is refused. `file_hash` tells one state of the file from another."""
    held, row_of = _file_side(path, file_hash, side)
    found, rejects = [], []
    for record in images:
        if record["image_id"] in row_of:
            found.append(record["image_id"])
        else:
            rejects.append((record["path"], f"{Path(path).name} holds no {side} of this id"))
    rows = np.array([row_of[image_id] for image_id in found], np.int64)
    return ShardResult(Descriptors(np.array(found, dtype=object), held.vectors[rows]), rejects)


def file_settings(path: str) -> tuple[dict, dict]:
    """Settings of `imported` for references and for queries. Raises FileNotFoundError."""
    whole = store.project_path(path)
    named = {"path": str(whole), "file_hash": store.sha256_of(whole)}
    return named | {"side": "reference"}, named | {"side": "query"}


@lru_cache(maxsize=2)
def _file_side(path: str, file_hash: str, side: str) -> tuple[Descriptors, dict[str, int]]:
    held = formats.read_descriptors(Path(path))[side == "reference"]
    return held, {image_id: row for row, image_id in enumerate(held.image_ids)}


@lru_cache(maxsize=1)
def _model(name: str, weights: str, device: str, weights_hash: str):
    return load_model(name, weights, device)


def read(root: Path) -> Descriptors:
    """All vectors of a library or run, in order."""
    return Descriptors.concatenate(
        [store.load(p) for p in store.shards(root / "descriptors", ".h5")]
    )


def first_views(run: Path) -> Descriptors:
    """One vector a query, for tools that know of no views: its global crop's, else its own."""
    queries = set(read_images(run, ["image_id"])["image_id"])
    crops = store.load(run / "crops/crops.parquet", ["crop_id", "query_id", "is_global"])
    query_of = dict(crops[crops["is_global"]][["crop_id", "query_id"]].itertuples(index=False))
    every = read(run)
    rows: dict[str, int] = {}
    for row, vector_id in enumerate(every.image_ids):
        item = (
            vector_id
            if vector_id in queries or vector_id in query_of
            else vector_id.rpartition(VIEW_SEPARATOR)[0]
        )
        query = query_of.get(item, item)
        if query not in queries:
            continue  # a crop that is searched beside its query
        if query not in rows or (item in query_of and every.image_ids[rows[query]] in queries):
            rows[query] = row
    return Descriptors(np.array(list(rows), dtype=object), every.vectors[list(rows.values())])


def closest_pairs(descriptors: Descriptors, count: int, limit: int = 5000) -> list[tuple]:
    """The most similar pairs among the first `limit` images: (id, other id, cosine), best first."""
    vectors = descriptors.vectors[:limit]
    cosine = np.triu(vectors @ vectors.T, 1) - np.tri(len(vectors)) * 2
    best = np.argsort(-cosine, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(best, cosine.shape)
    ids = descriptors.image_ids
    return [(ids[i], ids[j], float(cosine[i, j])) for i, j in zip(rows, columns, strict=True)]
