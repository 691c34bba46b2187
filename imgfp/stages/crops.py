"""Notebook 02: boxes of pasted pictures, and the crops that a rule takes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.crops.detectors import load_detector
from imgfp.crops.rule import crop_table
from imgfp.datatypes import Boxes, table
from imgfp.images import cut_box, read_image
from imgfp.runner.cluster import ShardResult
from imgfp.stages.inventory import decoded


@store.produces("detections", formerly=["imgfp.stages.local.detect_boxes"])
def detect_boxes(
    images: list[dict], *, crop_detector: str, weights_hash: str, trust_pt: bool = False
) -> ShardResult:
    """Every box that the detector sees in each image, as the `detections` table.

    `weights_hash` tells one state of the detector's weights from another in the fingerprint;
    `trust_pt` as in `imgfp.crops.detectors.load_detector`.
    """
    detector = _detector(crop_detector, weights_hash, trust_pt)
    rows, rejects = [], []
    for record, image in decoded(images, rejects):
        boxes = detector.detect([image], [record["image_id"]])[0]
        for xyxy, confidence in zip(boxes.xyxy, boxes.confidence, strict=True):
            rows.append((record["image_id"], *xyxy, confidence))
    columns = ["image_id", "x0", "y0", "x1", "y1", "confidence"]
    return ShardResult(table("detections", pd.DataFrame(rows, columns=columns)), rejects)


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
    """The `crops` table of all queries: `rule.crop_table` with the same rules for each."""
    sizes = queries.set_index("image_id")[["width", "height"]]
    tables = [
        crop_table(image_id, boxes_of(rows, image_id), *sizes.loc[image_id], **rules)
        for image_id, rows in detections.groupby("image_id", sort=True)
    ]
    return table("crops", pd.concat(tables)) if tables else table("crops")
