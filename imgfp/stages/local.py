"""Notebooks 02 and 03: boxes of pasted pictures, keypoints of references, queries and crops."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from imgfp import sift, store
from imgfp.cluster import Made, Task, take_in_hand
from imgfp.crops import crop_table, load_detector
from imgfp.datatypes import Boxes, LocalFeatures, table
from imgfp.images import ImageError, cut_box, read_image
from imgfp.stages.inventory import read_images


def image_tasks(root: Path, folder: str, suffix: str) -> list[Task]:
    """One task a shard of images of a library or run; its artefact lands in `root/folder`."""
    images = read_images(root, ["image_id", "path", "sha256"])
    return [
        Task(
            root / folder / f"{name}{suffix}",
            tuple(rows["image_id"] + rows["sha256"]),
            {"images": rows[["image_id", "path"]].to_dict("records")},
            len(rows),
        )
        for name, rows in images.groupby("shard", sort=True)
    ]


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


def detect_boxes(
    images: list[dict], *, crop_detector: str, weights_hash: str, trust_pt: bool = False
) -> Made:
    """Every box that the detector sees in each image, as the `detections` table.

    `weights_hash` tells one state of the detector's weights from another in the fingerprint;
    `trust_pt` as in `imgfp.crops.load_detector`.
    """
    detector = _detector(crop_detector, weights_hash, trust_pt)
    rows, rejects = [], []
    for record, image in decoded(images, rejects):
        boxes = detector.detect([image], [record["image_id"]])[0]
        for xyxy, confidence in zip(boxes.xyxy, boxes.confidence, strict=True):
            rows.append((record["image_id"], *xyxy, confidence))
    columns = ["image_id", "x0", "y0", "x1", "y1", "confidence"]
    return Made(table("detections", pd.DataFrame(rows, columns=columns)), rejects)


@lru_cache(maxsize=2)
def _detector(name: str, weights_hash: str, trust_pt: bool):
    return load_detector(name, trust_pt=trust_pt)


def boxes_of(detections: pd.DataFrame, image_id: str) -> Boxes:
    """The detections of one image as a record."""
    rows = detections[detections["image_id"] == image_id]
    return Boxes(rows[["x0", "y0", "x1", "y1"]].to_numpy(), rows["confidence"].to_numpy())


def cut_all(crops: pd.DataFrame) -> list[np.ndarray]:
    """The pixels of each crop row; needs the columns path, x0, y0, x1, y1."""
    boxes = crops[["x0", "y0", "x1", "y1"]].to_numpy()
    return [cut_box(read_image(p), box) for p, box in zip(crops["path"], boxes, strict=True)]


def choose_crops(queries: pd.DataFrame, detections: pd.DataFrame, **rules) -> pd.DataFrame:
    """The `crops` table of all queries: `crops.crop_table` with the same rules for each."""
    sizes = queries.set_index("image_id")[["width", "height"]]
    tables = [
        crop_table(image_id, boxes_of(rows, image_id), *sizes.loc[image_id], **rules)
        for image_id, rows in detections.groupby("image_id", sort=True)
    ]
    return table("crops", pd.concat(tables)) if tables else table("crops")


def extract_features(images: list[dict], **settings) -> Made:
    """Keypoints and descriptors of each image, or of the box of it that a record names.

    Coordinates are in the pixels of the whole upright image either way.
    """
    ids, features, rejects = [], [], []
    for record, image in decoded(images, rejects):
        ids.append(record["image_id"])
        features.append(_features_of(image, record, settings))
    return Made(LocalFeatures.from_images(ids, features), rejects)


def _features_of(image, record: dict, settings: dict):
    if "x0" not in record:
        return sift.extract(image, **settings)
    box = [record["x0"], record["y0"], record["x1"], record["y1"]]
    keypoints, descriptors = sift.extract(cut_box(image, box), **settings)
    # The cut starts at a whole pixel: move by what was cut, not by the box.
    keypoints[:, :2] += [max(0, round(box[0])), max(0, round(box[1]))]
    return keypoints, descriptors


def decoded(images: list[dict], rejects: list) -> Iterator[tuple[dict, np.ndarray]]:
    """Each record with its picture, read once for records that follow each other with one path; what
    cannot be read any more goes to `rejects`."""
    last_path, last_image = None, None
    for record in images:
        if record["path"] != last_path:
            try:
                take_in_hand(record["path"])
                last_image = read_image(record["path"])
            except ImageError as error:
                # It was readable when listed: gone or changed since, or too much for a worker.
                rejects.append((record["path"], error.reason))
                last_image = None
            last_path = record["path"]
        if last_image is not None:
            yield record, last_image


def keypoint_counts(folder: Path) -> pd.Series:
    """Keypoints of each image of a folder of feature shards, by image id."""
    parts = [store.feature_counts(path) for path in store.shards(folder, ".h5")]
    return pd.concat(parts) if parts else pd.Series(dtype="int64")
