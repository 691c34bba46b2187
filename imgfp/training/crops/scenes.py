# SPDX-License-Identifier: AGPL-3.0-or-later
"""Training images for the crop detector: photographs pasted, framed and combined, with exact boxes.

A third of the images contain no paste: untouched photographs, edited ones, and decoys that look like
a paste (posters and windows in the photograph, drawn rectangles, blurred patches). Scene `index` of a seed
is always the same image, independent of the other scenes. Images are (H,W,3) uint8 RGB, boxes xyxy in
pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from imgfp.decoding import read_image
from imgfp.edits import drawing, photometric
from imgfp.images import resize_short_side
from imgfp.training.crops import scene_edits

Draw = Callable[[], np.ndarray]
Box = tuple[int, int, int, int]
Parts = tuple[np.ndarray, list[Any]]

#: Share of each kind of scene. The first three contain no paste.
KINDS: dict[str, float] = {
    "untouched": 0.14,
    "edited": 0.11,
    "decoy": 0.08,
    "paste": 0.17,
    "translucent": 0.10,
    "rotated": 0.08,
    "bordered": 0.05,
    "screenshot": 0.10,
    "collage": 0.12,
    "meme": 0.05,
}
WITHOUT_PASTE = ("untouched", "edited", "decoy")
_SMALLEST_SIDE = 0.08  # share of the image's side; smaller boxes are not worth cutting out


@dataclass(frozen=True)
class Scene:
    """One generated image: image (H,W,3) uint8 RGB, boxes (k,4) float32 xyxy in its pixels, kind."""

    image: np.ndarray
    boxes: np.ndarray
    kind: str


class Photographs:
    """Photographs of a list of files, read on access, with a short side of at most 320 px."""

    def __init__(self, paths: Sequence[str | Path]):
        if not paths:
            raise ValueError("no photographs to make training images from")
        self._paths = [Path(path) for path in paths]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> np.ndarray:
        return resize_short_side(read_image(self._paths[number]), 320)


def make_scene(photographs: Sequence[np.ndarray], seed: int, index: int) -> Scene:
    """Scene `index` of a seed, made from `photographs` (anything with len and [number] -> image)."""
    rng = np.random.default_rng([seed, index])
    kind = str(rng.choice(list(KINDS), p=np.array(list(KINDS.values())) / sum(KINDS.values())))

    def draw() -> np.ndarray:
        return scene_edits.some_part(photographs[int(rng.integers(len(photographs)))], rng)

    image, boxes = _COMPOSE[kind](draw, rng)
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    if kind != "untouched":
        image = scene_edits.over_everything(image, rng)
    image, xyxy = _mirrored_or_turned(image, xyxy, rng)
    height, width = image.shape[:2]
    xyxy = np.clip(xyxy, 0, [width, height, width, height])
    sides = (xyxy[:, 2:] - xyxy[:, :2]) / [width, height]
    return Scene(np.ascontiguousarray(image), xyxy[(sides > _SMALLEST_SIDE).all(1)], kind)


# ----------------------------------------------------------------------------------- compositions


def _untouched(draw: Draw, rng: np.random.Generator) -> Parts:
    return draw(), []


def _edited(draw: Draw, rng: np.random.Generator) -> Parts:
    """Edits of a whole image. Bars are left out: an image between bars is a kind of its own."""
    image = draw()
    for _ in range(rng.integers(1, 3)):
        image = scene_edits.WHOLE[rng.integers(len(scene_edits.WHOLE))](image, rng)
    return image, []


def _decoy(draw: Draw, rng: np.random.Generator) -> Parts:
    """Rectangles that are no paste: posters and windows in the photograph, plain or translucent
    boxes, outlines, blurred patches."""
    image = draw().copy()
    height, width = image.shape[:2]
    for _ in range(rng.integers(1, 4)):
        w, h = (max(4, round(side * rng.uniform(0.1, 0.6))) for side in (width, height))
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        part, tint = image[y : y + h, x : x + w], drawing.colour(rng)
        kind = rng.integers(7)
        if kind <= 1:
            _add_poster(image, draw(), (x, y, x + w, y + h), rng)
        elif kind == 2:
            _add_window(image, (x, y, x + w, y + h), rng)
        elif kind == 3:
            alpha = np.full((h, w), rng.integers(60, 256), np.uint8)
            drawing.cover(image, None, tint, alpha, x, y)
            text = drawing.words(rng, 3)
            size = max(7, h // 3)
            drawing.write(part, None, text, 2, h // 4, size, drawing.colour(rng), rng)
        elif kind == 4:
            cv2.rectangle(image, (x, y), (x + w, y + h), tint, int(rng.integers(1, 5)))
        elif kind == 5:
            part[:] = cv2.GaussianBlur(part, (0, 0), rng.uniform(3, 9))
        else:
            part[:] = photometric.pixelise(np.ascontiguousarray(part), rng.uniform(0.5, 1), rng)
    return image, []


def _add_poster(
    image: np.ndarray, picture: np.ndarray, box: tuple, rng: np.random.Generator
) -> None:
    """A poster, screen or book page in the scene: a picture in perspective, mostly in a frame, with the
    lighting and the focus of the photograph around it. Changes `image` in place."""
    x0, y0, x1, y1 = box
    if rng.random() < 0.6:
        rim = max(2, round(min(picture.shape[:2]) * rng.uniform(0.02, 0.1)))
        tint = drawing.colour(rng)
        picture = cv2.copyMakeBorder(picture, rim, rim, rim, rim, cv2.BORDER_CONSTANT, value=tint)
    height, width = picture.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    placed = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
    # One side is further away: both its corners move inwards, by different shares.
    directions = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], np.float32)
    inwards = directions * rng.uniform(0, 0.06, (4, 2))
    far = int(rng.integers(4))
    for corner in (far, far - int(rng.choice([1, 3]))):
        inwards[corner] += np.sign(inwards[corner]) * rng.uniform(0.08, 0.25)
    placed += inwards.astype(np.float32) * [x1 - x0, y1 - y0]
    matrix = cv2.getPerspectiveTransform(corners, placed)
    size = image.shape[1::-1]
    soft = rng.uniform(0.4, 1.5)
    brightness = np.asarray(image[y0:y1, x0:x1].mean((0, 1)) / 128 + 1, np.float32)
    lighting = rng.uniform(0.45, 1.0) * brightness / 2
    shaded = np.clip(picture * lighting, 0, 255).astype(np.uint8)
    warped = cv2.GaussianBlur(cv2.warpPerspective(shaded, matrix, size), (0, 0), soft)
    full = np.full((height, width), 255, np.uint8)
    alpha = cv2.GaussianBlur(cv2.warpPerspective(full, matrix, size), (0, 0), soft)
    drawing.cover(image, None, warped, alpha, 0, 0)


def _add_window(image: np.ndarray, box: tuple, rng: np.random.Generator) -> None:
    """A window or an empty frame: the photograph continues behind it with other colours, between bars.
    Changes `image` in place."""
    x0, y0, x1, y1 = box
    part = image[y0:y1, x0:x1]
    part[:] = np.clip(part * rng.uniform(0.6, 1.5, 3) + rng.uniform(-20, 40), 0, 255)
    thick, tint = int(rng.integers(2, 8)), drawing.colour(rng)
    cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), tint, thick)
    for bar in range(1, int(rng.integers(1, 4))):
        x = x0 + (x1 - x0) * bar // 3
        cv2.line(image, (x, y0), (x, y1 - 1), tint, thick)
    if rng.random() < 0.5:
        cv2.line(image, (x0, (y0 + y1) // 2), (x1 - 1, (y0 + y1) // 2), tint, thick)


def _host(draw: Draw, rng: np.random.Generator) -> np.ndarray:
    """The background of a paste: mostly another photograph, sometimes plain or a gradient."""
    host = draw()
    if rng.random() < 0.12:
        height, width = host.shape[:2]
        if rng.random() < 0.5:
            return drawing.backdrop(height, width, rng)
        return np.full((height, width, 3), drawing.colour(rng), np.uint8)
    return (scene_edits.edit(host, rng) if rng.random() < 0.25 else host).copy()


def _place(host: np.ndarray, paste: np.ndarray, rng: np.random.Generator) -> Box:
    """A random box for a paste."""
    return _random_box(host, _aspect(paste, rng), 1.0, rng)


def _place_beside(
    host: np.ndarray, paste: np.ndarray, rng: np.random.Generator, taken: list[Box]
) -> Box | None:
    """A random box for a smaller paste that overlaps none of `taken`; None if ten trials find none."""
    aspect = _aspect(paste, rng)
    for _ in range(10):
        box = _random_box(host, aspect, 0.6, rng)
        if all(box[0] >= b[2] or b[0] >= box[2] or box[1] >= b[3] or b[1] >= box[3] for b in taken):
            return box
    return None


def _aspect(paste: np.ndarray, rng: np.random.Generator) -> float:
    """Width over height of a paste, sometimes distorted."""
    aspect = paste.shape[1] / paste.shape[0]
    return aspect * np.exp(rng.uniform(-0.7, 0.7)) if rng.random() < 0.25 else aspect


def _random_box(host: np.ndarray, aspect: float, area: float, rng: np.random.Generator) -> Box:
    height, width = host.shape[:2]
    side = rng.uniform(0.15, 0.92) * np.sqrt(area)
    w, h = side * width, side * width / aspect
    shrink = min(1, side * height * 1.1 / h, 0.97 * height / h)
    w, h = max(8, round(w * shrink)), max(8, round(h * shrink))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    if rng.random() < 0.12:
        x = 0 if rng.random() < 0.5 else width - w
    return x, y, x + w, y + h


def _scaled(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    shrinks = width * height < picture.shape[0] * picture.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=how)


def _paste(draw: Draw, rng: np.random.Generator) -> Parts:
    """One or two pictures on another."""
    image = _host(draw, rng)
    boxes: list[Box] = []
    for _ in range(1 + (rng.random() < 0.15)):
        picture = scene_edits.edit(draw(), rng)
        box = _place_beside(image, picture, rng, boxes) if boxes else _place(image, picture, rng)
        if box is not None:
            x0, y0, x1, y1 = box
            image[y0:y1, x0:x1] = _scaled(picture, x1 - x0, y1 - y0)
            boxes.append(box)
    return image, boxes


def _translucent(draw: Draw, rng: np.random.Generator) -> Parts:
    image, picture = _host(draw, rng), scene_edits.edit(draw(), rng)
    box = x0, y0, x1, y1 = _place(image, picture, rng)
    alpha = np.full((y1 - y0, x1 - x0), rng.integers(80, 240), np.uint8)
    drawing.cover(image, None, _scaled(picture, x1 - x0, y1 - y0), alpha, x0, y0)
    return image, [box]


def _rotated(draw: Draw, rng: np.random.Generator) -> Parts:
    """A picture turned by a few degrees; the box is the axis-aligned rectangle around it."""
    image, picture = _host(draw, rng), scene_edits.edit(draw(), rng)
    height, width = image.shape[:2]
    x0, y0, x1, y1 = _place(image, picture, rng)
    picture = _scaled(picture, x1 - x0, y1 - y0)
    matrix = cv2.getRotationMatrix2D(((x1 - x0) / 2, (y1 - y0) / 2), rng.uniform(-12, 12), 1)
    matrix[:, 2] += x0, y0
    mask = np.full(picture.shape[:2], 255, np.uint8)
    alpha = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_LINEAR)
    drawing.cover(image, None, cv2.warpAffine(picture, matrix, (width, height)), alpha, 0, 0)
    corners = np.array([[0, 0], [x1 - x0, 0], [x1 - x0, y1 - y0], [0, y1 - y0]], np.float32)
    turned = np.asarray(cv2.transform(corners[None], matrix))[0]
    return image, [(*turned.min(0), *turned.max(0))]


def _bordered(draw: Draw, rng: np.random.Generator) -> Parts:
    """Polaroid, coloured border, drop shadow or rounded corners; the box is the picture inside."""
    image, picture = _host(draw, rng), scene_edits.edit(draw(), rng)
    height, width = image.shape[:2]
    box = x0, y0, x1, y1 = _place(image, picture, rng)
    w, h = x1 - x0, y1 - y0
    edge = max(1, round(min(w, h) * rng.uniform(0.01, 0.09)))
    style = rng.choice(["polaroid", "border", "shadow", "rounded"])
    alpha = np.full((h, w), 255, np.uint8)
    if style == "polaroid":
        red, green, blue = (int(v) for v in rng.integers(225, 256, 3))
        foot = round(h * rng.uniform(0.1, 0.28))
        sheet = np.full((h + edge + foot, w + 2 * edge), 255, np.uint8)
        drawing.cover(image, None, (red, green, blue), sheet, x0 - edge, y0 - edge)
    elif style == "border":
        sheet = np.full((h + 2 * edge, w + 2 * edge), 255, np.uint8)
        drawing.cover(image, None, drawing.colour(rng), sheet, x0 - edge, y0 - edge)
    elif style == "shadow":
        shade = np.zeros((height, width), np.uint8)
        dx, dy = (round(edge * rng.uniform(-1.5, 1.5)) for _ in range(2))
        at = max(0, x0 + dx), max(0, y0 + dy)
        cv2.rectangle(shade, at, (x1 + dx, y1 + dy), int(rng.integers(90, 230)), -1)
        soft = cv2.GaussianBlur(shade, (0, 0), max(1, edge / 2))
        drawing.cover(image, None, (0, 0, 0), soft, 0, 0)
    else:
        alpha[:] = 0
        radius = min(max(3, 2 * edge), min(w, h) // 2 - 1)
        for x, y in ((0, radius), (radius, 0)):
            cv2.rectangle(alpha, (x, y), (w - 1 - x, h - 1 - y), 255, -1)
        for x in (radius, w - 1 - radius):
            for y in (radius, h - 1 - radius):
                cv2.circle(alpha, (x, y), radius, 255, -1, cv2.LINE_AA)
    drawing.cover(image, None, _scaled(picture, w, h), alpha, x0, y0)
    return image, [box]


def _screenshot(draw: Draw, rng: np.random.Generator) -> Parts:
    """A phone post, browser window or printed page around a picture; sometimes a feed of two,
    sometimes inside the dark frame of a device."""
    kind = str(rng.choice(["phone", "phone", "browser", "page"]))
    picture = scene_edits.edit(draw(), rng)
    width = int(rng.integers(300, 420))
    margin = 0 if kind == "phone" and rng.random() < 0.7 else round(width * rng.uniform(0.02, 0.2))
    w = width - 2 * margin
    h = round(w * np.clip(picture.shape[0] / picture.shape[1], 0.4, 1.6))
    y0 = round(width * rng.uniform(0.22, 0.5))
    below = round(width * rng.uniform(0.15, 0.7))
    height = y0 + h + below
    x0 = margin if rng.random() < 0.6 else int(rng.integers(0, 2 * margin + 1))
    box = (x0, y0, x0 + w, y0 + h)
    image = drawing.screen(height, width, box, kind, rng)
    image[y0 : y0 + h, x0 : x0 + w] = _scaled(picture, w, h)
    boxes = [box]
    if below > 0.3 * width and rng.random() < 0.3:
        top = y0 + h + round(below * 0.4)
        second = _scaled(scene_edits.edit(draw(), rng), w, h)[: height - top]
        image[top : top + len(second), x0 : x0 + w] = second
        boxes.append((x0, top, x0 + w, top + len(second)))
    if rng.random() < 0.15:
        top, bottom, left, right = (round(width * rng.uniform(0.02, 0.12)) for _ in range(4))
        tint = (15, 15, 18) if rng.random() < 0.7 else drawing.colour(rng)
        image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=tint)
        boxes = [(b[0] + left, b[1] + top, b[2] + left, b[3] + top) for b in boxes]
    return image, boxes


def _collage(draw: Draw, rng: np.random.Generator) -> Parts:
    """Two to four pictures side by side, stacked, in a grid, or one large beside two small."""
    gap = 0 if rng.random() < 0.55 else int(rng.integers(1, 12))
    rim = gap if rng.random() < 0.5 else 0
    layout = str(rng.choice(["line", "grid", "mixed"], p=[0.72, 0.14, 0.14]))
    if layout == "line":
        parts = [
            scene_edits.edit(draw(), rng)
            for _ in range(rng.choice([2, 3, 4], p=[0.75, 0.17, 0.08]))
        ]
        if rng.random() < 0.85:
            widths = [max(40, round(260 * part.shape[1] / part.shape[0])) for part in parts]
        else:
            widths = [260] * len(parts)
        at = np.cumsum([0, *(wide + gap for wide in widths[:-1])])
        cells = [(int(x), 0, int(x) + wide, 260) for x, wide in zip(at, widths, strict=True)]
    else:
        x, y = (int(v) for v in rng.integers(120, 280, 2))
        cells = [
            (0, 0, x, y),
            (x + gap, 0, 400, y),
            (0, y + gap, x, 400),
            (x + gap, y + gap, 400, 400),
        ]
        if layout == "mixed":
            cells = [(0, 0, x, 400), *cells[1::2]]
        parts = [scene_edits.edit(draw(), rng) for _ in cells]
    if rng.random() < 0.5:  # stacked instead of side by side
        shapes = [(part.shape[1], part.shape[0]) for part in parts]
        cells = [(y0, x0, y1, x1) for x0, y0, x1, y1 in cells]
        if layout == "line":
            tall = [max(40, round(260 * h / w)) for w, h in shapes]
            at = np.cumsum([0, *(high + gap for high in tall[:-1])])
            cells = [(0, int(y), 260, int(y) + high) for y, high in zip(at, tall, strict=True)]
    cells = [(x0 + rim, y0 + rim, x1 + rim, y1 + rim) for x0, y0, x1, y1 in cells]
    width, height = max(c[2] for c in cells) + rim, max(c[3] for c in cells) + rim
    image = np.full((height, width, 3), drawing.colour(rng), np.uint8)
    for (x0, y0, x1, y1), part in zip(cells, parts, strict=True):
        image[y0:y1, x0:x1] = _scaled(part, x1 - x0, y1 - y0)
    return image, cells


def _meme(draw: Draw, rng: np.random.Generator) -> Parts:
    """A picture between bars with text, or in a frame of plain colour or of its own blurred copy."""
    picture = draw()
    if rng.random() < 0.7:
        image, box = scene_edits.bars(picture, rng)
        return image, [box]
    height, width = picture.shape[:2]
    more = [round(side * rng.uniform(0.15, 0.6)) for side in (height, width)]
    more[rng.integers(2)] = 0
    if rng.random() < 0.5:
        image = np.full((height + more[0], width + more[1], 3), drawing.colour(rng), np.uint8)
    else:
        image = cv2.resize(picture, (width + more[1], height + more[0]))
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(5, 12))
    x, y = more[1] // 2, more[0] // 2
    image[y : y + height, x : x + width] = picture
    return image, [(x, y, x + width, y + height)]


_COMPOSE = {
    "untouched": _untouched,
    "edited": _edited,
    "decoy": _decoy,
    "paste": _paste,
    "translucent": _translucent,
    "rotated": _rotated,
    "bordered": _bordered,
    "screenshot": _screenshot,
    "collage": _collage,
    "meme": _meme,
}


def _mirrored_or_turned(
    image: np.ndarray, xyxy: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror, flip and quarter turn of an image and its boxes."""
    height, width = image.shape[:2]
    if rng.random() < 0.4:
        image, xyxy = (
            image[:, ::-1],
            (xyxy * [-1, 1, -1, 1] + [width, 0, width, 0])[:, [2, 1, 0, 3]],
        )
    if rng.random() < 0.15:
        image, xyxy = image[::-1], (xyxy * [1, -1, 1, -1] + [0, height, 0, height])[:, [0, 3, 2, 1]]
    if rng.random() < 0.1:
        image, xyxy = image.swapaxes(0, 1), xyxy[:, [1, 0, 3, 2]]
    return image, xyxy.astype(np.float32)
