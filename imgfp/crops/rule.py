# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rule that chooses which detected boxes are cut out: for one image, or for a whole table at once.

The rule itself is `_taken`; `choose_box` applies it to one image, `taken_boxes` to a table of
detections, for widgets that move its thresholds.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from imgfp.datatypes import Boxes, table
from imgfp.geometry import iou

CORNERS = ["x0", "y0", "x1", "y1"]


def choose_box(
    boxes: Boxes,
    width: int,
    height: int,
    *,
    min_confidence: float,
    max_area: float = 0.85,
    max_aspect: float = 4.0,
    max_crops: int = 1,
    max_overlap: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes to cut out of one image of `width` x `height` px, best first.

    A box qualifies when its confidence is above `min_confidence`, its area at most `max_area` of the
    image, and height / width of the box *normalised by the image's sides* within 1/`max_aspect` ..
    `max_aspect` (the rules of team imgFp, ISC2021). The most confident wins. With `max_crops` above
    1 further boxes follow when they share at most `max_overlap` of the smaller box with each one
    taken before: the parts of a collage do, a box inside a box does not.

    Returns (k,4) float32 xyxy clipped to the image, and the (k,) int64 rows of `boxes`; k may be 0.
    """
    corners, area, aspect = _shapes(boxes.xyxy, np.array([width, height], np.float32))
    rows = _taken(
        np.zeros(len(boxes), np.int64),
        corners,
        area,
        aspect,
        boxes.confidence,
        min_confidence=min_confidence,
        max_area=max_area,
        max_aspect=max_aspect,
        max_crops=max_crops,
        max_overlap=max_overlap,
    )
    return corners[rows], rows


def crop_table(
    query_id: str,
    boxes: Boxes,
    width: int,
    height: int,
    *,
    local_min_confidence: float,
    global_min_confidence: float,
    max_area: float = 0.85,
    max_aspect: float = 4.0,
    max_crops: int = 1,
    global_boxes: Boxes | None = None,
) -> pd.DataFrame:
    """The `crops` rows of one query: both operating points applied to the same detections, or the global one to
    `global_boxes`, of a detector of its own.

    The local point (recall) keeps up to `max_crops` boxes, ranked from 0; the global point
    (precision) keeps one. A box that both chose is one row. No box: an empty table.
    """
    others = boxes if global_boxes is None else global_boxes
    limits = {"max_area": max_area, "max_aspect": max_aspect}
    points = (boxes, local_min_confidence, max_crops), (others, global_min_confidence, 1)
    local, single = (
        choose_box(of, width, height, min_confidence=least, max_crops=count, **limits)[1]
        for of, least, count in points
    )
    xyxy = np.concatenate([boxes.xyxy[local], others.xyxy[single]])
    confidence = np.concatenate([boxes.confidence[local], others.confidence[single]])
    is_global = np.arange(len(xyxy)) >= len(local)
    if len(single):
        same = np.flatnonzero((xyxy[: len(local)] == xyxy[-1]).all(axis=1))[:1]
        is_global[same] = True
        count = len(xyxy) - len(same)
        xyxy, confidence, is_global = xyxy[:count], confidence[:count], is_global[:count]
    ranks = np.arange(len(xyxy))
    return table(
        "crops",
        crop_id=[f"{query_id}#{number}" for number in ranks],
        query_id=[query_id] * len(xyxy),
        **dict(zip(CORNERS, xyxy.clip(0, [width, height, width, height]).T, strict=True)),
        confidence=confidence,
        local_rank=np.where(ranks < len(local), ranks, -1),
        is_global=is_global,
    )


def box_facts(detections: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """The shape of each detection, computed once for many calls of `taken_boxes`.

    detections: the table of that name; sizes: width, height by image id. Columns image_id, confidence,
    x0, y0, x1, y1 (pixels, clipped to the image), area (share of the image), aspect (height / width of
    the box normalised by the image's sides); and `point`, where the detections have it.
    """
    size = sizes.loc[detections["image_id"], ["width", "height"]].to_numpy(np.float32)
    corners, area, aspect = _shapes(detections[CORNERS].to_numpy(np.float32), size)
    kept = [name for name in ("image_id", "confidence", "point") if name in detections]
    facts = detections[kept].reset_index(drop=True)
    facts[CORNERS] = corners
    return facts.assign(area=area, aspect=aspect)


def taken_boxes(
    facts: pd.DataFrame,
    *,
    min_confidence: float,
    max_area: float,
    max_aspect: float,
    max_crops: int = 1,
    max_overlap: float = 0.5,
) -> pd.DataFrame:
    """The rows of `facts` that `choose_box` takes, of all images at once; the first of every image,
    then the second of every image, and so on.

    facts: of `box_facts`, most confident first within its image.
    """
    rows = _taken(
        pd.factorize(facts["image_id"])[0],
        facts[CORNERS].to_numpy(),
        facts["area"].to_numpy(),
        facts["aspect"].to_numpy(),
        facts["confidence"].to_numpy(),
        min_confidence=min_confidence,
        max_area=max_area,
        max_aspect=max_aspect,
        max_crops=max_crops,
        max_overlap=max_overlap,
    )
    return facts.iloc[rows]


def _shapes(xyxy: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n,4) float32 clipped to images of size (n,2) or (2,) width, height px, their area as a
    share of the image and their aspect: height / width as shares of the image's sides."""
    corners = np.clip(xyxy, 0, np.concatenate([size, size], axis=-1))
    sides = (corners[:, 2:] - corners[:, :2]) / size
    with np.errstate(divide="ignore", invalid="ignore"):
        return corners, sides.prod(axis=1), sides[:, 1] / sides[:, 0]


def _taken(
    image: np.ndarray,
    corners: np.ndarray,
    area: np.ndarray,
    aspect: np.ndarray,
    confidence: np.ndarray,
    *,
    min_confidence: float,
    max_area: float,
    max_aspect: float,
    max_crops: int,
    max_overlap: float,
) -> np.ndarray:
    """Rows (k,) int64 that the rule of `choose_box` takes, for boxes of any number of images at once.

    image (n,) int: the image of each box, most confident first within it; corners, area, aspect: of
    `_shapes`. Every round takes the first box left of every image and drops those that overlap it.
    """
    left = np.flatnonzero(
        (confidence > min_confidence)
        & (area > 0)
        & (area <= max_area)
        & (aspect >= 1 / max_aspect)
        & (aspect <= max_aspect)
    )
    taken = [left[:0]]
    for _ in range(max_crops):
        _, first, number = np.unique(image[left], return_index=True, return_inverse=True)
        best = left[first]
        taken.append(best)
        apart = iou(corners[best[number]], corners[left], "smaller") <= max_overlap
        apart[first] = False
        left = left[apart]
    return np.concatenate(taken)
