"""A second photograph of a scene, made from the first: what a judge of copies must not fall for.

Real ones are rare in a folder of photographs. A made one has what tells them apart: things at other
depths move against each other, one thing is exchanged for another, the light changes, the camera moves.
"""

from __future__ import annotations

import cv2
import numpy as np


def simulate_second_photograph(
    image: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The picture as if taken again, (h,w,3) uint8 RGB both; other: a picture from which things come."""
    height, width = image.shape[:2]
    seen = _things_moved(image, rng).astype(np.float32)
    if rng.random() < 0.35:
        thing = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
        place = _soft(_blob(height, width, rng), rng)[..., None]
        seen = seen * (1 - place) + thing * place
    if rng.random() < 0.6:
        light = 1 + rng.uniform(0.05, 0.35) * _hills(height, width, 4, rng)
        seen *= light[..., None]
    return _from_elsewhere(np.clip(seen, 0, 255).astype(np.uint8), rng)


def _things_moved(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up to six things shifted, all one way as by parallax or each its own way, by up to 6 % of the
    longer side; at times the ground sways with them."""
    height, width = image.shape[:2]
    far = max(height, width) * rng.uniform(0.01, 0.06)
    heading, parallax = rng.uniform(0, 2 * np.pi), rng.random() < 0.5
    moved = np.zeros((height, width, 2), np.float32)
    for _ in range(int(rng.integers(1, 7))):
        thing = _plot(height, width, rng) if rng.random() < 0.5 else _like(image, rng)
        turn = 0.2 * rng.normal() if parallax else rng.uniform(0, 2 * np.pi)
        step = np.array([np.cos(heading + turn), np.sin(heading + turn)])
        moved[thing] = far * rng.uniform(0.3, 1) * step
    moved = cv2.GaussianBlur(moved, (0, 0), rng.uniform(0.5, 3))
    if rng.random() < 0.5:
        sway = 0.3 * far * _hills(height, width, 3, rng)
        moved += sway[..., None] * np.float32([np.cos(heading), np.sin(heading)])
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(
        image, x + moved[..., 0], y + moved[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def _hills(height: int, width: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """(h,w) float32: smooth noise with so many hills a side, standard deviation about 1."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _plot(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(h,w) bool: up to half of the picture, in smooth pieces."""
    hills = _hills(height, width, int(rng.integers(3, 7)), rng)
    return hills > np.quantile(hills, rng.uniform(0.5, 0.9))


def _like(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h,w) bool: what has the colour of some pixel and is near to it, 8 to 50 % of the picture."""
    height, width = image.shape[:2]
    lab = cv2.cvtColor(cv2.GaussianBlur(image, (0, 0), 3), cv2.COLOR_RGB2LAB).astype(np.float32)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    away = _away(height, width, y, x) * rng.uniform(1, 3)
    unlike = np.linalg.norm(lab - lab[y, x], axis=2) / 60 + away
    return unlike < np.quantile(unlike, rng.uniform(0.08, 0.5))


def _blob(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(h,w) bool: one ragged disc, 10 to 55 % of the picture."""
    y, x = rng.uniform(0.25, 0.75, 2) * (height, width)
    away = _away(height, width, y, x)
    away = away + 0.15 * _hills(height, width, int(rng.integers(3, 6)), rng)
    return away < np.quantile(away, rng.uniform(0.1, 0.55))


def _away(height: int, width: int, y: float, x: float) -> np.ndarray:
    """(h,w): how far every pixel is from y, x, in sides of the picture."""
    down, right = np.arange(height)[:, None], np.arange(width)
    return np.hypot((down - y) / height, (right - x) / width)


def _soft(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(region.astype(np.float32), (0, 0), rng.uniform(0.5, 3))


def _from_elsewhere(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each corner taken from up to 12 % further in: the camera moved and turned a little."""
    height, width = image.shape[:2]
    frame = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    inwards = np.float32([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (width, height)
    taken = frame + rng.uniform(0, rng.uniform(0, 0.12), (4, 2)) * inwards
    matrix = cv2.getPerspectiveTransform(taken.astype(np.float32), frame)
    return cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
