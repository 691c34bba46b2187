# SPDX-License-Identifier: AGPL-3.0-or-later
"""Detector boxes: non-maximum suppression, letterboxing, decoding of YOLO outputs.

Boxes are xyxy, (n,4), pixels, exclusive ends.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from imgfp.datatypes import Boxes
from imgfp.geometry import iou


def nms(
    xyxy: np.ndarray, confidence: np.ndarray, *, max_overlap: float = 0.6, max_boxes: int = 20
) -> np.ndarray:
    """Greedy non-maximum suppression: rows of the boxes kept, most confident first.

    A kept box removes the less confident ones whose intersection over union with it exceeds
    `max_overlap`. Only the 1000 most confident boxes are considered.
    """
    order = np.argsort(-confidence, kind="stable")[:1000]
    kept: list[int] = []
    while len(order) and len(kept) < max_boxes:
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[iou(xyxy[best], xyxy[order]) <= max_overlap]
    return np.array(kept, np.int64)


def letterbox(
    image: np.ndarray, width: int, height: int, *, stretch: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resize an image to width x height; `(xyxy - shift) * scale` maps boxes back to the image.

    `stretch` fills the frame and ignores the aspect ratio; otherwise the aspect ratio is kept and the
    rest is grey (114). Returns (height,width,3) uint8, scale (4,) and shift (4,) float64.
    """
    source_height, source_width = image.shape[:2]
    if stretch:
        new_width, new_height = width, height
    else:
        factor = min(width / source_width, height / source_height)
        new_width = max(1, round(source_width * factor))
        new_height = max(1, round(source_height * factor))
    shrinks = new_width * new_height < source_width * source_height
    # YOLO letterboxes without averaging: what it saw in training it must see here.
    method = cv2.INTER_AREA if shrinks and stretch else cv2.INTER_LINEAR
    resized = cv2.resize(image, (new_width, new_height), interpolation=method)
    left, top = (width - new_width) // 2, (height - new_height) // 2
    if (new_width, new_height) != (width, height):
        frame = np.full((height, width, 3), 114, np.uint8)
        frame[top : top + new_height, left : left + new_width] = resized
        resized = frame
    scale = np.array([source_width / new_width, source_height / new_height] * 2)
    return resized, scale, np.array([left, top] * 2, np.float64)


def decode_yolo(output: np.ndarray, *, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Network output (4 + classes, n) to xyxy (m,4) and confidence (m,) of the boxes above `floor`.

    Rows 0..3 are centre x, y, width, height; a box's confidence is its best class score.
    """
    confidence = output[4:].max(0)
    rows = confidence > floor
    centre, size = output[:2, rows].T, output[2:4, rows].T
    xyxy = np.concatenate([centre - size / 2, centre + size / 2], 1)
    return xyxy.astype(np.float64), confidence[rows]


def to_yolo8_layout(output: np.ndarray, *, end_to_end: bool = False) -> np.ndarray:
    """The output of a network for one image, in the layout of YOLOv8: (4 + classes, n).

    output: that layout already; or YOLOv5's (n, 5 + classes), whose fifth column is the objectness; or
    with `end_to_end` (n, 6) corners, score and class number.
    """
    if end_to_end:
        corners, score = output[:, :4].T, output[None, :, 4]
        sides = corners[2:] - corners[:2]
        return np.concatenate([corners[:2] + sides / 2, sides, score])
    if output.shape[0] > output.shape[1]:
        return np.concatenate([output[:, :4], output[:, 4:5] * output[:, 5:]], 1).T
    return output


def run_detector(
    network: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    size: tuple[int, int],
    *,
    stretch: bool,
    floor: float = 0.02,
) -> Boxes:
    """The boxes that a network detects in an (H,W,3) uint8 RGB image, in pixels of that image.

    network: takes (1,3,height,width) float32 in 0..1 and returns (4 + classes, n), see `decode_yolo`.
    size: its (width, height). floor: boxes of lower confidence are dropped.
    """
    pixels, scale, shift = letterbox(image, *size, stretch=stretch)
    feed = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    xyxy, confidence = decode_yolo(network(feed), floor=floor)
    xyxy = ((xyxy - shift) * scale).clip(0, np.tile(image.shape[1::-1], 2))
    keep = nms(xyxy, confidence)
    return Boxes(xyxy[keep], confidence[keep])
