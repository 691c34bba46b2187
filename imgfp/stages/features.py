"""Notebooks 02 and 03: boxes of pasted pictures, keypoints of references, queries and crops."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from imgfp import sift, store
from imgfp.datatypes import LocalFeatures
from imgfp.images import cut_box
from imgfp.runner.cluster import ShardResult, Task
from imgfp.stages.inventory import decoded, read_images


def crop_tasks(run: Path, folder: str, crops: pd.DataFrame) -> list[Task]:
    """One task a shard of query images that have crops; `crops` is the table of that name."""
    images = read_images(run, ["image_id", "path", "sha256"]).rename(
        columns={"image_id": "query_id"}
    )
    joined = crops.merge(images, on="query_id", validate="many_to_one")
    tasks = []
    for name, rows in joined.groupby("shard", sort=True):
        boxes = rows[["crop_id", "path", "x0", "y0", "x1", "y1"]]
        described = boxes.drop(columns="path").astype(str).agg("|".join, axis=1) + rows["sha256"]
        records = boxes.rename(columns={"crop_id": "image_id"}).to_dict("records")
        path = run / folder / f"{name}.h5"
        tasks.append(Task(path, tuple(described), {"images": records}, len(rows)))
    return tasks


@store.produces("local_features", formerly=["imgfp.stages.local.extract_features"])
def extract_features(images: list[dict], **settings) -> ShardResult:
    """Keypoints and descriptors of each image, or of the box of it that a record names.

    Coordinates are in the pixels of the whole upright image either way.
    """
    ids, features, rejects = [], [], []
    for record, image in decoded(images, rejects):
        ids.append(record["image_id"])
        features.append(_features_of(image, record, settings))
    return ShardResult(LocalFeatures.from_images(ids, features), rejects)


def _features_of(image, record: dict, settings: dict):
    if "x0" not in record:
        return sift.extract(image, **settings)
    box = [record["x0"], record["y0"], record["x1"], record["y1"]]
    keypoints, descriptors = sift.extract(cut_box(image, box), **settings)
    # The cut starts at a whole pixel: move by what was cut, not by the box.
    keypoints[:, :2] += [max(0, round(box[0])), max(0, round(box[1]))]
    return keypoints, descriptors


def keypoint_counts(folder: Path) -> pd.Series:
    """Keypoints of each image of a folder of feature shards, by image id."""
    parts = [store.feature_counts(path) for path in store.shards(folder, ".h5")]
    return pd.concat(parts) if parts else pd.Series(dtype="int64")
