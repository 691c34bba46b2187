# SPDX-License-Identifier: AGPL-3.0-or-later
"""Families of edits that nothing in imgfp is trained, calibrated or demonstrated on: the robustness lab alone makes them.

They are kept out of `imgfp.edits.families`, so that what a run finds of them is not what its models were taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from imgfp.edits import compositing, drawing
from imgfp.edits.families import Family, in_place
from imgfp.edits.geometric import displaced
from imgfp.edits.record import Edited, resize

_LUMA = np.array([[0.299, 0.587, 0.114]])
_MAPS = (cv2.COLORMAP_JET, cv2.COLORMAP_HOT, cv2.COLORMAP_OCEAN, cv2.COLORMAP_VIRIDIS)


def _mixed(image: np.ndarray, other: np.ndarray, amount: float) -> np.ndarray:
    """`amount` of the other image, (H,W,3), in the place of the image."""
    return cv2.addWeighted(image, 1 - amount, other, amount, 0)


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.transform(image, _LUMA)


def pencil(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Towards a pencil drawing: grey, divided by its blurred self."""
    grey = _grey(image).astype(np.float32) + 1
    soft = cv2.GaussianBlur(grey, (0, 0), 1 + 0.015 * min(image.shape[:2]) * rng.uniform(0.5, 1))
    drawn = np.clip(255 * grey / soft, 0, 255) ** 2 / 255
    return _mixed(image, cv2.merge([drawn.astype(np.uint8)] * 3), 0.2 + 0.8 * strength)


