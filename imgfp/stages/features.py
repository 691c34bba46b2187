# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebooks 02 and 04: keypoints and descriptors of references, queries and crops."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from imgfp import sift, store
from imgfp.crops.rule import CORNERS
from imgfp.datatypes import LocalFeatures
from imgfp.decoding import Limits
from imgfp.runner.cluster import MapReport, ShardResult, Task, map_shards
from imgfp.stages.crops import read_crops
from imgfp.stages.inventory import decoded, image_tasks, left_out, limits_of, read_images
from imgfp.store import Collection, Run


def extract_local_features(
    collection: Collection, *, cluster: str = "local", workers: int = 0, **settings: Any
) -> MapReport:
    """Keypoints and descriptors of every image of a library or run. settings: of `sift.extract`."""
    return map_shards(
        extract_features,
        image_tasks(collection, collection.local_features, ".h5"),
        settings,
        cluster=cluster,
        workers=workers,
        title=f"features of {collection.contents}",
        lock_dir=collection.root,
    )


def extract_crop_features(run: Run, *, cluster: str = "local", workers: int = 0) -> MapReport:
    """Keypoints and descriptors of every crop of a run, extracted as those of its queries."""
    return map_shards(
        extract_features,
        crop_tasks(run, read_crops(run)),
        feature_settings(run),
        cluster=cluster,
        workers=workers,
        title="features of crops",
        lock_dir=run.root,
        output_dir=run.crop_features,
    )


def crop_tasks(run: Run, crops: pd.DataFrame) -> list[Task]:
    """One task per shard of query images that have crops; `crops` is the table of that name."""
    images = read_images(run, ["image_id", "path", "sha256"]).rename(
        columns={"image_id": "query_id"}
    )
    joined = crops.merge(images, on="query_id", validate="many_to_one")
    tasks, limits = [], limits_of(run)
    for name, rows in joined.groupby("shard", sort=True):
        boxes = rows[["crop_id", "path", *CORNERS]]
        described = boxes.drop(columns="path").astype(str).agg("|".join, axis=1) + rows["sha256"]
        records = boxes.rename(columns={"crop_id": "image_id"}).to_dict("records")
        path = run.crop_features / f"{name}.h5"
        tasks.append(Task(path, tuple(described), {"images": records, "limits": limits}, len(rows)))
    return tasks


@store.produces("local_features", formerly=["imgfp.stages.local.extract_features"])
def extract_features(
    images: Iterable[dict], limits: Limits | None = None, **settings: Any
) -> ShardResult:
    """Keypoints and descriptors of each image, or of the box of it that a record names.

    Coordinates are in pixels of the whole upright image in both cases.
    """
    ids, features = [], []
    rejects: list[tuple[str, str]] = []
    for record, image in decoded(images, rejects, limits):
        ids.append(record["image_id"])
        if "x0" in record:
            box = [record[corner] for corner in CORNERS]
            features.append(sift.extract_from_box(image, box, **settings))
        else:
            features.append(sift.extract(image, **settings))
    return ShardResult(LocalFeatures.from_images(ids, features), rejects, left_out(images))


def feature_settings(collection: Collection) -> dict[str, Any]:
    """How the keypoints of a library or run were extracted: of `sift.extract`; empty before notebook 02."""
    paths = store.shards(collection.local_features, ".h5")
    return store.describe(paths[0])["settings"] if paths else {}


def stored_features(collection: Collection) -> store.FeatureLookup:
    """The local features of the images of a library or run, each found by the catalogue."""
    catalogue = store.open_catalogue(collection)

    def shard_of(image_id: str) -> str:
        shards, _ = store.shard_and_row(catalogue.places_of([image_id]))
        return store.shard_name(int(shards[0]))

    return store.FeatureLookup(collection.local_features, shard_of)


def keypoint_counts(folder: Path, sampled: int = 0) -> pd.Series:
    """Keypoints of each image of a folder of feature shards, by image id. sampled: of as many images at least, in a
    few shards drawn at random; 0: of all."""
    paths = store.shards(folder, ".h5")
    drawn = store.draw_shards(paths, sampled) if sampled else paths
    parts = [store.feature_counts(path) for path in drawn]
    return pd.concat(parts) if parts else pd.Series(dtype="int64")
