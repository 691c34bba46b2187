"""One unit vector an image: models, query views, normalised similarity.

    model = load_model("imgfp")                       # shipped weights, CPU
    vectors = model.embed(images, batch_size=32)      # (n,d) float32, unit norm

A model squeezes every image to one square, so that a vector depends on its own image only, never on
the batch. Similarity is the dot product of two vectors, -1..1, higher is more alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image


class ModelError(ValueError):
    """A model that cannot be had: unknown name, missing file, weights of another architecture."""


class Model(Protocol):
    """What `load_model` returns. `weights_hash` tells vectors of different weights apart."""

    name: str
    dim: int
    weights_hash: str

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """(H,W,3) uint8 RGB -> the array that one image brings to a batch."""

    def embed(self, images: Iterable[np.ndarray], batch_size: int = 32) -> np.ndarray:
        """Vectors (n,d) float32 of unit norm, in order. An iterator is read one batch ahead in a
        thread, so decoding runs beside the model. Raises ValueError for a wrong image, naming it."""


def load_model(name: str = "imgfp", weights: str = "", device: str = "cpu") -> Model:
    """A model by name, its weights from a file where `weights` is given, else those it comes with.

    Names: "imgfp" (shipped), "gist-grid", "phash" and "pdq" (no weights), the published models of
    `imgfp.architectures.MODELS`, and all of `timm.list_models()`. Raises ModelError saying
    what to do about an unknown name, a missing file, or a file of another layout.
    """
    from imgfp import hashes

    if weights and name in (GistGrid.name, *hashes.NAMES):
        raise ModelError(f"model {name!r} has no weights, got {weights!r}; leave weights empty")
    if name == GistGrid.name:
        return GistGrid()
    if name in hashes.NAMES:
        return hashes.load(name)
    from imgfp import architectures

    return architectures.load(name, weights, device)


def check_image(image: np.ndarray) -> np.ndarray:
    """The image itself. Raises ValueError unless it is (H,W,3) uint8 with at least one pixel."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"expected an (H,W,3) uint8 image, got {image.shape} {image.dtype}")
    return image


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepared_batches(
    images: Iterable[np.ndarray], preprocess: Callable[[np.ndarray], np.ndarray], batch_size: int
) -> Iterator[np.ndarray]:
    """Stacks of at most `batch_size` preprocessed images, one stack ahead in a thread."""
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
        coming = pool.submit(next_batch)
        while rows := coming.result():
            coming = pool.submit(next_batch)
            yield np.stack(rows)


_HOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def squeeze(image: np.ndarray, side_px: int, interpolation: str = "area") -> np.ndarray:
    """Plain resize to a (side_px,side_px,3) square, whatever the aspect.

    "area" is OpenCV's (linear where it enlarges), "bilinear" and "bicubic" are Pillow's, which
    average when they shrink; published models were trained with the one or the other.
    """
    if interpolation == "area":
        shrinks = side_px < min(image.shape[:2])
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(image, (side_px, side_px), interpolation=how)
    return np.asarray(Image.fromarray(image).resize((side_px, side_px), _HOW[interpolation]))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows (n,d) scaled to unit norm, float32. Raises ValueError for a row of zeros or a NaN."""
    vectors = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~(np.isfinite(norms) & (norms > 0))[:, 0]
    if bad.any():
        raise ValueError(f"the model gave no direction for row {int(np.argmax(bad))} of {len(bad)}")
    return vectors / norms


class GistGrid:
    """A training-free stand-in: where edges of which direction are, and the coarse light and dark.

    Two grids (4x4, 2x2) of 8 signed gradient directions, after Oliva & Torralba 2001 and Dalal &
    Triggs 2005, and the 8x8 lowest DCT coefficients of the luminance without the mean: 223 values.
    """

    name = "gist-grid"
    weights_hash = "gist-grid-1"
    dim = 8 * (16 + 4) + 63
    _side = 64

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """(64,64) float32 luminance."""
        grey = cv2.cvtColor(check_image(image), cv2.COLOR_RGB2GRAY)
        return cv2.resize(grey, (self._side, self._side), interpolation=cv2.INTER_AREA).astype(
            np.float32
        )

    def embed(self, images: Iterable[np.ndarray], batch_size: int = 32) -> np.ndarray:
        """See `Model.embed`. A flat image gets one constant direction."""
        parts = [
            np.stack([self._describe(grey) for grey in batch])
            for batch in prepared_batches(images, self.preprocess, batch_size)
        ]
        return unit(np.concatenate(parts)) if parts else np.empty((0, self.dim), np.float32)

    def _describe(self, grey: np.ndarray) -> np.ndarray:
        smooth = cv2.GaussianBlur(grey, (0, 0), 1)
        dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, 1 - axis, axis) for axis in (0, 1))
        strength, angle = cv2.cartToPolar(dx, dy)
        bins = np.floor(angle * (8 / (2 * np.pi)) + 0.5).astype(int) % 8
        planes = np.where(bins == np.arange(8)[:, None, None], strength, 0)
        grids = [
            np.sqrt(planes.reshape(8, n, 64 // n, n, 64 // n).sum(axis=(2, 4))).ravel()
            for n in (4, 2)
        ]
        waves = cv2.dct(cv2.resize(smooth, (32, 32), interpolation=cv2.INTER_AREA))[:8, :8].ravel()
        blocks = [*grids, np.sign(waves[1:]) * np.sqrt(np.abs(waves[1:]))]
        vector = np.concatenate([block / (np.linalg.norm(block) + 1e-3) for block in blocks])
        return vector if np.linalg.norm(vector) > 0.1 else np.ones(self.dim, np.float32)


# Query views: one search asks with each, the best answer counts.

_VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "whole": lambda image: image,
    "mirror": lambda image: image[:, ::-1],
    "flip": lambda image: image[::-1],
    "rot90": lambda image: np.rot90(image, 1),
    "rot180": lambda image: np.rot90(image, 2),
    "rot270": lambda image: np.rot90(image, 3),
    "mirror-rot90": lambda image: np.rot90(image[:, ::-1], 1),
    "mirror-rot270": lambda image: np.rot90(image[:, ::-1], 3),
    "centre70": lambda image: _centre(image, 0.7),
    "centre50": lambda image: _centre(image, 0.5),
}
#: Names that `query_views` knows. Turns are counter-clockwise; centre70 keeps 70 % of both sides.
VIEWS = tuple(_VIEWS)
#: All turns by 90 degrees, of the image and of its mirror image.
EIGHT = VIEWS[:8]


def _centre(image: np.ndarray, share: float) -> np.ndarray:
    height, width = image.shape[:2]
    keep_height, keep_width = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - keep_height) // 2, (width - keep_width) // 2
    return image[top : top + keep_height, left : left + keep_width]


def query_views(image: np.ndarray, names: Sequence[str] = ("whole",)) -> list[np.ndarray]:
    """The image as seen by each named view, contiguous (H,W,3) uint8. Raises ValueError for an
    unknown name, or none."""
    unknown = [name for name in names if name not in _VIEWS]
    if unknown or not len(names):
        raise ValueError(f"unknown query views {unknown}; choose from {', '.join(VIEWS)}")
    return [np.ascontiguousarray(_VIEWS[name](check_image(image))) for name in names]


def best_over_views(
    similarities: np.ndarray, ids: np.ndarray, n_views: int, top_k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join the answers of a query's views: each reference keeps its best similarity.

    similarities (q*v,k) float and ids (q*v,k) int64, the views of one query in adjoining rows, -1:
    no answer. Returns similarities (q,top_k) float32, best first (ties: lower id first), ids
    (q,top_k) and the view (q,top_k) that said so; missing answers are -inf, -1, -1.
    """
    if n_views < 1 or len(ids) % n_views:
        raise ValueError(f"{len(ids)} rows of answers do not divide into {n_views} views")
    k = ids.shape[1]
    rows = len(ids) // n_views
    scores = np.where(ids < 0, -np.inf, similarities).reshape(rows, n_views * k)
    ids = np.asarray(ids).reshape(rows, n_views * k)
    views = np.repeat(np.arange(n_views), k)
    best = np.full((rows, top_k), -np.inf, np.float32)
    best_ids = np.full((rows, top_k), -1, np.int64)
    best_views = np.full((rows, top_k), -1, np.int64)
    for row in range(rows):
        order = np.lexsort((views, ids[row], -scores[row]))
        order = order[ids[row][order] >= 0]
        _, first = np.unique(ids[row][order], return_index=True)
        order = order[np.sort(first)][:top_k]
        best[row, : len(order)] = scores[row][order]
        best_ids[row, : len(order)] = ids[row][order]
        best_views[row, : len(order)] = views[order]
    return best, best_ids, best_views


def background_similarity(
    queries: np.ndarray, background: np.ndarray, neighbours: int, skip: int = 0
) -> np.ndarray:
    """Mean similarity (q,) float32 of each query (q,d) to its nearest background vectors (b,d).

    skip: leave out that many nearest first; 1 where the background is the searched library itself,
    whose nearest may be the copied reference. Raises ValueError where the background is too small.
    """
    if neighbours < 1 or neighbours + skip > len(background):
        raise ValueError(
            f"cannot take {neighbours} neighbours after {skip} from a background of "
            f"{len(background)} vectors; give a larger background or fewer neighbours"
        )
    means = np.empty(len(queries), np.float32)
    for start in range(0, len(queries), 1024):
        block = queries[start : start + 1024] @ background.T
        nearest = -np.sort(-np.partition(block, -(neighbours + skip))[:, -(neighbours + skip) :])
        means[start : start + 1024] = nearest[:, skip:].mean(axis=1)
    return means


def normalise_scores(similarities: np.ndarray, background_means: np.ndarray) -> np.ndarray:
    """Similarities (q,k) less each query's `background_similarity` (q,): a query that resembles
    everything loses its advantage (Pizzi et al. 2022, section 4.3). Higher is more alike."""
    return (similarities - np.asarray(background_means)[:, None]).astype(np.float32)