def threshold(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Towards black and white at one grey level, near the one that separates best (Otsu 1979)."""
    grey = _grey(image)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    bright = grey > level + rng.uniform(-20, 20)
    return _mixed(image, cv2.merge([bright.astype(np.uint8) * 255] * 3), 0.2 + 0.8 * strength)


def painting(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """An oil painting: each pixel is the mean of the calmest of four squares at its corners (Kuwahara et al. 1976), of
    up to 3 % of the short side."""
    side = 2 + round((0.004 + 0.026 * strength) * min(image.shape[:2]))
    values, grey = image.astype(np.float32), _grey(image).astype(np.float32)
    best, painted = np.full(grey.shape, np.inf, np.float32), image
    for anchor in ((0, 0), (0, side - 1), (side - 1, 0), (side - 1, side - 1)):
        mean, squares = (
            cv2.boxFilter(each, -1, (side, side), anchor=anchor) for each in (grey, grey**2)
        )
        variance = squares - mean**2
        calmer = (variance < best)[..., None]
        square = cv2.boxFilter(values, -1, (side, side), anchor=anchor)
        painted, best = np.where(calmer, square, painted), np.minimum(variance, best)
    return painted.astype(np.uint8)


def night(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Day turned to night: dark, blue and with little colour, bright spots kept, some noise."""
    grey = cv2.merge([_grey(image)] * 3).astype(np.float32)
    values = (0.4 * image + 0.6 * grey) / 255
    light = np.clip(values, 0, 1) ** (1 + 1.5 * rng.uniform(0.7, 1)) * np.array([0.3, 0.4, 0.65])
    lamps = np.clip((grey / 255 - 0.92) / 0.08, 0, 1) * np.array([0.6, 0.5, 0.2])
    noise = rng.standard_normal(image.shape[:2], np.float32)[..., None] * 5
    dark = np.clip(255 * (light + lamps) + noise, 0, 255).astype(np.uint8)
    return _mixed(image, dark, 0.2 + 0.8 * strength)


def false_colours(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Towards a colour map of the grey levels, as of a thermal camera."""
    mapped = cv2.applyColorMap(_grey(image), _MAPS[rng.integers(len(_MAPS))])
    return _mixed(image, cv2.cvtColor(mapped, cv2.COLOR_BGR2RGB), 0.2 + 0.8 * strength)


def shuffle(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Exchange up to 60 % of the pixels among each other."""
    flat = image.reshape(-1, 3).copy()
    chosen = np.flatnonzero(rng.random(len(flat)) < 0.02 + 0.58 * strength)
    flat[chosen] = flat[rng.permutation(chosen)]
    return flat.reshape(image.shape)


def swirl(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Turn the middle about a point, by up to 130 degrees, less and less outwards."""
    height, width = edited.mask.shape
    centre = rng.uniform(0.35, 0.65, 2) * (width, height)
    x, y = np.arange(width)[None] - centre[0], np.arange(height)[:, None] - centre[1]
    reach = rng.uniform(0.3, 0.6) * min(height, width)
    turn = np.deg2rad(3 + 127 * strength) * rng.choice([-1, 1])
    angle = turn * np.exp(-(x**2 + y**2) / max(reach, 1) ** 2)
    cos, sin = np.cos(angle), np.sin(angle)
    return displaced(edited, x * cos - y * sin - x, x * sin + y * cos - y)


def retarget(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Narrow or flatten the image by up to 45 %, calm columns (or rows) more than those with detail, as content-aware
    scaling does. The homography is that of an even scaling."""
    along = int(rng.integers(2))  # 0: rows, 1: columns
    detail = np.abs(cv2.Laplacian(_grey(edited.image).astype(np.float32), cv2.CV_32F))
    energy = detail.mean(axis=1 - along)
    length = len(energy)
    energy = cv2.blur(energy[None], (2 * (length // 30) + 1, 1))[0]
    rank = energy.argsort().argsort() / max(length - 1, 1)
    kept = 1 - np.minimum(0.9 * strength * 2 * (1 - rank), 0.95) / 2
    edges = np.concatenate([[0], np.cumsum(kept)])
    sizes = [edited.mask.shape[0], edited.mask.shape[1]]
    sizes[along] = max(1, round(edges[-1]))
    narrow = resize(edited, sizes[1], sizes[0])
    even = np.arange(sizes[along]) + 0.5
    source = np.interp(even / sizes[along] * edges[-1], edges, np.arange(length + 1))
    shift = source * sizes[along] / length - even
    still = np.zeros(1)
    return displaced(narrow, *((shift[None], still) if along else (still, shift[:, None])))


def watermark(
    edited: Edited, strength: float, rng: np.random.Generator, others: Sequence
) -> Edited:
    """One word again and again over the whole image, slanting, up to half opaque and more."""
    image = edited.image.copy()
    height, width = edited.mask.shape
    size = max(6, round(rng.uniform(0.05, 0.1) * min(height, width)))
    word, ink = drawing.words(rng, 1), drawing.colour(rng)
    degrees, opacity = float(rng.uniform(15, 40)), 0.1 + 0.6 * strength
    for row, y in enumerate(range(-size, height, 3 * size)):
        for x in range(-size * (1 + 2 * (row % 2)), width, 7 * size):
            drawing.write(image, None, word, x, y, size, ink, rng, opacity, degrees)
    return replace(edited, image=image)


def lattice(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """A grid of opaque lines over the whole image: up to half of it."""
    height, width = edited.mask.shape
    pitch = max(3.0, rng.uniform(0.04, 0.12) * min(height, width))
    thick = (0.04 + 0.26 * strength) * pitch
    y, x = np.arange(height)[:, None] % pitch < thick, np.arange(width)[None] % pitch < thick
    image, mask = edited.image.copy(), edited.mask.copy()
    alpha = ((y | x) * 255).astype(np.uint8)
    drawing.cover(image, mask, drawing.colour(rng), alpha, 0, 0)
    return replace(edited, image=image, mask=mask)


def windows(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Two to seven windows with other images, in front of the image and of each other, each of up to half of its
    sides."""
    image, mask = edited.image.copy(), edited.mask.copy()
    height, width = mask.shape
    for _ in range(2 + round(5 * strength)):
        other = compositing.host_for(edited, rng, others)
        share = rng.uniform(0.12, 0.2 + 0.3 * strength, 2)
        size = max(1, round(share[0] * width)), max(1, round(share[1] * height))
        other = cv2.resize(other, size, interpolation=cv2.INTER_AREA)
        x, y = int(rng.integers(width - size[0] + 1)), int(rng.integers(height - size[1] + 1))
        drawing.cover(image, mask, other, np.full(size[::-1], 255, np.uint8), x, y)
    return replace(edited, image=image, mask=mask)


#: Every unseen family by its name. The weight is 0: no chain draws one.
UNSEEN: dict[str, Family] = {
    family.name: family
    for family in (
        Family("pencil", in_place(pencil), 0, (1.5, 4.5)),
        Family("threshold", in_place(threshold), 0, (1.5, 4.5)),
        Family("painting", in_place(painting), 0, (1.5, 4.5)),
        Family("night", in_place(night), 0, (1, 4)),
        Family("false_colours", in_place(false_colours), 0, (1, 4)),
        Family("shuffle", in_place(shuffle), 0, (1.5, 4.5)),
        Family("swirl", swirl, 0, (0, 2.6)),
        Family("retarget", retarget, 0, (0, 2.6)),
        Family("watermark", watermark, 0, (2.5, 4)),
        Family("lattice", lattice, 0, (2.5, 4)),
        Family("windows", windows, 0, (2.5, 4)),
    )
}
