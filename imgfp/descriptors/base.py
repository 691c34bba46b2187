# SPDX-License-Identifier: AGPL-3.0-or-later
"""Global descriptors, one unit vector per image: what a model is, batches, resizing.

    model = load_model("imgfp")                       # shipped weights, CPU
    vectors = model.embed(images, batch_size=32)      # (n,d) float32, unit norm

A model resizes every image to a square, so that a vector depends on its own image only, never on the
batch. Similarity is the dot product of two vectors, -1..1, higher is more similar.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from PIL import Image

from imgfp.inference import MAX_SIDE_PX


class ModelError(ValueError):
    """The requested model is unavailable: unknown name, missing file, weights of another architecture."""


_ESVIT = (
    "The backbone is published as the full checkpoint of EsViT (Swin-B, W=14) in the README of "
    "github.com/microsoft/esvit"
)
#: Models that are not of timm, and where their weights are.
PUBLISHED = {
    "imgfp": "Leave weights empty for the shipped file, or train with notebook 21",
    "esvit-swin-b": f"{_ESVIT}; the linear head (linear.weight (256,3072), linear.bias) is in the same "
    f"file or in a second one, both paths joined by {os.pathsep!r}",
    "esvit-swin-b-features": _ESVIT,
    "isc21-dt1": "isc_ft_v107.pth.tar is published in the releases of "
    "github.com/lyakaap/ISC21-Descriptor-Track-1st",
    "sscd": "sscd_disc_mixup.torchscript.pt is linked in the README of "
    "github.com/facebookresearch/sscd-copy-detection; make the file of it with `imgfp convert "
    "sscd_disc_mixup.torchscript.pt sscd.onnx --trust`",
    "onnx": "Make one of a TorchScript file with `imgfp convert`",
}


class Model(ABC):
    """What `load_model` returns: a subclass defines `preprocess` and `_vectors`.

    dim: length of a vector; weights_hash: distinguishes vectors of different weights; device: "cpu" or "cuda",
    where it runs, since their vectors differ in the last digits.
    """

    name: str
    dim: int
    weights_hash: str
    device: str = "cpu"

    @property
    def identity(self) -> str:
        """Name and weights in one text, "imgfp e77c6d28c2de": what vectors and fusion models are recorded with."""
        return f"{self.name} {self.weights_hash[:12]}"

    @abstractmethod
    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """(H,W,3) uint8 RGB -> the image's row of a batch."""

    @abstractmethod
    def _vectors(self, batch: np.ndarray) -> np.ndarray:
        """Preprocessed images (n,...) -> their vectors (n,dim), not yet of unit norm, none zero."""

    def embed(self, images: Iterable[np.ndarray], batch_size: int = 32) -> np.ndarray:
        """Vectors (n,dim) float32 of unit norm, in order. An iterator is read one batch ahead in a
        thread, so that decoding overlaps with the model. Raises ValueError naming an invalid image."""
        parts = [
            self._vectors(batch) for batch in prepared_batches(images, self.preprocess, batch_size)
        ]
        return l2_normalise(np.concatenate(parts)) if parts else np.empty((0, self.dim), np.float32)


_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
#: Mean and standard deviation of RGB values in 0..1.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of an image: resized to a square of side_px with `interpolation` ("area", "bilinear"
    or "bicubic"), scaled to 0..1, `mean` subtracted, divided by `std` (RGB)."""

    side_px: int
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # JSON gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        numbers = np.array([*self.mean, *self.std], float)
        if not (
            0 < self.side_px <= MAX_SIDE_PX
            and self.interpolation in ("area", *_PILLOW)
            and numbers.shape == (6,)
            and np.isfinite(numbers).all()
            and (numbers[3:] > 0).all()
        ):
            raise ValueError(f"not a preprocessing: {self}")

    def resized(self, image: np.ndarray) -> np.ndarray:
        """(H,W,3) uint8 -> (side_px,side_px,3) uint8. Raises ValueError for an invalid image."""
        return resize_square(check_image(image), self.side_px, self.interpolation)


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
