"""Parts that the painters share: fractal noise, palettes, Voronoi cells, shading, brushes.

Images are (H,W,3) uint8 RGB, fields (H,W) float32, colours three numbers in 0..255, points x, y in px.
Brushes paint on the given image in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Point = Sequence[float] | np.ndarray
#: Hues of sky, leaf, earth, sunset, water, stone within 0..1.
NATURAL_HUES = (0.58, 0.6, 0.28, 0.33, 0.09, 0.06, 0.03, 0.52, 0.12)


def cloud(
    height: int, width: int, rng: np.random.Generator, cells: float = 3, rough: float = 0.5
) -> np.ndarray:
    """Fractal noise (H,W) within 0..1: octaves of random grids, from `cells` cells per height, each finer
    one `rough` times as strong."""
    total = np.zeros((height, width), np.float32)
    weight = 1.0
    while cells < max(height, width) / 2:
        grid = rng.random((int(cells) + 2, int(cells * width / height) + 2), np.float32)
        octave = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.scaleAdd(octave, weight, total, total)
        cells, weight = cells * 2, weight * rough
    return cv2.normalize(total, total, 0, 1, cv2.NORM_MINMAX)


def ridge(width: int, rng: np.random.Generator) -> np.ndarray:
    """A fractal line within 0..1, (W,) float32."""
    line = np.zeros((1, width), np.float32)
    for octave in range(7):
        knots = rng.random((1, 3 + 2**octave), np.float32)
        line += np.float32(0.55**octave) * cv2.resize(
            knots, (width, 1), interpolation=cv2.INTER_CUBIC
        )
    return cv2.normalize(line, line, 0, 1, cv2.NORM_MINMAX).ravel()


def hues(
    rng: np.random.Generator, count: int, spread: float = 0.35, natural: float = 0.5
) -> np.ndarray:
    """A palette (count,3) uint8, dark to light: neighbouring hues, sometimes one opposite.

    natural: probability that they are those of sky, leaf, earth and stone.
    """
    if rng.random() < natural:
        base, strong = rng.choice(NATURAL_HUES), rng.uniform(0.1, 0.6)
    else:
        base, strong = rng.random(), rng.uniform(0.3, 0.8)
    hue = base + spread * rng.uniform(-0.5, 0.5, count)
    if rng.random() < 0.4:
        hue[rng.integers(count)] += 0.5
    saturation = np.clip(strong + rng.uniform(-0.2, 0.2, count), 0.03, 1)
    value = np.linspace(rng.uniform(0.1, 0.35), rng.uniform(0.8, 1), count)
    hsv = np.stack([hue % 1 * 180, saturation * 255, value * 255], axis=1).astype(np.uint8)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]


def mixed(field: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A field within 0..1 as an image, by a colour map through (n,3) colours, first to last."""
    at = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), at, colours[:, c]) for c in range(3)], axis=1)
    index = cv2.convertScaleAbs(np.clip(field, 0, 1), alpha=255)
    return cv2.LUT(cv2.merge([index] * 3), np.clip(table, 0, 255).astype(np.uint8)[None])


def sites(height: int, width: int, points: np.ndarray) -> np.ndarray:
    """Voronoi cells of (n,2) integer points x, y: labels (H,W) int32 from 1."""
    marks = np.full((height, width), 255, np.uint8)
    marks[points[:, 1], points[:, 0]] = 0
    return cv2.distanceTransformWithLabels(marks, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]


def from_edge(labels: np.ndarray) -> np.ndarray:
    """Distance in px of each pixel from the edge of its cell."""
    inside = cv2.Laplacian(labels.astype(np.float32), cv2.CV_32F) == 0
    return cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3)


def relief(surface: np.ndarray, depth: float) -> np.ndarray:
    """Shading of a surface lit from the upper left: a factor around 1."""
    slope = cv2.Sobel(surface, cv2.CV_32F, 1, 0) + cv2.Sobel(surface, cv2.CV_32F, 0, 1)
    return np.clip(1 + np.float32(depth) * slope, 0.35, 1.7)


def shaded(image: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """An image times a factor per pixel."""
    return cv2.multiply(image, cv2.merge([factor.astype(np.float32)] * 3), dtype=cv2.CV_8U)


def rgb(colour: np.ndarray | Sequence[float]) -> tuple[int, int, int]:
    """A colour as OpenCV takes it, clipped to 0..255."""
    red, green, blue = (int(v) for v in np.clip(colour, 0, 255))
    return red, green, blue


def ellipse(
    image: np.ndarray, centre: Point, axes: Point, colour: np.ndarray | tuple, turn_deg: float = 0,
    thick: int = -1,
) -> None:  # fmt: skip
    """An ellipse with half axes in px, filled unless a thickness in px is given."""
    whole_centre = int(centre[0]), int(centre[1])
    half_axes = max(1, int(axes[0])), max(1, int(axes[1]))
    cv2.ellipse(image, whole_centre, half_axes, turn_deg, 0, 360, rgb(colour), thick, cv2.LINE_AA)


def polygon(image: np.ndarray, points: np.ndarray | list, colour: np.ndarray | tuple) -> None:
    """A filled polygon."""
    cv2.fillPoly(image, [np.asarray(points).astype(np.int32)], rgb(colour), cv2.LINE_AA)


def stroke(
    image: np.ndarray, start: Point, end: Point, colour: np.ndarray | tuple, thick: float = 1
) -> None:
    """A straight line."""
    ends = (int(start[0]), int(start[1])), (int(end[0]), int(end[1]))
    cv2.line(image, *ends, rgb(colour), max(1, int(thick)), cv2.LINE_AA)


def bar(image: np.ndarray, corner: Point, size: Point, colour: np.ndarray | tuple) -> None:
    """A filled upright rectangle."""
    x, y = int(corner[0]), int(corner[1])
    cv2.rectangle(image, (x, y), (x + int(size[0]), y + int(size[1])), rgb(colour), -1)
