# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 04: boxes of pasted images, and the crops that the rules choose."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.crops.detectors import DETECTORS, load_detector
from imgfp.crops.rule import CORNERS, crop_table
from imgfp.datatypes import Boxes, frame_of, table
from imgfp.decoding import Limits, read_image
from imgfp.images import cut_box
from imgfp.inference import check_device
from imgfp.runner.cluster import MapReport, ShardResult, map_shards
from imgfp.stages.certain import explained_queries
from imgfp.stages.inventory import decoded, image_tasks, left_out, on_gpu, read_images
from imgfp.store import Run


def detect_crops(
    run: Run,
    *,
    crop_detector: str,
    device: str = "cpu",
    cluster: str = "local",
    workers: int = 0,
) -> MapReport:
    """Detect pasted images in every query that is not explained; `crop_detector` and `device` as in
    `imgfp.crops.detectors.load_detector`, whose errors it raises. A relative path counts from the project
    root."""
    crop_detector = store.located(crop_detector, DETECTORS)
    detector = load_detector(crop_detector, device=device)
    settings: dict[str, Any] = {
        "crop_detector": crop_detector,
        "weights_hash": detector.weights_hash,
    }
    tasks = image_tasks(run, run.detections, ".parquet", explained_queries(run))
    if detector.device != "cpu":  # what a CPU has made is recorded without a device
        settings["device"] = detector.device
        tasks, workers = on_gpu(tasks, device, workers)
    return map_shards(
        detect_boxes,
        tasks,
        settings,
        cluster=cluster,
        workers=workers,
        title="detect",
        lock_dir=run.root,
        output_dir=run.detections,
    )


@store.produces("detections", formerly=["imgfp.stages.local.detect_boxes"])
def detect_boxes(
    images: Iterable[dict],
    limits: Limits | None = None,
    gpu: str = "",
    *,
    crop_detector: str,
    weights_hash: str,
    device: str = "cpu",
) -> ShardResult:
    """Every box that the detector finds in each image, as the `detections` table.

    `weights_hash` distinguishes states of the detector's weights in the fingerprint; device: "cpu" or "cuda", then by the device `gpu`.
    """
    detector = _detector(crop_detector, weights_hash, gpu or device)
    check_device(detector.device, device)
    rows = []
    rejects: list[tuple[str, str]] = []
    for record, image in decoded(images, rejects, limits):
        boxes = detector.detect([image], [record["image_id"]])[0]
        for xyxy, confidence in zip(boxes.xyxy, boxes.confidence, strict=True):
            rows.append((record["image_id"], *xyxy, confidence))
    columns = ["image_id", *CORNERS, "confidence"]
    return ShardResult(
        table("detections", pd.DataFrame(rows, columns=columns)), rejects, left_out(images)
    )


@lru_cache(maxsize=2)
def _detector(name: str, weights_hash: str, device: str):
    return load_detector(name, device=device)


def choose_crops(run: Run, **rules: float) -> pd.DataFrame:
    """Apply the rules of both operating points to the detections of every query; saves and returns
    the `crops` table. rules: of `imgfp.crops.rule.crop_table`."""
    inputs = [store.describe(path)["sha256"] for path in store.shards(run.detections, ".parquet")]
    crops = crops_of(read_images(run), read_detections(run), **rules)
    with store.lock(run.root):
        store.save(run.crops_parquet, crops, store.origin(crops_of, rules, inputs))
    return crops


@store.produces("crops", formerly=["notebook 02"])
def crops_of(queries: pd.DataFrame, detections: pd.DataFrame, **rules) -> pd.DataFrame:
    """The `crops` table of all queries: `rule.crop_table` with the same rules for each."""
    sizes = queries.set_index("image_id")[["width", "height"]]
    tables = []
    known = detections[detections["image_id"].isin(sizes.index)]  # others are masked
    for name, rows in known.groupby("image_id", sort=True):
        query_id = str(name)
        boxes = boxes_of(rows, query_id)
        tables.append(crop_table(query_id, boxes, *sizes.loc[query_id], **rules))
    return table("crops", pd.concat(tables)) if tables else table("crops")


def read_detections(run: Run) -> pd.DataFrame:
    """Every box the detector found, most confident first within its image; no rows before notebook 04."""
    parts = [store.load(path) for path in store.shards(run.detections, ".parquet")]
    filled = [part for part in parts if len(part)]
    found = table("detections", pd.concat(filled)) if filled else table("detections")
    order = np.lexsort((-found["confidence"], found["image_id"]))
    return found.iloc[order].reset_index(drop=True)


def read_crops(run: Run) -> pd.DataFrame:
    """The boxes that were cut out, as the `crops` table; no rows before notebook 04."""
    return store.load(run.crops_parquet) if run.crops_parquet.exists() else table("crops")


def boxes_of(detections: pd.DataFrame, image_id: str) -> Boxes:
    """The detections of one image as a record."""
    rows = detections[detections["image_id"] == image_id]
    return Boxes(rows[CORNERS].to_numpy(), rows["confidence"].to_numpy())


def box_of_each(crops: pd.DataFrame) -> dict[str, np.ndarray]:
    """The box of each crop, xyxy (4,) float64 in original pixels, by crop id. A view without a box is
    a whole query."""
    corners = crops[CORNERS].to_numpy(np.float64)
    return dict(zip(crops["crop_id"], corners, strict=True))


def cut_all(crops: pd.DataFrame, queries: pd.DataFrame) -> list[np.ndarray]:
    """The pixels of each row of a `crops` table, from the files of its queries."""
    paths = queries.set_index("image_id")["path"].loc[crops["query_id"]]
    boxes = crops[CORNERS].to_numpy()
    return [
        cut_box(read_image(path, frame=frame_of(image_id)), box)
        for image_id, path, box in zip(crops["query_id"], paths, boxes, strict=True)
    ]
