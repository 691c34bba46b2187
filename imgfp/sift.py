"""Keypoints and RootSIFT bytes of one picture; the mirror image of descriptors without the pixels.

OpenCV's SIFT does the work. What is ours: the frame it sees (downscaled first, which bounds its
memory), an order and a cut that depend on nothing but the picture, and bytes instead of floats.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

#: SIFT needs about 224 bytes a pixel of its frame, whatever the picture: a strip of 300 x 60,000
#: pixels keeps its short side and would still take 4 GB. Larger frames are shrunk to this.
MAX_FRAME_PIXELS = 1 << 20

#: OpenCV's keypoint size is a diameter; VLFeat and the seed's text files give the scale (sigma).
SIZE_PER_SCALE = 2.0

_CELLS = np.arange(128).reshape(4, 4, 8)
_REVERSED_BINS = [0, 7, 6, 5, 4, 3, 2, 1]
MIRROR = _CELLS[::-1, :, _REVERSED_BINS].ravel()
INVERT = _CELLS[::-1, ::-1].ravel()
_SEED_LAYOUT = _CELLS[:, :, _REVERSED_BINS].ravel()


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
    """Keypoints and RootSIFT descriptors of an upright picture.

    image: (H,W,3) uint8 RGB or (H,W) uint8 grey.
    short_side_px: the picture is shrunk (area mean, never enlarged) until its short side has this.
    first_octave: -1 doubles the frame as Lowe does and finds details under 3 px; 0 does not, as the
        seed: a fourth of the pixels, half of the keypoints.
    octave_layers, contrast_threshold, edge_threshold, sigma: as in `cv2.SIFT_create`. OpenCV
        divides the contrast threshold by the layers and works on 0..1, so VLFeat's peak threshold
        p on grey levels is `octave_layers * p / 255`: 0.0137 for p = 0.5 at 7 layers.
    max_keypoints: keep the strongest; 0: all.
    min_keypoints: with fewer than this the picture has no features at all; 0 or 1: keep any.

    Returns keypoints (n,4) float32 = x, y, size, angle in the pixels of `image`, the centre of the
    first pixel being (0,0), angle in radians clockwise from the x axis in [0, 2 pi); and descriptors
    (n,128) uint8, the square roots of the L1-normalised histograms times 255 (Arandjelovic and
    Zisserman, "Three things everyone should know", 2012): the squared norm is about 255 squared.
    Strongest first; equal ones by x, y, size, angle. A flat picture gives (0,4) and (0,128).
    Raises ValueError for an image that is not uint8, not 2- or 3-dimensional, or empty.
    """
    if first_octave not in (-1, 0):
        raise ValueError(f"first_octave: expected -1 (doubled frame) or 0, got {first_octave!r}")
    frame = _frame(image, short_side_px, halved=first_octave == 0)
    detector = cv2.SIFT_create(
        0, octave_layers, contrast_threshold, edge_threshold, sigma, cv2.CV_8U, True
    )
    found, histograms = detector.detectAndCompute(frame, None)
    if len(found) < max(min_keypoints, 1):
        return np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)
    rows = np.array([(*k.pt, k.size, k.angle, k.response) for k in found], np.float32)
    order = np.lexsort((rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0], -rows[:, 4]))
    keypoints = _to_image(rows[order, :4], image.shape, frame.shape)
    descriptors = _root(histograms[order])
    kept = _first_of_equals(keypoints, descriptors)
    if max_keypoints:
        kept = kept[:max_keypoints]
    return keypoints[kept], descriptors[kept]


def mirror_descriptors(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (n,128) of the mirrored picture, from those of the picture.

    A mirror image turns the handedness of a keypoint's own frame: the rows of cells and the sense of
    the orientations are reversed, nothing else. A vertical flip is a mirror and a half turn, and SIFT
    does not see turns, so this serves both. Twice gives the input back.
    """
    return descriptors[:, MIRROR]


def invert_descriptors(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (n,128) of the picture with dark and light exchanged (a negative, or the turned
    tones of a solarised picture), from those of the picture.

    Every gradient turns round, and the keypoint's own direction with it: in that frame the grid of
    cells stands on its head and the histograms are unchanged. Twice gives the input back.
    """
    return descriptors[:, INVERT]


def to_seed_layout(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (n,128) in the layout of the seed's text files: orientations in reversed order."""
    return descriptors[:, _SEED_LAYOUT]


def from_seed_layout(descriptors: np.ndarray) -> np.ndarray:
    """Inverse of `to_seed_layout`; reversing the orientations twice gives the input back."""
    return to_seed_layout(descriptors)


def frame_scale(width: int, height: int, short_side_px: int) -> float:
    """Pixels of the frame per pixel of the picture, at most 1; 0 for `short_side_px`: unbounded."""
    scale = min(1.0, math.sqrt(MAX_FRAME_PIXELS / (width * height)))
    return min(scale, short_side_px / min(width, height)) if short_side_px else scale


def _frame(image: np.ndarray, short_side_px: int, halved: bool) -> np.ndarray:
    """The grey picture that OpenCV gets.

    OpenCV always doubles its input. To start at octave 0 it gets half the frame: its base picture is
    blurred to sigma 1.6 anyway, which half the pixels carry with little loss.
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
    """Rows (n,4) of x, y, size, angle in degrees from the frame to the pixels of the image.

    A shrunken pixel covers several, so centres move by half a pixel on either side of the scaling.
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
    """Row numbers, in order, without rows that repeat an earlier position and descriptor."""
    positions = np.ascontiguousarray(keypoints[:, :2]).view(np.uint8)
    joined = np.hstack([positions, descriptors])
    whole = joined.view(np.dtype((np.void, joined.shape[1]))).ravel()
    return np.sort(np.unique(whole, return_index=True)[1])
