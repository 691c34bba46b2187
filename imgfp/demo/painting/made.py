"""Painters of man-made things: each takes (height, width, rng) and returns (height,width,3) uint8 RGB."""

from __future__ import annotations

import cv2
import numpy as np

from imgfp.demo.painting.ingredients import (
    bar,
    cloud,
    ellipse,
    hues,
    mixed,
    polygon,
    relief,
    rgb,
    shaded,
    stroke,
)
from imgfp.edits import drawing


def bricks(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A weathered wall of bricks or planks of different shades, sometimes with windows."""
    tall, wide = rng.uniform(0.04, 0.13) * height, rng.uniform(0.08, 0.4) * height
    gap, colours = int(rng.integers(1, 5)), hues(rng, 5, 0.12, natural=0.7).astype(float)
    image = np.full((height, width, 3), rgb(colours[rng.integers(2)] * 1.2), np.uint8)
    for row, y in enumerate(np.arange(-tall, height, tall)):
        x = -rng.random() * wide if rng.random() < 0.3 else -wide * (0.5 + row % 2 / 2)
        while x < width:
            length = wide * rng.uniform(0.85, 1.15)
            shade = colours[2 + rng.integers(3)] * rng.uniform(0.55, 1.05)
            bar(image, (x + gap, y + gap), (length - gap, tall - gap), shade)
            x += length
    grain = cloud(height, width, rng, 12, 0.85)
    image = shaded(
        image, relief(cv2.GaussianBlur(image[..., 1], (0, 0), 1).astype(np.float32), 0.006)
    )
    image = shaded(image, 0.55 + 0.8 * grain)
    for _ in range(int(rng.integers(0, 3))):
        size = rng.uniform((0.1 * width, 0.2 * height), (0.3 * width, 0.5 * height))
        corner = rng.uniform((0, 0), (width - size[0], height - size[1]))
        bar(image, corner - 5, size + 10, colours[4])
        bar(image, corner, size, colours[0] * 0.6)
        x, y = corner + size / 2
        stroke(image, (x, corner[1]), (x, y + size[1] / 2), colours[4], 5)
        stroke(image, (corner[0], y), (x + size[0] / 2, y), colours[4], 5)
    return image


def skyline(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A city at dusk or night: rows of towers with lit windows."""
    sky = hues(rng, 4, 0.3)
    down = np.linspace(0, 1.1, height, dtype=np.float32)[:, None]
    image = mixed(down + 0.5 * (cloud(height, width, rng, 2) - 0.5), sky[: int(rng.integers(2, 5))])
    for depth in np.linspace(0.3, 1, int(rng.integers(2, 5))):
        x = -rng.uniform(0, 0.1) * width
        wall = sky[0] * depth * 0.5 + sky[2] * (1 - depth)
        while x < width:
            wide = rng.uniform(0.06, 0.18) * width
            tall = height * rng.uniform(0.2, 0.8) * (1.15 - 0.5 * depth)
            top = height - tall
            shade = wall * rng.uniform(0.7, 1.3)
            bar(image, (x, top), (wide, tall), shade)
            if rng.random() < 0.3:
                polygon(
                    image,
                    [[x, top], [x + wide / 2, top - wide * rng.uniform(0.3, 1)], [x + wide, top]],
                    shade,
                )
            step = rng.uniform(0.5, 1, 2) * (width, height) * 0.028 * (0.5 + depth / 2)
            lit = rng.uniform(0.15, 0.8)
            glow = np.array([255, rng.integers(190, 245), rng.integers(110, 220)])
            for wx in np.arange(x + step[0], x + wide - step[0], step[0] * 1.5):
                for wy in np.arange(top + step[1], height, step[1] * 1.7):
                    on = rng.random() < lit
                    bar(
                        image,
                        (wx, wy),
                        step * 0.75,
                        np.multiply(glow, rng.uniform(0.6, 1)) if on else shade * 0.6,
                    )
            x += wide + rng.uniform(-0.02, 0.03) * width
    return image


def circuit(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A circuit board: bent tracks, pads, chips with legs and letters."""
    board = hues(rng, 3, 0.1)[0] * 0.6 + hues(rng, 3, 0.1)[1] * 0.4
    track, step = board * 1.6 + 20, int(rng.integers(9, 16))
    image = mixed(cloud(height, width, rng, 4), np.stack([board * 0.85, board * 1.1]))
    ways = step * np.array([[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]])
    for _ in range(int(rng.integers(50, 130))):
        place = rng.integers(0, (width // step + 1, height // step + 1)) * step
        way, thick = int(rng.integers(8)), int(rng.integers(1, 4))
        ellipse(image, place, (4, 4), (205, 190, 140))
        for _ in range(int(rng.integers(2, 7))):
            end = place + ways[way] * int(rng.integers(1, 7))
            stroke(image, place, end, track, thick)
            place, way = end, (way + int(rng.integers(-1, 2))) % 8
        ellipse(image, place, (4, 4), (205, 190, 140))
        ellipse(image, place, (2, 2), (30, 30, 30))
    for _ in range(int(rng.integers(3, 12))):
        size = rng.integers(2, 9, 2) * step
        corner = rng.integers(0, (width // step, height // step)) * step
        for leg in range(0, int(size[0]), step):
            foot = corner[0] + leg + 3, corner[1] - 5
            bar(image, foot, (step / 3, size[1] + 10), (190, 190, 195))
        bar(image, corner, size, rng.uniform(10, 60) + rng.uniform(0, 20, 3))
        ellipse(image, corner + 6, (3, 3), (120, 120, 120))
        name = f"{'LMTKQ'[rng.integers(5)]}{rng.integers(100, 9999)}"
        cv2.putText(image, name, (int(corner[0]) + 6, int(corner[1] + size[1] / 2) + 4), 0, 0.35,
                    (200, 200, 200), 1, cv2.LINE_AA)  # fmt: skip
    return image


def tartan(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Woven cloth: stripes in both directions, in a visible weave, draped in folds."""
    colours = hues(rng, 6, 0.6).astype(float)
    wide = rng.integers(3, 40, int(rng.integers(4, 10)))
    sett = np.repeat(colours[rng.integers(6, size=len(wide))], wide, axis=0)
    sett = np.vstack([sett, sett[::-1]])
    warp = sett[np.arange(width) % len(sett)][None]
    weft = sett[np.arange(height) % len(sett)][:, None]
    thread = int(rng.integers(1, 4))
    over = (np.arange(width)[None] + np.arange(height)[:, None]) // thread % 4 < 2  # twill
    cloth: np.ndarray = np.where(over[..., None], warp, weft).astype(np.uint8)
    fold = cloud(height, width, rng, 2, 0.4) * rng.uniform(10, 60)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    turn = rng.uniform(0, 2 * np.pi)
    x, y = x * np.cos(turn) - y * np.sin(turn) + fold, x * np.sin(turn) + y * np.cos(turn) + fold
    cloth = cv2.remap(
        cloth,
        x.astype(np.float32),
        y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    return shaded(cloth, relief(cv2.GaussianBlur(fold, (0, 0), 3), 0.12) * 0.95)


def lights(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Lamps out of focus: transparent discs over a dark street."""
    night = hues(rng, 4, 0.3)
    image = mixed(0.6 * cloud(height, width, rng, 2), night[:3])
    colours = hues(rng, 6, 0.7).astype(float) * 0.6 + 100
    size = rng.uniform(0.02, 0.08) * height
    for _ in range(int(rng.integers(40, 150))):
        layer = image.copy()
        radius = size * rng.uniform(0.5, 1.5)
        centre = rng.uniform(0, width), height * rng.beta(2, 2)
        ellipse(layer, centre, (radius, radius), colours[rng.integers(6)])
        ellipse(layer, centre, (radius, radius), (255, 255, 255), thick=1)
        x0, y0 = (int(max(0, c - radius - 3)) for c in centre)
        part = np.s_[y0 : int(centre[1] + radius + 3), x0 : int(centre[0] + radius + 3)]
        share = rng.uniform(0.15, 0.7)
        if image[part].size:
            image[part] = cv2.addWeighted(image[part], 1 - share, layer[part], share, 0)
    return image


def shelf(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Shelves of books with bands and titles on their spines."""
    wood = hues(rng, 3, 0.1, natural=1)[1]
    image = mixed(cloud(height, width, rng, 3), np.stack([wood * 0.25, wood * 0.4]))
    rows = int(rng.integers(1, 4))
    tall = height // rows
    for foot in range(tall, height + 1, tall):
        x, board = 2, max(5, tall // 14)
        colours = hues(rng, 8, 0.9).astype(float)
        while x < width:
            wide, high = int(rng.uniform(0.07, 0.2) * tall) + 6, rng.uniform(0.6, 0.9) * tall
            top, cover = foot - board - high, colours[rng.integers(8)] * rng.uniform(0.6, 1.1)
            bar(image, (x, top), (wide - 1, high), cover)
            stroke(
                image,
                (x + wide * 0.2, top),
                (x + wide * 0.2, foot - board),
                cover * 1.3 + 10,
                wide / 8,
            )
            for y in rng.uniform(0.05, 0.95, 3):
                bar(
                    image,
                    (x, top + y * high),
                    (wide - 1, rng.uniform(1, 7)),
                    colours[rng.integers(8)],
                )
            if wide > 13:
                ink = (245, 235, 200) if cover.sum() < 380 else (30, 25, 30)
                name = drawing.text_alpha(drawing.words(rng, 2), min(wide - 4, 22))
                name = cv2.rotate(name, cv2.ROTATE_90_CLOCKWISE)[: int(0.8 * high)]
                drawing.cover(
                    image, None, ink, name, x + (wide - name.shape[1]) // 2, int(top + 0.12 * high)
                )
            x += wide + int(rng.random() < 0.1) * int(rng.integers(3, 25))
        bar(image, (0, foot - board), (width, board), wood)
    return shaded(image, 0.65 + 0.6 * cloud(height, width, rng, 6, 0.8))


PAINTERS = (bricks, skyline, circuit, tartan, lights, shelf)
