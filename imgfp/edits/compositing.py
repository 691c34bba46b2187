"""Edits that make the image a part of a larger one: padding, frames, screenshots, collages, pastes.

Each takes (edited, strength, rng, others), see `imgfp.edits.families`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np

from imgfp.edits import drawing
from imgfp.edits.record import (
    Edited,
    as_pasted,
    corners,
    cut,
    is_upright,
    moved,
    place,
    resize,
    rotation,
    shift,
    start,
    warp,
)


def padding(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Bars of one colour, or of a blurred copy, around the image: up to 60 % of its sides in total."""
    height, width = edited.mask.shape
    sides = rng.uniform(0, 0.02 + 0.58 * strength, 2) * (width, height)
    if rng.random() < 0.4:  # letter box or pillar box
        sides[rng.integers(2)] = 0
    left, top = (round(v * share) for v, share in zip(sides, rng.uniform(0.3, 0.7, 2), strict=True))
    size = width + round(sides[0]), height + round(sides[1])
    if rng.random() < 0.2:
        canvas = cv2.resize(cv2.blur(edited.image, (9, 9)), size)
        canvas = cv2.blur(canvas, (2 * (min(size) // 12) + 1,) * 2)
    else:
        canvas = np.full((size[1], size[0], 3), drawing.colour(rng), np.uint8)
    return place(edited, canvas, min(left, size[0] - width), min(top, size[1] - height))


def border(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """A frame of up to 12 % of the short side, sometimes double, or with a wide bottom (polaroid)."""
    height, width = edited.mask.shape
    thick = max(1, round((0.01 + 0.11 * strength * rng.uniform(0.5, 1)) * min(height, width)))
    foot = thick * (4 if rng.random() < 0.25 else 1)
    canvas = np.full((height + thick + foot, width + 2 * thick, 3), drawing.colour(rng), np.uint8)
    if rng.random() < 0.3:
        inner = thick // 2
        cv2.rectangle(canvas, (inner, inner), (inner + width + thick, inner + height + thick),
                      drawing.colour(rng), max(1, thick // 4))  # fmt: skip
    return place(edited, canvas, thick, thick)


def host_for(edited: Edited, rng: np.random.Generator, others: Sequence[np.ndarray]) -> np.ndarray:
    """One of `others` (a gradient without any), scaled to 1-1.6 times the area of the edited image."""
    height, width = edited.mask.shape
    area = rng.uniform(1, 1.6) * height * width
    if not len(others):
        ratio = np.exp(rng.uniform(-0.4, 0.4))
        return drawing.backdrop(
            max(8, round(np.sqrt(area / ratio))), max(8, round(np.sqrt(area * ratio))), rng
        )
    host = others[int(rng.integers(len(others)))]
    scale = np.sqrt(area / (host.shape[0] * host.shape[1]))
    size = max(8, round(host.shape[1] * scale)), max(8, round(host.shape[0] * scale))
    return cv2.resize(host, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _fit(edited: Edited, width: float, height: float) -> Edited:
    """Scale to the largest size within width x height px, keeping the aspect ratio."""
    scale = min(width / edited.mask.shape[1], height / edited.mask.shape[0])
    return resize(edited, int(edited.mask.shape[1] * scale), int(edited.mask.shape[0] * scale))


def paste(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Paste the image on another one, of 90 % of its sides at strength 0, 30 % at 1. Sometimes rotated
    by a few degrees, framed, as a polaroid, with a drop shadow, or slightly transparent."""
    edited = as_pasted(edited)
    host = host_for(edited, rng, others)
    share = 0.9 - 0.6 * strength * rng.uniform(0.8, 1)
    card = _fit(edited, share * host.shape[1], share * host.shape[0])
    style = rng.random()
    if style < 0.25:
        thick = max(1, round(rng.uniform(0.01, 0.06) * min(card.mask.shape)))
        foot = thick * (4 if style < 0.1 else 1)
        tint = (250, 250, 246) if style < 0.15 else drawing.colour(rng)
        height, width = card.mask.shape
        board = np.full((height + thick + foot, width + 2 * thick, 3), tint, np.uint8)
        card = place(card, board, thick, thick)
    opacity = rng.uniform(0.65, 0.95) if rng.random() < 0.12 else 1.0
    height, width = card.mask.shape
    degrees = rng.uniform(-12, 12) if rng.random() < 0.2 else 0.0
    matrix, new_width, new_height = rotation(width, height, degrees, grow=True)
    x = round(rng.uniform(0, max(0, host.shape[1] - new_width)))
    y = round(rng.uniform(0, max(0, host.shape[0] - new_height)))
    alpha: np.ndarray = np.full((height, width), 255, np.uint8)
    if degrees:
        alpha = cv2.warpAffine(alpha, matrix[:2], (new_width, new_height))
        card = warp(card, matrix, new_width, new_height, None)
    if rng.random() < 0.2:
        reach = max(1, min(new_height, new_width) // 20)
        shade = cv2.copyMakeBorder(alpha, *(reach,) * 4, cv2.BORDER_CONSTANT, value=0)
        shade = cv2.convertScaleAbs(cv2.blur(shade, (2 * reach + 1,) * 2), alpha=0.7)
        drawing.cover(host, None, (0, 0, 0), shade, x - reach // 3, y - reach // 3)
    drawing.cover(host, None, card.image, cv2.convertScaleAbs(alpha, alpha=opacity), x, y)
    mask = np.zeros(host.shape[:2], bool)
    part = mask[y : y + new_height, x : x + new_width]
    part[:] = (card.mask & (alpha > 127))[: part.shape[0], : part.shape[1]]
    return moved(card, shift(x, y), host, mask)


def screenshot(
    edited: Edited, strength: float, rng: np.random.Generator, others: Sequence
) -> Edited:
    """Show the image in a drawn phone post, browser window or printed page; smaller with strength."""
    kind = str(rng.choice(["phone", "browser", "page"]))
    height, width = edited.mask.shape
    area = max(64 * 64, rng.uniform(1.2, 1.8) * height * width)
    ratio = {"phone": rng.uniform(0.48, 0.62), "browser": rng.uniform(1.2, 1.7)}.get(
        kind, rng.uniform(0.68, 0.78)
    )
    page_width, page_height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
    share = 0.98 - 0.5 * strength * rng.uniform(0.8, 1)
    across = page_width if kind == "phone" and strength < 0.5 else share * page_width
    picture = _fit(edited, across, share * 0.78 * page_height)
    height, width = picture.mask.shape
    x = (page_width - width) // 2
    if kind != "phone" and rng.random() < 0.6:
        x = round(rng.uniform(0.02, 0.98) * (page_width - width))
    y = round(page_height * 0.12 + rng.uniform(0.2, 0.8) * (page_height * 0.86 - height))
    page = drawing.screen(page_height, page_width, (x, y, x + width, y + height), kind, rng)
    return place(picture, page, x, y)


def meme(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Bars with one or two lines of text above, below or both, of up to 45 % of the height each."""
    height, width = edited.mask.shape
    bar = max(8, round((0.08 + 0.37 * strength * rng.uniform(0.6, 1)) * height))
    top, bottom = ((bar, 0), (0, bar), (bar, bar))[rng.integers(3)]
    paper, ink = (
        ((255, 255, 255), (0, 0, 0)) if rng.random() < 0.7 else ((0, 0, 0), (255, 255, 255))
    )
    canvas = np.full((height + top + bottom, width, 3), paper, np.uint8)
    for y, tall in ((0, top), (top + height, bottom)):
        if tall:
            rows = 2 if tall > 0.2 * height else 1
            text = "\n".join(drawing.words(rng, int(rng.integers(2, 6))) for _ in range(rows))
            longest = max(len(line) for line in text.split("\n"))
            size = max(6, int(min(tall / rows * 0.65, 1.6 * width / longest)))
            drawing.write(canvas, None, text, max(2, width // 30), y + tall // 8, size, ink, rng)
    return place(edited, canvas, 0, top)


def collage(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Two to four images side by side or in a grid, each cropped to its cell; more with strength."""
    edited = as_pasted(edited)
    height, width = edited.mask.shape
    count = int(np.clip(round(2 + 2 * strength * rng.uniform(0.5, 1.3)), 2, 4))
    area = rng.uniform(1.2, 1.8) * height * width
    ratio = np.exp(rng.uniform(-0.35, 0.35))
    page_width, page_height = (
        max(16, round(np.sqrt(area * ratio))),
        max(16, round(np.sqrt(area / ratio))),
    )
    gap = round(rng.uniform(0, 0.03) * min(page_width, page_height)) * int(rng.random() < 0.7)
    cells = _cells(page_width, page_height, count, gap, rng)
    canvas = np.full((page_height, page_width, 3), drawing.colour(rng), np.uint8)
    own = int(rng.integers(count))
    for i, (x0, y0, x1, y1) in enumerate(cells):
        if i != own:
            other = (
                others[int(rng.integers(len(others)))]
                if len(others)
                else host_for(edited, rng, others)
            )
            canvas[y0:y1, x0:x1] = _filling(start(other), x1 - x0, y1 - y0).image
    x0, y0, x1, y1 = cells[own]
    placed = place(_filling(edited, x1 - x0, y1 - y0), canvas, x0, y0)
    rest = [
        corners(x1 - x0, y1 - y0)[0] + (x0, y0)
        for i, (x0, y0, x1, y1) in enumerate(cells)
        if i != own
    ]
    return replace(placed, quads=np.concatenate([placed.quads, rest]))


def _filling(edited: Edited, width: int, height: int) -> Edited:
    """Scale to cover width x height px and crop the centre, as photo grids do.

    Quads of earlier pastes are clipped to the cell if they are upright.
    """
    old_height, old_width = edited.mask.shape
    scale = max(width / old_width, height / old_height)
    new_width, new_height = (
        max(width, round(old_width * scale)),
        max(height, round(old_height * scale)),
    )
    edited = resize(edited, new_width, new_height)
    x, y = (new_width - width) // 2, (new_height - height) // 2
    edited = cut(edited, x, y, x + width, y + height)
    quads = [np.clip(q, 0, (width, height)) if is_upright(q) else q for q in edited.quads]
    return replace(edited, quads=np.reshape(quads, (-1, 4, 2)))


def _cells(
    width: int, height: int, count: int, gap: int, rng: np.random.Generator
) -> list[tuple[int, int, int, int]]:
    """Cells x0, y0, x1, y1 of a photo grid: one or two rows (or columns) of uneven cells."""

    def spans(length: int, parts: int) -> list[tuple[int, int]]:
        share = rng.uniform(0.7, 1.3, parts)
        edges = np.round(np.concatenate([[0], np.cumsum(share / share.sum())]) * length).astype(int)
        return [
            (int(a) + gap, max(int(a) + gap + 1, int(b) - (gap if b == length else 0)))
            for a, b in pairwise(edges)
        ]

    first = count if count < 4 and rng.random() < 0.5 else (count + 1) // 2
    rows = [parts for parts in (first, count - first) if parts]
    upright = rng.random() < 0.5  # rows become columns
    cells = []
    for (y0, y1), parts in zip(spans(width if upright else height, len(rows)), rows, strict=True):
        for x0, x1 in spans(height if upright else width, parts):
            cells.append((y0, x0, y1, x1) if upright else (x0, y0, x1, y1))
    return cells
