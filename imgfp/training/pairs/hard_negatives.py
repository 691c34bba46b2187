"""Synthetic hard negatives: a second photograph of a scene, simulated from the first.

Real second photographs are rare in most archives. A simulated one has what distinguishes them from copies:
parallax between objects, an object replaced by another, another lighting, another camera position.
"""

from __future__ import annotations

import cv2
import numpy as np


def simulate_second_photograph(
    image: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The image as if photographed again, (h,w,3) uint8 RGB both; other: the image that an object is taken
    from."""
    height, width = image.shape[:2]
    result = _objects_moved(image, rng).astype(np.float32)
    if rng.random() < 0.35:
        content = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
        mask = _soft(_blob(height, width, rng), rng)[..., None]
        result = result * (1 - mask) + content * mask
    if rng.random() < 0.6:
        lighting = 1 + rng.uniform(0.05, 0.35) * _smooth_noise(height, width, 4, rng)
        result *= lighting[..., None]
    return _viewpoint_moved(np.clip(result, 0, 255).astype(np.uint8), rng)


def _objects_moved(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up to six regions shifted by up to 6 % of the longer side, in one direction as by parallax or each in
    its own; in half of the images a smooth displacement of the whole image is added."""
    height, width = image.shape[:2]
    far = max(height, width) * rng.uniform(0.01, 0.06)
    heading, parallax = rng.uniform(0, 2 * np.pi), rng.random() < 0.5
    shifts = np.zeros((height, width, 2), np.float32)
    for _ in range(int(rng.integers(1, 7))):
        region = (
            _random_region(height, width, rng)
            if rng.random() < 0.5
            else _similar_region(image, rng)
        )
        angle = 0.2 * rng.normal() if parallax else rng.uniform(0, 2 * np.pi)
        step = np.array([np.cos(heading + angle), np.sin(heading + angle)])
        shifts[region] = far * rng.uniform(0.3, 1) * step
    moved = np.asarray(cv2.GaussianBlur(shifts, (0, 0), rng.uniform(0.5, 3)))
    if rng.random() < 0.5:
        drift = 0.3 * far * _smooth_noise(height, width, 3, rng)
        moved += drift[..., None] * np.array([np.cos(heading), np.sin(heading)], np.float32)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(
        image, x + moved[..., 0], y + moved[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def _smooth_noise(height: int, width: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """(h,w) float32: smooth noise from a grid of (cells,cells), standard deviation about 1."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _random_region(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(h,w) bool: smooth regions of 10 to 50 % of the image."""
    noise = _smooth_noise(height, width, int(rng.integers(3, 7)), rng)
    return noise > np.quantile(noise, rng.uniform(0.5, 0.9))


def _similar_region(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h,w) bool: pixels close in colour and position to a random seed pixel, 8 to 50 % of the image."""
    height, width = image.shape[:2]
    lab = cv2.cvtColor(cv2.GaussianBlur(image, (0, 0), 3), cv2.COLOR_RGB2LAB).astype(np.float32)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    distance = _distance(height, width, y, x) * rng.uniform(1, 3)
    difference = np.linalg.norm(lab - lab[y, x], axis=2) / 60 + distance
    return difference < np.quantile(difference, rng.uniform(0.08, 0.5))


def _blob(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(h,w) bool: one irregular disc, 10 to 55 % of the image."""
    y, x = rng.uniform(0.25, 0.75, 2) * (height, width)
    distance = _distance(height, width, y, x)
    distance = distance + 0.15 * _smooth_noise(height, width, int(rng.integers(3, 6)), rng)
    return distance < np.quantile(distance, rng.uniform(0.1, 0.55))


def _distance(height: int, width: int, y: float, x: float) -> np.ndarray:
    """(h,w): distance of every pixel from y, x, in sides of the image."""
    down, right = np.arange(height)[:, None], np.arange(width)
    return np.hypot((down - y) / height, (right - x) / width)


def _soft(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(region.astype(np.float32), (0, 0), rng.uniform(0.5, 3))


def _viewpoint_moved(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each corner taken from up to 12 % further inside: a small change of camera position."""
    height, width = image.shape[:2]
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], np.float32) * (width, height)
    taken = frame + rng.uniform(0, rng.uniform(0, 0.12), (4, 2)) * inwards
    matrix = cv2.getPerspectiveTransform(taken.astype(np.float32), frame)
    return cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
