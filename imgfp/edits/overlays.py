"""Edits that draw over an image: text, stickers, stripes, masks, other images.

Each takes (edited, strength, rng, others), see `imgfp.edits.families`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from imgfp.edits import compositing, drawing
from imgfp.edits.record import Edited


def text(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """One to eight pieces of text over the image, up to a quarter of its height tall."""
    image, mask = edited.image.copy(), edited.mask.copy()
    height, width = mask.shape
    for _ in range(1 + int(rng.integers(1 + round(7 * strength)))):
        size = max(6, int((0.04 + 0.2 * strength * rng.uniform(0.2, 1)) * height))
        line = drawing.words(rng, int(rng.integers(1, 5)))
        x, y = int(rng.uniform(-0.1, 0.7) * width), int(rng.uniform(0, 0.9) * height)
        degrees = float(rng.uniform(-40, 40)) if rng.random() < 0.2 else 0.0
        opacity = 1.0 if rng.random() < 0.7 else float(rng.uniform(0.35, 0.9))
        drawing.write(image, mask, line, x, y, size, drawing.colour(rng), rng, opacity, degrees)
    return replace(edited, image=image, mask=mask)


def stickers(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """One to ten emoji-like stickers, of up to 60 % of the short side."""
    image, mask = edited.image.copy(), edited.mask.copy()
    height, width = mask.shape
    for _ in range(1 + int(rng.integers(1 + round(9 * strength)))):
        size = (0.08 + 0.52 * strength * rng.uniform(0.2, 1) ** 2) * min(height, width)
        stamp, alpha = drawing.sticker(int(size), rng)
        if rng.random() < 0.2:
            alpha = cv2.convertScaleAbs(alpha, alpha=rng.uniform(0.4, 0.9))
        x = int(rng.uniform(-0.1, 0.9) * width)
        y = int(rng.uniform(-0.1, 0.9) * height)
        drawing.cover(image, mask, stamp, alpha, x, y)
    return replace(edited, image=image, mask=mask)


def stripes(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Parallel bars of one colour at any angle over up to 60 % of the image, sometimes transparent."""
    image, mask = edited.image.copy(), edited.mask.copy()
    height, width = mask.shape
    alpha = drawing.stripes(height, width, 0.05 + 0.55 * strength * rng.uniform(0.6, 1), rng)
    opacity = 1.0 if rng.random() < 0.6 else rng.uniform(0.3, 0.9)
    drawing.cover(image, mask, drawing.colour(rng), cv2.convertScaleAbs(alpha, alpha=opacity), 0, 0)
    return replace(edited, image=image, mask=mask)


def cutout(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Paint over all but an ellipse or a rounded rectangle, at strength 1 of half of the sides."""
    height, width = edited.mask.shape
    y, x = np.mgrid[:height, :width]
    low = rng.uniform(0, 1, 2) * 0.5 * strength * rng.uniform(0.3, 1)
    size = 1 - 0.5 * strength * rng.uniform(0.3, 1, 2)
    middle = low + (1 - low) * size / 2
    roundness = rng.choice([2.0, 2.0, 4.0])  # of a superellipse: 2 is an ellipse
    reach = abs((x / width - middle[0]) * 2 / size[0]) ** roundness
    reach = reach + abs((y / height - middle[1]) * 2 / size[1]) ** roundness
    alpha = np.clip(255 * (reach - 1) * min(height, width) / 8, 0, 255).astype(np.uint8)
    image, mask = edited.image.copy(), edited.mask.copy()
    drawing.cover(image, mask, drawing.colour(rng), alpha, 0, 0)
    return replace(edited, image=image, mask=mask)


def blend(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Blend the whole image with another one: 8 % of it at strength 0, half at 1."""
    height, width = edited.mask.shape
    other = cv2.resize(
        compositing.host_for(edited, rng, others), (width, height), interpolation=cv2.INTER_LINEAR
    )
    share = 0.08 + 0.42 * strength
    return replace(edited, image=cv2.addWeighted(edited.image, 1 - share, other, share, 0))


def inset(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Paste another image over this one, of 15 % of its sides at strength 0, up to 65 % at 1."""
    image, mask = edited.image.copy(), edited.mask.copy()
    height, width = mask.shape
    share = 0.15 + 0.5 * strength * rng.uniform(0.7, 1)
    other = compositing.host_for(edited, rng, others)
    scale = share * min(height / other.shape[0], width / other.shape[1])
    size = max(1, round(other.shape[1] * scale)), max(1, round(other.shape[0] * scale))
    other = cv2.resize(other, size, interpolation=cv2.INTER_AREA)
    x, y = int(rng.integers(width - size[0] + 1)), int(rng.integers(height - size[1] + 1))
    image[y : y + size[1], x : x + size[0]] = other
    mask[y : y + size[1], x : x + size[0]] = False
    return replace(edited, image=image, mask=mask)
