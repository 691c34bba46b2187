"""Long straight edges: a detector without training, and refined sides for the boxes of any other."""

from __future__ import annotations

import cv2
import numpy as np

from imgfp.crops.boxes import nms
from imgfp.datatypes import Boxes


def detect_rectangles(image: np.ndarray, *, max_boxes: int = 10, max_overlap: float = 0.6) -> Boxes:
    """Detect pasted rectangles by their long straight edges; no training, no weights.

    On a copy of 256 px, steps in brightness or colour are thinned to one pixel and summed along
    rows and columns. All rectangles between the strongest rows and columns (the image's own border
    included) are scored by the share of each side that lies on a step, less half of the share of
    the side's continuation that does: the edge of a pasted image ends at its corner, a horizon goes
    on. Confidence is that score, 0..1. `image`: (H,W,3) uint8 RGB. Boxes that overlap a better one
    by more than `max_overlap` (intersection over union) are left out.
    """
    height, width = image.shape[:2]
    small = working_copy(image)
    small_size = small.shape[1::-1]
    x, x_sums = _edge_lines(small)
    y, y_sums = _edge_lines(np.ascontiguousarray(small.transpose(1, 0, 2)))
    # All pairs of columns by all pairs of rows.
    left, right = (x[index] for index in np.triu_indices(len(x), 1))
    top, bottom = (y[index] for index in np.triu_indices(len(y), 1))
    wide, tall = right - left >= 0.12 * small_size[0], bottom - top >= 0.12 * small_size[1]
    left, right, top, bottom = left[wide], right[wide], top[tall], bottom[tall]
    verticals = [_side_score(x_sums, at, top, bottom) for at in (left, right)]
    horizontals = [_side_score(y_sums, at, left, right).T for at in (top, bottom)]
    scores = np.stack([*verticals, *horizontals])  # (4, column pairs, row pairs); NaN on the border
    inner = np.isfinite(scores).sum(0)
    # One edge across the whole image is weaker evidence than four that meet.
    trust = np.array([0, 0.8, 0.9, 0.95, 1.0])[inner]
    filled = np.where(np.isfinite(scores), scores, 1)
    mean = np.where(np.isfinite(scores), scores, 0).sum(0) / np.maximum(inner, 1)
    confidence = np.where(inner > 0, trust * (0.5 * filled.min(0) + 0.5 * mean), 0).clip(0, 1)
    columns, rows = np.nonzero(confidence > 0.2)
    xyxy = np.stack([left[columns], top[rows], right[columns], bottom[rows]], 1).astype(np.float32)
    scale = np.array([width, height], np.float32) / np.array(small_size, np.float32)
    xyxy *= np.tile(scale, 2)
    keep = nms(xyxy, confidence[columns, rows], max_overlap=max_overlap, max_boxes=max_boxes)
    return Boxes(xyxy[keep], confidence[columns, rows][keep])


