"""Arithmetic of boxes: how much they overlap, which of many stay, from a network's frame and back.

Boxes are xyxy, (n,4), pixels, exclusive ends.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from imgfp.datatypes import Boxes


def iou(a: np.ndarray, b: np.ndarray, over: str = "union") -> np.ndarray:
    """Shared area of each box of `a` (n,4) with each of `b` (m,4) xyxy, as an (n,m) share in 0..1.

    `over` "union" gives the intersection over union, "smaller" divides by the smaller box instead.
    Boxes without an area share nothing.
    """
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    lower = np.maximum(a[:, None, :2], b[None, :, :2])
    upper = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (upper - lower).clip(0).prod(2)
    area_a = (a[:, 2:] - a[:, :2]).clip(0).prod(1)[:, None]
    area_b = (b[:, 2:] - b[:, :2]).clip(0).prod(1)[None]
    whole = np.minimum(area_a, area_b) if over == "smaller" else area_a + area_b - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def nms(
    xyxy: np.ndarray, confidence: np.ndarray, *, max_overlap: float = 0.6, max_boxes: int = 20
) -> np.ndarray:
    """Rows of the boxes that stay, most confident first, when each box removes the weaker ones
    that it overlaps by more than `max_overlap` (intersection over union)."""
    order = np.argsort(-confidence, kind="stable")[:1000]
    kept: list[int] = []
    while len(order) and len(kept) < max_boxes:
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[iou(xyxy[[best]], xyxy[order])[0] <= max_overlap]
    return np.array(kept, np.int64)


def letterbox(
    image: np.ndarray, width: int, height: int, *, stretch: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image brought to width x height, and how to bring xyxy back: `(xyxy - shift) * scale`.

    `stretch` fills the frame and forgets the proportions; else they are kept and the rest is grey
    (114). Returns (height,width,3) uint8, scale (4,) and shift (4,) float64.
    """
    source_height, source_width = image.shape[:2]
    if stretch:
        new_width, new_height = width, height
    else:
        factor = min(width / source_width, height / source_height)
        new_width = max(1, round(source_width * factor))
        new_height = max(1, round(source_height * factor))
    shrinks = new_width * new_height < source_width * source_height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
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
    """What a network gives for one image, (4 + classes, n) or one of two older and newer layouts, as
    (4 + classes, n): YOLOv5's (n, 5 + classes), whose fifth column tells whether anything is
    there at all, or with `end_to_end` (n, 6) corners, score and class number."""
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
    """The boxes that a network sees in an (H,W,3) uint8 RGB image, in its pixels.

    `network` takes (1,3,height,width) float32 in 0..1, the `size` being (width, height), and gives
    (4 + classes, n) boxes as `decode_yolo` reads them.
    """
    pixels, scale, shift = letterbox(image, *size, stretch=stretch)
    feed = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    xyxy, confidence = decode_yolo(network(feed), floor=floor)
    xyxy = ((xyxy - shift) * scale).clip(0, np.tile(image.shape[1::-1], 2))
    keep = nms(xyxy, confidence)
    return Boxes(xyxy[keep], confidence[keep])
