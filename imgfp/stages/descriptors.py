# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 06: one vector per image; queries also by their crops and in several views."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.crops.rule import CORNERS
from imgfp.datatypes import Descriptors, file_of, files_of, frame_of, table
from imgfp.decoding import Limits
from imgfp.descriptors.registry import load_model
from imgfp.descriptors.views import CROP_VIEWS, QUERY_VIEWS, query_views
from imgfp.images import cut_box
from imgfp.inference import check_device
from imgfp.runner.cluster import MapReport, ShardResult, Task, map_shards
from imgfp.runner.params import check_choice
from imgfp.stages.certain import certain_queries
from imgfp.stages.crops import read_crops
from imgfp.stages.inventory import (
    decoded,
    image_tasks,
    left_out,
    masked_ids,
    on_gpu,
    read_images,
    read_shard,
    shards_of,
)
from imgfp.store import Collection, Library, Run, formats

#: Separates what was described from the view of it: `<query or crop id>@<view>`. Only ever parsed from
#: the right, and names of views hold none.
VIEW_SEPARATOR = "@"


def describe_references(
    library: Library, *, file: str = "", cluster: str = "local", workers: int = 0, **model: Any
) -> MapReport:
    """One vector per reference. model: the keywords model, weights and device of `load_model`, and
    batch_size. file: a challenge HDF5 file of vectors that were computed elsewhere and are read
    instead; "": none. Raises ModelError, FileNotFoundError, and FormatError for a file that names another model than
    the one that is asked for."""
    tasks = image_tasks(library, library.descriptors, ".h5")
    return _map(library, tasks, ["whole"], file, cluster, workers, **model)


def describe_queries(
    run: Run,
    *,
    views: Sequence[str] = QUERY_VIEWS,
    crop_views: Sequence[str] = CROP_VIEWS,
    described: str = "all",
    file: str = "",
    cluster: str = "local",
    workers: int = 0,
    **model: Any,
) -> MapReport:
    """One vector per view of each query and of its crops; of a certain query, one. views, crop_views: names of
    `VIEWS`; described: see `query_tasks`; the rest as in `describe_references`. With a file, there is one
    vector per query, which describes its global crop, if there is one and described is "sure", else the query."""
    crops = table("crops") if file and described != "sure" else read_crops(run)
    tasks = query_tasks(run, crops, described=described, views=views, crop_views=crop_views)
    if file:
        query_of = dict(zip(crops["crop_id"], crops["query_id"], strict=True))
        for record in (record for task in tasks for record in task.arguments["images"]):
            record["query_id"] = query_of.get(record["image_id"], record["image_id"])
    return _map(run, tasks, list(views), file, cluster, workers, **model)


def _map(collection, tasks, views, file, cluster, workers, *, device, **model):
    function: Callable[..., ShardResult] = imported if file else describe
    if file:
        if model["model"] != "auto":
            formats.check_descriptor(store.project_path(file), model["model"])
        settings = file_settings(file, "query" if isinstance(collection, Run) else "reference")
        tasks = [replace(task, arguments={"images": task.arguments["images"]}) for task in tasks]
    else:
        settings = model_settings(views=views, device=device, **model)
        if settings["device"] != "cpu":
            tasks, workers = on_gpu(tasks, device, workers)
    report = map_shards(
        function,
        tasks,
        settings,
        cluster=cluster,
        workers=workers,
        title=f"descriptors of {collection.contents}",
        lock_dir=collection.root,
    )
    if file and report.rejects and not any(map(len, descriptors_by_shard(collection))):
        wrong = f"expected vectors of {collection.contents} by their ids, got none of any"
        raise formats.FormatError(store.project_path(file), None, wrong)
    return report


def model_settings(
    *, model: str, weights: str, device: str, batch_size: int, views: list[str]
) -> dict[str, Any]:
    """Settings of `describe`: what the loaded model is and where it runs. Raises ModelError."""
    weights = store.located(weights)
    loaded = load_model(model, weights, device)
    return {
        "model": loaded.name,
        "weights": weights,
        "device": loaded.device,
        "batch_size": batch_size,
        "weights_hash": loaded.weights_hash,
        "views": views,
    }


