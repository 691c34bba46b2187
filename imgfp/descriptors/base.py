"""Global descriptors, one unit vector per image: protocol of the models, batches, resizing.

    model = load_model("imgfp")                       # shipped weights, CPU
    vectors = model.embed(images, batch_size=32)      # (n,d) float32, unit norm

A model resizes every image to a square, so that a vector depends on its own image only, never on the
batch. Similarity is the dot product of two vectors, -1..1, higher is more similar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import cv2
import numpy as np
from PIL import Image


class ModelError(ValueError):
    """The requested model is unavailable: unknown name, missing file, weights of another architecture."""


class Model(Protocol):
    """What `load_model` returns. dim: length of a vector; weights_hash: distinguishes vectors of
    different weights."""

    name: str
    dim: int
    weights_hash: str

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """(H,W,3) uint8 RGB -> the image's row of a batch."""

    def embed(self, images: Iterable[np.ndarray], batch_size: int = 32) -> np.ndarray:
        """Vectors (n,dim) float32 of unit norm, in order. An iterator is read one batch ahead in a
        thread, so that decoding overlaps with the model. Raises ValueError naming an invalid image."""


def check_image(image: np.ndarray) -> np.ndarray:
    """The image itself. Raises ValueError unless it is (H,W,3) uint8 with at least one pixel."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"expected an (H,W,3) uint8 image, got {image.shape} {image.dtype}")
    return image


def prepared_batches(
    images: Iterable[np.ndarray], preprocess: Callable[[np.ndarray], np.ndarray], batch_size: int
) -> Iterator[np.ndarray]:
    """Stacks of at most `batch_size` preprocessed images, prepared one stack ahead in a thread."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    source = enumerate(images)

    def next_batch() -> list[np.ndarray]:
        rows = []
        for i, image in islice(source, batch_size):
            try:
                rows.append(preprocess(check_image(image)))
            except ValueError as error:
                raise ValueError(f"image {i}: {error}") from error
        return rows

    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next_batch)
        while rows := upcoming.result():
            upcoming = pool.submit(next_batch)
            yield np.stack(rows)


_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize_square(image: np.ndarray, side_px: int, interpolation: str = "area") -> np.ndarray:
    """Resize to a (side_px,side_px,3) square, ignoring the aspect ratio.

    "area" is OpenCV's (linear where it enlarges); "bilinear" and "bicubic" are Pillow's, which
    average when they shrink. Published models were trained with one of them.
    """
    if interpolation == "area":
        shrinks = side_px < min(image.shape[:2])
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(image, (side_px, side_px), interpolation=method)
    return np.asarray(Image.fromarray(image).resize((side_px, side_px), _PILLOW[interpolation]))


def l2_normalise(vectors: np.ndarray) -> np.ndarray:
    """Rows (n,d) scaled to unit norm, float32. Raises ValueError for a row of zeros or a NaN."""
    vectors = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~(np.isfinite(norms) & (norms > 0))[:, 0]
    if bad.any():
        raise ValueError(
            f"the model gave a zero or non-finite vector for row {int(np.argmax(bad))} of {len(bad)}"
        )
    return vectors / norms
