"""Features of a detected box that tell whether it holds a pasted image: its sides, inside and outside.

They combine two detectors: a network, which recognises images by their content, and straight edges,
which locate where exactly an image ends. The box scorer of `imgfp.crops.detectors.PasteDetector` turns
them into a confidence.
"""

from __future__ import annotations

import cv2
import numpy as np

from imgfp.crops.edges import column_sums, steps_across, working_copy
from imgfp.datatypes import Boxes
from imgfp.geometry import iou

N_FEATURES = 43


def box_features(image: np.ndarray, xyxy: np.ndarray, network: Boxes, edges: Boxes) -> np.ndarray:
    """(n, N_FEATURES) float32 features of the boxes `xyxy` (n,4) in an (H,W,3) uint8 RGB image.

    Five of each side, vertical sides first, and of two opposite sides the one with more edge first:
    whether it is the image's border, share of it that lies on an edge, the same of its continuation
    beyond the corners, mean step along it, colour step across it. Then shape, inside against outside,
    and how well the boxes of either detector match. `network`, `edges`: all boxes of the two detectors.
    """
    height, width = image.shape[:2]
    small = working_copy(image)
    size = np.array(small.shape[1::-1])
    boxes = np.asarray(xyxy, np.float64).reshape(-1, 4) * np.tile(size / [width, height], 2)
    whole = np.round(boxes).astype(int).clip(0, np.tile(size, 2))
    whole[:, 2:] = np.maximum(whole[:, 2:], np.minimum(whole[:, :2] + 2, size))
    whole[:, :2] = np.minimum(whole[:, :2], whole[:, 2:] - 2)
    colours = cv2.integral(small).astype(np.float64)
    columns = _side_features(small, colours, whole)
    rows = _side_features(
        np.ascontiguousarray(small.transpose(1, 0, 2)),
        colours.transpose(1, 0, 2),
        whole[:, [1, 0, 3, 2]],
    )
    shares = (boxes[:, 2:] - boxes[:, :2]) / size
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2 / size
    shape = np.column_stack(
        [
            shares,
            shares.prod(1),
            np.log(np.maximum(shares[:, 0], 1e-3) / np.maximum(shares[:, 1], 1e-3)),
            np.abs(centre - 0.5),
        ]
    )
    inner = _inside_outside(small, colours, whole)
    matches = [_match(xyxy, detected) for detected in (network, edges)]
    return np.column_stack([columns, rows, shape, inner, *matches]).astype(np.float32)


def _side_features(small: np.ndarray, colours: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n,10): five features each of the left and right side, the side with more edge first."""
    height, width = small.shape[:2]
    step, _, edge = steps_across(small)
    on_edge = column_sums(edge)
    steep = column_sums(cv2.dilate(np.minimum(step, 60), np.ones((1, 3)))) / 60
    left, top, right, bottom = boxes.T
    tall = np.maximum(bottom - top, 1)
    deep = np.maximum((right - left) // 12, 2)
    sides = []
    for at, inwards in ((left, 1), (right, -1)):
        along = on_edge[bottom, at] - on_edge[top, at]
        beyond = (on_edge[-1, at] - along) / np.maximum(height - tall, 1)
        far_in, far_out = at + inwards * deep, at - inwards * deep
        inside = _mean_colour(colours, np.minimum(at, far_in), top, np.maximum(at, far_in), bottom)
        outside = _mean_colour(
            colours, np.minimum(at, far_out), top, np.maximum(at, far_out), bottom
        )
        border = (at <= 1) | (at >= width - 1)
        contrast = np.where(border, 0, np.abs(inside - outside).max(1) / 64)
        steepness = (steep[bottom, at] - steep[top, at]) / tall
        sides.append(np.stack([border, along / tall, beyond, steepness, contrast], 1))
    first, second = np.stack(sides)
    swap = (second[:, 1] > first[:, 1])[:, None]
    return np.hstack([np.where(swap, second, first), np.where(swap, first, second)])


def _mean_colour(
    sums: np.ndarray, left: np.ndarray, top: np.ndarray, right: np.ndarray, bottom: np.ndarray
) -> np.ndarray:
    """(n,3) mean colour of rectangles, clipped to the image, from its integral image."""
    last_y, last_x = sums.shape[0] - 1, sums.shape[1] - 1
    left, right = left.clip(0, last_x), right.clip(0, last_x)
    top, bottom = top.clip(0, last_y), bottom.clip(0, last_y)
    total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return total / np.maximum((right - left) * (bottom - top), 1)[:, None]


def _inside_outside(small: np.ndarray, colours: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n,9): colour step across the border of a box; brightness, contrast, detail and saturation inside
    and outside it."""
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    detail = np.abs(cv2.Laplacian(grey, cv2.CV_16S)).astype(np.float32)
    red, green, blue = cv2.split(small)
    lowest, highest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    chroma = cv2.subtract(highest, lowest).astype(np.float32)
    light = grey.astype(np.float32)
    sums = cv2.integral(cv2.merge([light, light * light, detail, chroma]))
    left, top, right, bottom = boxes.T
    n_in = ((right - left) * (bottom - top)).astype(float)[:, None]
    n_out = np.maximum(grey.size - n_in, 1)
    inside, outside = [], []
    for table in (colours, sums):
        part = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        inside.append(part / n_in)
        outside.append((table[-1, -1] - part) / n_out)
    colour_step = np.abs(inside[0] - outside[0]).max(1) / 64
    features = [colour_step]
    for mean in (inside[1], outside[1]):
        spread = np.sqrt(np.maximum(mean[:, 1] - mean[:, 0] ** 2, 0))
        features += [mean[:, 0] / 128, spread / 64, np.log1p(mean[:, 2]), mean[:, 3] / 64]
    return np.column_stack(features)


def _match(xyxy: np.ndarray, detected: Boxes) -> np.ndarray:
    """(n,4): confidence of the best detected box with an IoU above 0.7; best of confidence times squared
    IoU; number of boxes with an IoU above 0.7, over 5; and the image's best confidence."""
    if not len(detected):
        return np.zeros((len(xyxy), 4))
    overlap = iou(xyxy[:, None], detected.xyxy)
    same = overlap > 0.7
    return np.column_stack(
        [
            (same * detected.confidence).max(1),
            (overlap**2 * detected.confidence).max(1),
            np.minimum(same.sum(1), 5) / 5,
            np.full(len(xyxy), detected.confidence.max()),
        ]
    )