def query_tasks(
    run: Run,
    crops: pd.DataFrame,
    *,
    described: str,
    views: Sequence[str] = QUERY_VIEWS,
    crop_views: Sequence[str] = CROP_VIEWS,
) -> list[Task]:
    """One task per shard of queries: "all", the query and all its crops, or "sure", the global crop
    where there is one, else the query. Of a certain query only the first of its views, so that every query has
    a vector. Raises ParameterError for another word."""
    check_choice("global_described", described)
    certain = certain_queries(run)
    crops = crops if described == "all" else crops[crops["is_global"]]
    crops = crops[~files_of(crops["query_id"]).isin(certain)]
    boxes_of = dict(tuple(crops.groupby("query_id")))
    tasks = []
    for task in image_tasks(run, run.descriptors, ".h5"):
        items = []
        for record in task.arguments["images"]:
            if file_of(record["image_id"]) in certain:
                record["views"] = list(views[:1])
            boxes = boxes_of.get(record["image_id"], crops.head(0))
            if described == "all" or boxes.empty:
                items.append(record)
            for box in boxes[["crop_id", *CORNERS]].to_dict("records"):
                crop = {"image_id": box.pop("crop_id"), "views": list(crop_views)}
                items.append({**record, **crop, **box})
        marks = [store.hash_of({k: v for k, v in item.items() if k != "path"}) for item in items]
        tasks.append(
            Task(task.path, (*task.inputs, *marks), {**task.arguments, "images": items}, len(items))
        )
    return tasks


@store.produces("descriptors", formerly=["imgfp.stages.vectors.describe"])
def describe(
    images: Iterable[dict],
    limits: Limits | None = None,
    gpu: str = "",
    *,
    model: str,
    weights: str,
    device: str,
    batch_size: int,
    weights_hash: str,
    views: list[str],
) -> ShardResult:
    """Vectors of each image (or the box of it that a record names) in each view, or in those that its record
    names, the views of one image in consecutive rows. `weights_hash` distinguishes states of the weights in the
    fingerprint; device: "cpu" or "cuda", then by the device `gpu`.
    """
    loaded = _model(model, weights, gpu or device, weights_hash)
    check_device(loaded.device, device)
    ids: list[str] = []
    rejects: list[tuple[str, str]] = []

    def shown():
        for record, image in decoded(images, rejects, limits):
            part = image
            if "x0" in record:
                part = cut_box(image, np.array([record[corner] for corner in CORNERS]))
            names = record.get("views", views)
            for name, view in zip(names, query_views(part, names), strict=True):
                plain = names == ["whole"]
                ids.append(record["image_id"] + ("" if plain else VIEW_SEPARATOR + name))
                yield view

    vectors = loaded.embed(shown(), batch_size)
    return ShardResult(Descriptors(np.array(ids, dtype=object), vectors), rejects, left_out(images))


@store.produces("imported_descriptors", formerly=["imgfp.stages.vectors.imported"])
def imported(
    images: Iterable[dict], *, path: str, file_hash: str, side: str, descriptor: str
) -> ShardResult:
    """One vector per image, computed elsewhere: the `side` ("query" or "reference") of a challenge
    HDF5 file. An image without one is rejected, unless it is a further frame of a file. `file_hash` distinguishes states
    of the file; descriptor: identity of the model that it names, which is only recorded."""
    held, row_of = _file_side(path, file_hash, side)
    found, rows, rejects = [], [], []
    for record in images:
        image_id = record.get("query_id", record["image_id"])  # of a crop, its query
        if image_id in row_of:
            found.append(record["image_id"])
            rows.append(row_of[image_id])
        elif not frame_of(image_id):
            rejects.append((record["path"], f"{Path(path).name} holds no {side} of this id"))
    vectors = Descriptors(np.array(found, dtype=object), held.vectors[np.array(rows, np.int64)])
    return ShardResult(vectors, rejects, left_out(images))


def file_settings(path: str, side: Literal["query", "reference"]) -> dict[str, str]:
    """Settings of `imported`. Raises FileNotFoundError."""
    whole = store.project_path(path)
    return {
        "path": str(whole),
        "file_hash": store.sha256_of(whole),
        "side": side,
        "descriptor": formats.descriptor_of(whole),
    }


@lru_cache(maxsize=2)
def _file_side(path: str, file_hash: str, side: str) -> tuple[Descriptors, dict[str, int]]:
    held = formats.read_descriptors(Path(path))[side == "reference"]
    return held, {image_id: row for row, image_id in enumerate(held.image_ids)}


@lru_cache(maxsize=1)
def _model(name: str, weights: str, device: str, weights_hash: str):
    return load_model(name, weights, device)


