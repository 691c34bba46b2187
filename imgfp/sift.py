# SPDX-License-Identifier: AGPL-3.0-or-later
"""SIFT keypoints and RootSIFT descriptors of one image, and descriptors of its mirror image or negative.

OpenCV's SIFT detects and describes. This module adds the frame that it works on (downscaled first,
which bounds its memory), an order and a limit that depend on the image alone, and descriptors as bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from imgfp.images import cut_box

#: SIFT needs about 224 bytes per pixel of its frame. A strip of 300 x 60,000 pixels, whose short side
#: is not reduced, would take 4 GB; larger frames than this are shrunk.
MAX_FRAME_PIXELS = 1 << 20

#: OpenCV's keypoint size is a diameter; VLFeat and the text files of the 2021 system give the scale
#: (sigma).
SIZE_PER_SCALE = 2.0

#: Components of a descriptor in OpenCV's order: 4 rows and 4 columns of cells, 8 orientations each.
_CELLS = np.arange(128).reshape(4, 4, 8)
_REVERSED_BINS = [0, 7, 6, 5, 4, 3, 2, 1]
#: Permutations of the components for the mirrored and for the contrast-reversed image.
MIRROR = _CELLS[::-1, :, _REVERSED_BINS].ravel()
REVERSE = _CELLS[::-1, ::-1].ravel()
_SEED_LAYOUT = _CELLS[:, :, _REVERSED_BINS].ravel()

#: Keypoints whose distances to all stronger ones are computed at once, which bounds the memory.
_BLOCK = 256


def extract(
    image: np.ndarray,
    *,
    short_side_px: int = 300,
    first_octave: int = 0,
    octave_layers: int = 7,
    contrast_threshold: float = 0.0137,
    edge_threshold: float = 10.0,
    sigma: float = 1.6,
    max_keypoints: int = 0,
    min_keypoints: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints and RootSIFT descriptors of an upright image.

    image: (H,W,3) uint8 RGB or (H,W) uint8 grey.
    short_side_px: the image is shrunk (area mean, never enlarged) to this length of its short side.
    first_octave: -1 doubles the frame, as Lowe does, and finds details under 3 px; 0 does not, as in
        the 2021 system: a quarter of the pixels, half of the keypoints.
    octave_layers, contrast_threshold, edge_threshold, sigma: as in `cv2.SIFT.create`. OpenCV
        divides the contrast threshold by the layers and works on 0..1, so VLFeat's peak threshold
        p on grey levels is `octave_layers * p / 255`: 0.0137 for p = 0.5 at 7 layers.
    max_keypoints: keep so many, see `spread`; 0: all.
    min_keypoints: an image with fewer than this gets no features at all; 0 or 1: keep any.

    Returns keypoints (n,4) float32 = x, y, size, angle in the pixels of `image`, the centre of the
    first pixel being (0,0), angle in radians clockwise from the x axis in [0, 2 pi); and descriptors
    (n,128) uint8, the square roots of the L1-normalised histograms times 255 (Arandjelovic and
    Zisserman, "Three things everyone should know", 2012): the squared norm is about 255 squared.
    Strongest first; ties are ordered by x, y, size, angle. A flat image gives (0,4) and (0,128).
    Raises ValueError for an image that is not uint8, not 2- or 3-dimensional, or empty, and for
    another first_octave.
    """
    if first_octave not in (-1, 0):
        raise ValueError(f"first_octave: expected -1 (doubled frame) or 0, got {first_octave!r}")
    frame = _frame(image, short_side_px, halved=first_octave == 0)
    detector = cv2.SIFT.create(
        0, octave_layers, contrast_threshold, edge_threshold, sigma, cv2.CV_8U, True
    )
    detected, histograms = detector.detectAndCompute(frame, None)
    if len(detected) < max(min_keypoints, 1):
        return np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)
    rows = np.array([(*k.pt, k.size, k.angle, k.response) for k in detected], np.float32)
    order = np.lexsort((rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0], -rows[:, 4]))
    keypoints = _to_image(rows[order, :4], image.shape, frame.shape)
    descriptors = _root(histograms[order])
    kept = _first_of_equals(keypoints, descriptors)
    if max_keypoints:
        kept = kept[spread(keypoints[kept, :2], max_keypoints)]
    return keypoints[kept], descriptors[kept]


def extract_from_box(
    image: np.ndarray, xyxy: Sequence[float] | np.ndarray, **settings: Any
) -> tuple[np.ndarray, np.ndarray]:
    """`extract` of the part of an image in a box xyxy; keypoints are in pixels of the whole image."""
    keypoints, descriptors = extract(cut_box(image, np.asarray(xyxy)), **settings)
    # The cut starts at a whole pixel, so the offset is that pixel and not the corner of the box.
    keypoints[:, :2] += [max(0, round(xyxy[0])), max(0, round(xyxy[1]))]
    return keypoints, descriptors


