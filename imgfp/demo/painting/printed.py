"""Painters of printed matter: each takes (height, width, rng) and returns (height,width,3) uint8 RGB."""

from __future__ import annotations

import cv2
import numpy as np

from imgfp.demo.painting.ingredients import (
    bar,
    cloud,
    ellipse,
    from_edge,
    hues,
    mixed,
    polygon,
    rgb,
    ridge,
    shaded,
    sites,
    stroke,
)
from imgfp.edits import drawing


def page(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A printed page: headings, columns of text and a drawing on off-white paper."""
    paper = hues(rng, 3, 0.1)[2] * 0.25 + 185
    image = mixed(cloud(height, width, rng, 3, 0.6), np.stack([paper * 0.93, paper]))
    ink, accent = rgb(hues(rng, 3)[0] * 0.5), hues(rng, 3)[1]
    margin, columns = int(rng.uniform(0.03, 0.09) * width), int(rng.integers(1, 4))
    size = int(rng.integers(8, 14))
    title = drawing.words(rng, int(rng.integers(3, 6)))
    drawing.write(image, None, title, margin, margin, int(rng.uniform(18, 40)), ink, rng)
    top = margin + 55
    across = (width - 2 * margin) // columns
    figure = int(rng.integers(columns)), rng.uniform(0.0, 0.5) * (height - top) + top
    for column in range(columns):
        x = margin + column * across
        spans = [(top, height - margin)]
        if column == figure[0]:
            tall = int(rng.uniform(0.2, 0.45) * height)
            y = int(min(figure[1], height - margin - tall))
            small = _figure(tall, max(64, across - 16), rng)
            image[y : y + tall, x : x + small.shape[1]] = small[:, : width - x]
            spans = [(top, y - 6), (y + tall + 8, height - margin)]
        for start, end in spans:
            drawing.lines_of_text(image, x, start, across - 16, end - start, size, ink, rng)
    if rng.random() < 0.5:
        bar(image, (0, 0), (width, margin // 2), accent)
    turn = cv2.getRotationMatrix2D(
        (width / 2, height / 2), rng.uniform(-4, 4), rng.uniform(1, 1.15)
    )
    return cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT)


def _figure(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A small drawing for a page."""
    return (chart if rng.random() < 0.5 else mosaic)(height, width, rng)


def chart(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A bar, line, scatter or pie chart with axes, grid, labels and numbers."""
    dark = rng.random() < 0.25
    image = np.full((height, width, 3), (24, 26, 34) if dark else (250, 250, 247), np.uint8)
    ink = (225, 225, 225) if dark else (50, 50, 55)
    colours = hues(rng, 7, 0.9, natural=0.2)[1:].astype(float)
    left, right = int(0.12 * width), int(0.95 * width)
    top, foot = int(0.16 * height), int(0.86 * height)
    kind = rng.integers(4)
    if kind < 3:
        for y in np.linspace(top, foot, int(rng.integers(4, 9))):
            stroke(image, (left, y), (right, y), np.full(3, 70 if dark else 215))
            number = f"{rng.integers(10, 999)}"
            cv2.putText(image, number, (4, int(y) + 4), 0, 0.35, ink, 1, cv2.LINE_AA)
    count = int(rng.integers(5, 16))
    at = np.linspace(left, right, count + 2)[1:-1]
    if kind == 0:
        wide, series = (right - left) / count * 0.8, int(rng.integers(1, 4))
        for i, x in enumerate(at):
            for s in range(series):
                tall = rng.uniform(0.05, 1) * (foot - top)
                x0 = x - wide / 2 + s * wide / series
                bar(
                    image,
                    (x0, foot - tall),
                    (wide / series - 2, tall),
                    colours[(s if series > 1 else i) % 6],
                )
    elif kind == 1:
        for s in range(int(rng.integers(2, 6))):
            line = foot - ridge(count * 3, rng) * (foot - top) * rng.uniform(0.3, 1)
            points = np.stack([np.linspace(left, right, count * 3), line], axis=1)
            if rng.random() < 0.4:
                polygon(image, np.vstack([points, [[right, foot], [left, foot]]]), colours[s] * 0.8)
            cv2.polylines(
                image,
                [points.astype(np.int32)],
                False,
                rgb(colours[s]),
                int(rng.integers(1, 4)),
                cv2.LINE_AA,
            )
            for point in points[:: int(rng.integers(2, 6))]:
                ellipse(image, point, (4, 4), colours[s])
    elif kind == 2:
        for s in range(int(rng.integers(2, 6))):
            middle, spread = rng.uniform((left, top), (right, foot)), rng.uniform(0.03, 0.2, 2)
            for point in rng.normal(middle, spread * (width, height), (60, 2)):
                if left < point[0] < right and top < point[1] < foot:
                    ellipse(image, point, [rng.uniform(2, 7)] * 2, colours[s])
    else:
        edges = np.cumsum(rng.dirichlet(np.full(6, 1.5))) * 360
        centre, radius = (
            (int(width * rng.uniform(0.35, 0.6)), height * 11 // 20),
            int(0.36 * height),
        )
        for start, end, colour in zip([0, *edges], edges, colours, strict=False):
            cv2.ellipse(
                image, centre, (radius, radius), 0, start, end, rgb(colour), -1, cv2.LINE_AA
            )
            middle = np.deg2rad((start + end) / 2)
            place = np.add(centre, 1.12 * radius * np.array([np.cos(middle), np.sin(middle)]))
            cv2.putText(
                image,
                f"{end - start:.0f}%",
                tuple(place.astype(int).tolist()),
                0,
                0.4,
                ink,
                1,
                cv2.LINE_AA,
            )
        if rng.random() < 0.5:
            ellipse(image, centre, (radius / 2, radius / 2), image[0, 0])
    if kind < 3:
        stroke(image, (left, foot), (right, foot), ink, 2)
        stroke(image, (left, top), (left, foot), ink, 2)
        for x in at[:: max(1, count // 7)]:
            label = drawing.words(rng, 1)[:7]
            cv2.putText(image, label, (int(x) - 16, foot + 16), 0, 0.35, ink, 1, cv2.LINE_AA)
    title = drawing.words(rng, int(rng.integers(2, 6)))
    drawing.write(image, None, title, left, 6, max(11, int(0.05 * height)), ink, rng)
    return image


def streets(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A city map: blocks between streets, main roads, rivers, names."""
    count = int(rng.integers(25, 160))
    labels = sites(height, width, rng.integers(0, (width, height), (count, 2)))
    edge = from_edge(labels)
    ground = hues(rng, 5, 0.25)[2:] * 0.5 + 120
    blocks = np.clip(
        ground[rng.integers(3, size=count + 1)] + rng.uniform(-18, 18, (count + 1, 1)), 0, 255
    )
    image = blocks.astype(np.uint8)[labels]
    lots = from_edge(sites(height, width, rng.integers(0, (width, height), (count * 9, 2))))
    image[lots < 1.5] = rgb(ground[0] * 0.8)
    image[edge < rng.uniform(2, 5)] = (250, 248, 240)
    for _ in range(int(rng.integers(1, 4))):
        line = np.stack([np.linspace(-5, width + 5, 60), ridge(60, rng) * height], axis=1)
        if rng.random() < 0.5:
            line = line[:, ::-1] * (width / height, height / width)
        thick, colour = int(rng.integers(4, 22)), ((150, 190, 225), (250, 205, 90))[rng.integers(2)]
        for wide, ink in ((thick + 3, np.multiply(colour, 0.7)), (thick, colour)):
            cv2.polylines(image, [line.astype(np.int32)], False, rgb(ink), wide, cv2.LINE_AA)
    for _ in range(int(rng.integers(3, 9))):
        x, y = rng.uniform((0, 0), (0.8 * width, 0.95 * height)).astype(int).tolist()
        drawing.write(
            image, None, drawing.words(rng, 2), x, y, int(rng.integers(10, 22)), (60, 55, 60), rng
        )
    return image


def mosaic(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Tiles with arcs, triangles, discs and stripes, rotated at random."""
    colours = hues(rng, 5, 0.5).astype(float)
    side = int(rng.integers(22, 70))
    image = np.zeros((height + side, width + side, 3), np.uint8)
    for y in range(0, height, side):
        for x in range(0, width, side):
            tile = np.full((side, side, 3), rgb(colours[rng.integers(5)]), np.uint8)
            ink, kind = colours[rng.integers(5)], rng.integers(4)
            if kind == 0:
                for corner in ((0, 0), (side, side)):
                    ellipse(tile, corner, (side / 2, side / 2), ink, thick=max(2, side // 6))
            elif kind == 1:
                polygon(tile, [[0, 0], [side, 0], [0, side]], ink)
            elif kind == 2:
                ellipse(tile, (side / 2, side / 2), (side / 3, side / 3), ink)
                ellipse(tile, (side / 2, side / 2), (side / 7, side / 7), colours[rng.integers(5)])
            else:
                for line in range(0, side, max(4, side // 5)):
                    bar(tile, (line, 0), (side // 10, side), ink)
            image[y : y + side, x : x + side] = np.rot90(tile, int(rng.integers(4)))
    image = np.ascontiguousarray(image[:height, :width])
    image[::side], image[:, ::side] = rgb(colours[0] * 0.6), rgb(colours[0] * 0.6)
    return shaded(image, 0.7 + 0.5 * cloud(height, width, rng, 8, 0.8))


def poster(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A poster: rays, large shapes, large text."""
    colours = hues(rng, 6, 0.7, natural=0.3).astype(float)
    image = np.full((height, width, 3), rgb(colours[rng.integers(6)]), np.uint8)
    centre = rng.uniform((0.2 * width, 0.2 * height), (0.8 * width, 0.8 * height))
    rays = int(rng.integers(0, 22))
    for angle in np.arange(rays) * 2 * np.pi / max(1, rays) + rng.random():
        reach = 2 * max(height, width)
        ends = [
            centre + reach * np.array([np.cos(a), np.sin(a)]) for a in (angle, angle + np.pi / rays)
        ]
        polygon(image, [centre, *ends], colours[1])
    for _ in range(int(rng.integers(3, 16))):
        place, size = rng.uniform((0, 0), (width, height)), rng.uniform(0.05, 0.35) * height
        colour, kind = colours[rng.integers(6)], rng.integers(4)
        if kind == 0:
            ellipse(image, place, (size, size), colour)
            ellipse(
                image,
                place,
                (size * 0.7, size * 0.7),
                colours[rng.integers(6)],
                thick=int(size / 8) + 1,
            )
        elif kind == 1:
            polygon(image, place + rng.uniform(-size, size, (3, 2)), colour)
        elif kind == 2:
            bar(image, place, (size, size * rng.uniform(0.1, 1)), colour)
        else:
            for ring in np.arange(size, 4, -size / 6):
                ellipse(image, place, (ring, ring), colours[int(ring) % 6])
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform((0, 0), (0.6 * width, 0.85 * height)).astype(int).tolist()
        size = int(rng.uniform(0.06, 0.2) * height)
        drawing.write(image, None, drawing.words(rng, 2), x, y, size, drawing.colour(rng), rng)
    return shaded(image, 0.7 + 0.5 * cloud(height, width, rng, 10, 0.85))


PAINTERS = (page, chart, streets, mosaic, poster)
