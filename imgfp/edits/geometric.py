"""Geometric edits: crop, rotation, mirroring, perspective, aspect ratio, lens and wave distortion.

Each takes (edited, strength, rng, others), see `imgfp.edits.families`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from imgfp.edits import drawing
from imgfp.edits.record import Edited, corners, cut, moved, resize, rotation, warp


def _fill(rng: np.random.Generator) -> drawing.Colour | None:
    """Fill of new pixels: a colour, sometimes None for the image reflected at its border."""
    return None if rng.random() < 0.15 else drawing.colour(rng)


def crop(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Keep a window: 99 % of the area at strength 0, about 15 % at 1; its aspect varies with strength."""
    height, width = edited.mask.shape
    keep = 0.99 - 0.84 * strength * rng.uniform(0.8, 1)
    stretch = np.exp(rng.uniform(-0.6, 0.6) * strength)
    new_width = int(np.clip(round(width * np.sqrt(keep) * stretch), 1, width))
    new_height = int(np.clip(round(height * np.sqrt(keep) / stretch), 1, height))
    x = int(rng.integers(width - new_width + 1))
    y = int(rng.integers(height - new_height + 1))
    return cut(edited, x, y, x + new_width, y + new_height)


def rotate(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Rotate by any angle, up to 180 degrees at strength 1; the canvas grows, or corners are cut."""
    height, width = edited.mask.shape
    degrees = (1 + 179 * strength * rng.uniform(0.5, 1)) * rng.choice([-1, 1])
    matrix, new_width, new_height = rotation(width, height, degrees, grow=rng.random() < 0.7)
    return warp(edited, matrix, new_width, new_height, _fill(rng))


def rot90(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Rotate by 90, 180 or 270 degrees, without loss. Strength is ignored."""
    right, bottom = edited.mask.shape[1] - 1, edited.mask.shape[0] - 1
    code, matrix = (
        (cv2.ROTATE_90_CLOCKWISE, [[0, -1, bottom], [1, 0, 0], [0, 0, 1]]),
        (cv2.ROTATE_180, [[-1, 0, right], [0, -1, bottom], [0, 0, 1]]),
        (cv2.ROTATE_90_COUNTERCLOCKWISE, [[0, 1, 0], [-1, 0, right], [0, 0, 1]]),
    )[rng.integers(3)]
    mask = cv2.rotate(edited.mask.view(np.uint8), code).view(bool)
    return moved(edited, np.array(matrix, float), cv2.rotate(edited.image, code), mask)


def mirror(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Mirror left to right. Strength is ignored."""
    matrix = np.array([[-1, 0, edited.mask.shape[1] - 1], [0, 1, 0], [0, 0, 1]], float)
    mask = np.ascontiguousarray(edited.mask[:, ::-1])
    return moved(edited, matrix, cv2.flip(edited.image, 1), mask)


def flip(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Flip top to bottom. Strength is ignored."""
    matrix = np.array([[1, 0, 0], [0, -1, edited.mask.shape[0] - 1], [0, 0, 1]], float)
    mask = np.ascontiguousarray(edited.mask[::-1])
    return moved(edited, matrix, cv2.flip(edited.image, 0), mask)


def perspective(
    edited: Edited, strength: float, rng: np.random.Generator, others: Sequence
) -> Edited:
    """Move each corner by up to 35 % of the sides, inwards (new pixels filled) or outwards (cut)."""
    height, width = edited.mask.shape
    frame = corners(width, height)[0] - 0.5
    reach = (0.02 + 0.33 * strength) * rng.uniform(0, 1, (4, 2)) * (width, height)
    inner = frame + reach * [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    pair = (frame, inner) if rng.random() < 0.6 else (inner, frame)
    matrix = cv2.getPerspectiveTransform(*(points.astype(np.float32) for points in pair))
    return warp(edited, matrix, width, height, _fill(rng))


def aspect(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Change the aspect ratio, by a factor of up to 2.7 at strength 1."""
    height, width = edited.mask.shape
    stretch = np.exp((0.03 + 0.97 * strength * rng.uniform(0.6, 1)) * rng.choice([-0.5, 0.5]))
    return resize(edited, round(width * stretch), round(height / stretch))


def lens(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Radial distortion, barrel or pincushion: the centre up to 1.6 times as large or small."""
    y, x = _from_centre(edited)
    bend = (0.01 + 0.6 * strength) * rng.uniform(0.6, 1)
    away = (x**2 + y**2) / (edited.mask.shape[0] ** 2 + edited.mask.shape[1] ** 2) * 4
    # Scaled about the midpoints of the sides: with barrel distortion the corners leave the image, with
    # pincushion distortion its border is reflected.
    zoom = (1 + bend * away) / (1 + bend) if rng.random() < 0.5 else 1 + bend * (1 - away) / 2
    return displaced(edited, x * (zoom - 1), y * (zoom - 1))


def wave(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Sine waves along one axis, both or, rarely, none, of up to 3.5 % of the short side."""
    y, x = _from_centre(edited)
    short = min(edited.mask.shape)
    swings = []
    for along in (y, x):
        reach = (0.002 + 0.033 * strength) * short * rng.uniform(0.5, 1) * (rng.random() < 0.75)
        length = short * rng.uniform(0.15, 0.8)
        swings.append(reach * np.sin(2 * np.pi * along / length + rng.uniform(0, 2 * np.pi)))
    return displaced(edited, swings[0], swings[1])


def _from_centre(edited: Edited) -> tuple[np.ndarray, np.ndarray]:
    """y (h,1) and x (1,w) of every pixel, px from the image's centre."""
    height, width = edited.mask.shape
    y, x = (np.arange(side) - (side - 1) / 2 for side in (height, width))
    return y[:, None], x[None]


def displaced(edited: Edited, right: np.ndarray, down: np.ndarray) -> Edited:
    """Every pixel takes the value of the point `right` and `down` of it, px, each broadcast to (h,w).

    The homography stays; the mask becomes False where the displacement is a pixel or more.
    """
    height, width = edited.mask.shape
    right, down = (np.broadcast_to(step, (height, width)) for step in (right, down))
    x = (np.arange(width) + right).astype(np.float32)
    y = (np.arange(height)[:, None] + down).astype(np.float32)
    image = cv2.remap(edited.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return replace(edited, image=image, mask=edited.mask & (right**2 + down**2 < 1))