def spread(points: np.ndarray, count: int) -> np.ndarray:
    """Rows, ascending, of `count` keypoints (or all, if there are fewer) that are strong and spread over the image.

    points (n,2): x and y of the keypoints, strongest first. Those farthest from every stronger one are kept, the
    earlier of equals: adaptive non-maximal suppression (Brown, Szeliski and Winder, "Multi-image matching using
    multi-scale oriented patches", 2005), by order of strength. A smaller budget is a subset of a larger one.
    """
    from scipy.spatial.distance import (
        cdist,
    )  # takes half a second, and most runs keep all keypoints

    radius = np.empty(len(points))
    for start in range(0, len(points), _BLOCK):
        block = slice(start, start + _BLOCK)
        squared = cdist(points[block], points[: block.stop], "sqeuclidean")
        # A row has no distance to itself and to weaker ones, which follow it.
        squared[:, start:][np.triu_indices(len(squared))] = np.inf
        radius[block] = squared.min(axis=1)
    return np.sort(np.argsort(-radius, kind="stable")[:count])


def mirror_descriptors(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (n,128) of the mirrored image, from those of the image.

    A mirror image reverses the handedness of a keypoint's own frame: the rows of cells and the sense
    of the orientations are reversed, nothing else. A vertical flip is a mirror and a half turn, and
    SIFT is invariant to rotation, so this serves both. Applied twice it gives the input.
    """
    return descriptors[:, MIRROR]


def reverse_contrast(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (n,128) of the contrast-reversed image (a negative, or the reversed tones of a
    solarised image), from those of the image.

    Every gradient is reversed, and the keypoint's own direction with it: in that frame the grid of
    cells is rotated by 180 degrees and the histograms are unchanged. Applied twice it gives the input.
    """
    return descriptors[:, REVERSE]


def to_seed_layout(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (n,128) in the layout of the text files of the 2021 system: orientations in reverse
    order."""
    return descriptors[:, _SEED_LAYOUT]


def from_seed_layout(descriptors: np.ndarray) -> np.ndarray:
    """Inverse of `to_seed_layout`."""
    return to_seed_layout(descriptors)


def frame_scale(width: int, height: int, short_side_px: int) -> float:
    """Pixels of the frame per pixel of the image, at most 1.

    short_side_px: see `extract`; 0: limited by MAX_FRAME_PIXELS only.
    """
    scale = min(1.0, math.sqrt(MAX_FRAME_PIXELS / (width * height)))
    return min(scale, short_side_px / min(width, height)) if short_side_px else scale


def _frame(image: np.ndarray, short_side_px: int, halved: bool) -> np.ndarray:
    """The grey image that OpenCV processes.

    OpenCV always doubles its input. To start at octave 0 it gets the frame at half size: its base
    image is blurred to sigma 1.6 anyway, so little is lost.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise ValueError(
            f"expected a uint8 image (H,W) or (H,W,3), got {image.dtype} {image.shape}"
        )
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = image.shape
    scale = frame_scale(width, height, short_side_px) * (0.5 if halved else 1.0)
    if scale == 1.0:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _to_image(rows: np.ndarray, image_shape: tuple, frame_shape: tuple) -> np.ndarray:
    """Rows (n,4) of x, y, size, angle in degrees, from the frame to pixels of the image and radians.

    A pixel of the frame covers several of the image, so the half pixel between corner and centre is
    added before the scaling and removed after it.
    """
    factor_y, factor_x = (
        full / small for full, small in zip(image_shape, frame_shape, strict=False)
    )
    keypoints = np.empty((len(rows), 4), np.float32)
    keypoints[:, 0] = (rows[:, 0] + 0.5) * factor_x - 0.5
    keypoints[:, 1] = (rows[:, 1] + 0.5) * factor_y - 0.5
    keypoints[:, 2] = rows[:, 2] * math.sqrt(factor_x * factor_y)
    keypoints[:, 3] = np.deg2rad(rows[:, 3])
    return keypoints


def _root(histograms: np.ndarray) -> np.ndarray:
    """RootSIFT bytes (n,128) of OpenCV's uint8 histograms (n,128)."""
    sums = np.maximum(histograms.sum(axis=1, keepdims=True, dtype=np.float32), 1.0)
    return np.rint(np.sqrt(histograms / sums) * 255.0).astype(np.uint8)


def _first_of_equals(keypoints: np.ndarray, descriptors: np.ndarray) -> np.ndarray:
    """Row numbers, ascending, without rows that repeat an earlier position and descriptor."""
    positions = np.ascontiguousarray(keypoints[:, :2]).view(np.uint8)
    joined = np.hstack([positions, descriptors])
    whole = joined.view(np.dtype((np.void, joined.shape[1]))).ravel()
    return np.sort(np.unique(whole, return_index=True)[1])