def working_copy(image: np.ndarray) -> np.ndarray:
    """The image shrunk to 256 px on its longer side, on which edges are detected."""
    height, width = image.shape[:2]
    scale = min(1.0, 256 / max(height, width))
    size = max(8, round(width * scale)), max(8, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def steps_across(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Horizontal steps of an (H,W,3) uint8 image, three arrays (H,W-1) uint8: the absolute difference of
    each pixel and its right neighbour in the channel where it is largest; 1 where that is at least 10
    and the local maximum of 5 columns; and the latter dilated by a pixel on either side, because an
    edge may be slightly oblique."""
    red, green, blue = cv2.split(cv2.absdiff(image[:, 1:], image[:, :-1]))
    step = cv2.max(cv2.max(red, green), blue)
    thin = ((step >= cv2.dilate(step, np.ones((1, 5)))) & (step >= 10)).astype(np.uint8)
    return step, thin, cv2.dilate(thin, np.ones((1, 3)))


def column_sums(steps: np.ndarray) -> np.ndarray:
    """(H,W-1) to (H+1,W+1) float32 cumulative sums down each column, with a row of zeros on top and a
    column of zeros at either border."""
    height, inner = steps.shape
    sums = np.zeros((height + 1, inner + 2), np.float32)
    np.cumsum(steps, axis=0, dtype=np.float32, out=sums[1:, 1:-1])
    return sums


def _edge_lines(image: np.ndarray, n_lines: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """The columns of (H,W,3) with most edge along them, borders included, ascending; and the
    (H+1,W+1) cumulative sums down each column of the edges between it and the column before."""
    height, width = image.shape[:2]
    _, thin, edge = steps_across(image)
    sums = column_sums(edge)
    strength = thin.sum(0, dtype=np.float32)
    strength[strength < cv2.dilate(strength[None], np.ones((1, 5)))[0]] = 0
    lines = np.argsort(-strength, kind="stable")[:n_lines]
    lines = lines[strength[lines] >= 0.1 * height] + 1
    return np.unique([0, *lines, width]), sums


def _side_score(
    sums: np.ndarray, at: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> np.ndarray:
    """(len(at), len(start)) share of edge on the side in column `at` from row `start` to `stop`, less
    half of the share on its continuation; NaN where the side is the image's own border."""
    lines = sums[:, at]
    last = len(lines) - 1
    inside = (lines[stop] - lines[start]).T / (stop - start)
    outside = (lines[-1] - (lines[stop] - lines[start])).T / np.maximum(last - (stop - start), 1)
    score = inside - 0.5 * outside
    score[(at == 0) | (at == sums.shape[1] - 1)] = np.nan
    return score


def snap_to_edges(image: np.ndarray, xyxy: np.ndarray, *, reach: float = 0.06) -> np.ndarray:
    """Move each side of boxes (n,4) to the straightest, sharpest edge near it, where there is one.

    Along a side, the mean step between neighbouring pixels is measured at every position within
    `reach` of the box's width or height; the strongest, nearer ones preferred, is taken when it
    stands out from the others. A side without such an edge within 2.5 % of the image's border moves
    to the border. `image`: (H,W,3) uint8 RGB. Returns float64 boxes.
    """
    size = np.array(image.shape[1::-1])
    snapped = np.array(xyxy, np.float64).reshape(-1, 4)
    for box in snapped:
        before = box.copy()
        for side in range(4):
            axis = side % 2
            box[side] = _sharpest(
                image if axis == 0 else image.transpose(1, 0, 2),
                before[side],
                before[1 - axis : 4 - axis : 2],
                max(2.0, reach * (before[2 + axis] - before[axis])),
                size[axis],
            )
    return snapped


def _sharpest(image: np.ndarray, at: float, span: np.ndarray, reach: float, width: int) -> float:
    """The column near `at` with most edge between the rows of `span`; `at` itself without any."""
    inset = 0.06 * (span[1] - span[0])  # corners may be rounded, and other edges meet there
    top, bottom = max(0, round(span[0] + inset)), min(len(image), round(span[1] - inset))
    first = max(1, int(np.floor(at - reach)))
    last = min(width - 1, int(np.ceil(at + reach)))
    if bottom - top >= 4 and last > first:
        every = max(1, (bottom - top) // 96)  # 96 rows are enough
        strip = np.ascontiguousarray(image[top:bottom:every, first - 1 : last + 1])
        step = cv2.absdiff(strip[:, 1:], strip[:, :-1]).max(2)
        # Clipped: a long faint edge counts for more than a few glaring pixels.
        step = np.minimum(step, 60).mean(0)
        position = np.arange(first, last + 1)
        best = int((step * np.exp(-0.5 * ((position - at) / (0.7 * reach)) ** 2)).argmax())
        if step[best] > 2 * np.median(step) + 2:
            return float(position[best])
    border = 0 if at < width / 2 else width
    return float(border) if abs(at - border) < 0.025 * width else at