def described_by(collection: Collection) -> str:
    """Identity of the model that made the vectors of a library or run, see `imgfp.descriptors.base.Model`; "" before
    there are any, or where they come from a file that does not tell."""
    for path in store.shards(collection.descriptors, ".h5"):
        made = store.describe(path)["settings"]
        if "model" in made:
            return f"{made['model']} {made['weights_hash'][:12]}"
        return made.get("descriptor", "")
    return ""


def read_descriptors(collection: Collection) -> Descriptors:
    """All vectors of the images of a library or run, in order. Raises ValueError when there are none."""
    return Descriptors.concatenate(list(descriptors_by_shard(collection)))


def descriptors_by_shard(collection: Collection) -> Iterator[Descriptors]:
    """`read_descriptors`, one shard after the other."""
    for path in shards_of(collection, collection.descriptors, ".h5"):
        yield _of_images(collection, path)


def sample_descriptors(collection: Collection, count: int, seed: int = 0) -> Descriptors:
    """About `count` vectors, from shards drawn at random. Raises ValueError when there are none."""
    paths = shards_of(collection, collection.descriptors, ".h5")
    order = np.random.default_rng(seed).permutation(len(paths))
    parts: list[Descriptors] = []
    while sum(map(len, parts)) < count and len(parts) < len(paths):
        parts.append(_of_images(collection, paths[order[len(parts)]]))
    every = Descriptors.concatenate(parts)
    rows = np.random.default_rng(seed).permutation(len(every))[:count]
    return Descriptors(every.image_ids[rows], every.vectors[rows])


def _of_images(collection: Collection, path: Path) -> Descriptors:
    """The vectors of a shard without those of masked images."""
    record = store.load(path)
    masked = set(masked_ids(collection, path.stem))
    if not masked:
        return record
    kept = [
        image_id not in masked and image_id.rpartition(VIEW_SEPARATOR)[0] not in masked
        for image_id in record.image_ids
    ]
    return Descriptors(record.image_ids[kept], record.vectors[kept])


def query_of_each_view(run: Run, shard: str = "") -> dict[str, str]:
    """The query, a file, of each view that can be searched with: of its frames, and of their crops; of the queries of
    one shard by its name, or of all."""
    images = read_shard(run, shard, ["image_id"]) if shard else read_images(run, ["image_id"])
    frames = images["image_id"]
    crops = read_crops(run)
    crops = crops[crops["query_id"].isin(frames)] if shard else crops
    query_of = dict(zip(frames, files_of(frames), strict=True))
    return query_of | dict(zip(crops["crop_id"], files_of(crops["query_id"]), strict=True))


def view_of_vector(vector_id: str, query_of: Mapping[str, str]) -> str:
    """The query or crop that a vector describes; query_of: of `query_of_each_view`."""
    return vector_id if vector_id in query_of else vector_id.rpartition(VIEW_SEPARATOR)[0]


def first_views(run: Run, width: int) -> Descriptors:
    """One vector per query, for tools that know of no views: of its global crop, else its own. width: of the vectors,
    for a run without queries."""
    if not store.shards(run.descriptors, ".h5"):
        return Descriptors(np.empty(0, object), np.empty((0, width), np.float32))
    query_of, crops = query_of_each_view(run), read_crops(run)
    preferred = set(crops.loc[crops["is_global"], "crop_id"])
    every = read_descriptors(run)
    rows: dict[str, int] = {}
    of_crop: set[str] = set()
    for row, vector_id in enumerate(every.image_ids):
        view = view_of_vector(vector_id, query_of)
        query = query_of.get(view)
        if query is None:
            continue  # a crop of a masked query
        if view in preferred and query not in of_crop:
            of_crop.add(query)
            rows[query] = row
        elif view == query:
            rows.setdefault(query, row)
    return Descriptors(np.array(list(rows), dtype=object), every.vectors[list(rows.values())])


def closest_pairs(descriptors: Descriptors, count: int, limit: int = 5000) -> list[tuple]:
    """The most similar pairs among the first `limit` images: (id, other id, cosine), best first."""
    vectors = descriptors.vectors[:limit]
    cosine = np.triu(vectors @ vectors.T, 1) - np.tri(len(vectors)) * 2
    best = np.argsort(-cosine, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(best, cosine.shape)
    ids = descriptors.image_ids
    return [(ids[i], ids[j], float(cosine[i, j])) for i, j in zip(rows, columns, strict=True)]
