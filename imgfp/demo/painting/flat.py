# SPDX-License-Identifier: AGPL-3.0-or-later
"""Painters of flat graphics, each of a template that others share and of contents of its own.

Each takes (height, width, template, contents), two generators, and returns (height,width,3) uint8 RGB. Two drawings of
one template and different contents are no copies of each other: two slides of one speaker, two receipts of one shop.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from imgfp.demo.painting.ingredients import bar, ellipse, hues, polygon, rgb, stroke
from imgfp.demo.painting.printed import chart
from imgfp.edits import drawing

FlatPainter = Callable[[int, int, np.random.Generator, np.random.Generator], np.ndarray]


def logo(
    height: int, width: int, template: np.random.Generator, contents: np.random.Generator
) -> np.ndarray:
    """Two to four shapes in flat colours; their places are the template, colours and one shape the contents."""
    colours = hues(contents, 6, 1.0, natural=0.1)[contents.permutation(6)]
    image = np.full((height, width, 3), colours[0], np.uint8)
    kinds = template.integers(4, size=template.integers(2, 5))
    turned = np.deg2rad(np.array([0, 120, 240]) + template.uniform(0, 120))
    kinds[contents.integers(len(kinds))] = contents.integers(4)
    for number, kind in enumerate(kinds):
        centre = template.uniform(0.3, 0.7, 2) * (width, height)
        size = template.uniform(0.12, 0.4) * min(height, width)
        if kind == 0:
            ellipse(image, centre, (size, size), colours[number + 1])
        elif kind == 1:
            ellipse(image, centre, (size, size), colours[number + 1], thick=max(4, int(size / 3)))
        elif kind == 2:
            bar(image, centre - size / 2, (size, size), colours[number + 1])
        else:
            corners = np.stack([np.cos(turned), np.sin(turned)], axis=1)
            polygon(image, centre + size * corners, colours[number + 1])
    return image


def slide(
    height: int, width: int, template: np.random.Generator, contents: np.random.Generator
) -> np.ndarray:
    """A slide: bars, a logo and a footer are the template; title, points and a chart the contents."""
    paper, accent = np.full(3, 250), hues(template, 3, 0.5, natural=0.1)[1]
    image = np.full((height, width, 3), paper, np.uint8)
    top, foot = int(0.16 * height), int(0.92 * height)
    bar(image, (0, 0), (width, top), accent)
    bar(image, (0, foot), (width, height - foot), accent * 0.6)
    ellipse(image, (width - top, top / 2), (top / 3, top / 3), 255 - accent)
    size = max(8, height // 24)
    drawing.write(
        image, None, drawing.words(template, 3), 8, foot + 2, size, (255, 255, 255), template
    )
    drawing.write(
        image, None, drawing.words(contents, 3), 12, top // 4, 2 * size, (255, 255, 255), contents
    )
    half = width // 2 if contents.random() < 0.6 else width
    for y in range(top + 2 * size, foot - size, 3 * size):
        ellipse(image, (size, y), (size / 3, size / 3), accent)
        drawing.write(
            image,
            None,
            drawing.words(contents, 3),
            2 * size,
            y - size // 2,
            size,
            (40, 40, 40),
            contents,
        )
    if half < width:
        small = chart(foot - top - 12, width - half - 12, contents)
        image[top + 6 : top + 6 + small.shape[0], half : half + small.shape[1]] = small
    return image


def receipt(
    height: int, width: int, template: np.random.Generator, contents: np.random.Generator
) -> np.ndarray:
    """A receipt: the head of the shop, rules and footer are the template; items, prices and number the contents."""
    image = np.full((height, width, 3), int(template.integers(235, 256)), np.uint8)
    ink, size = (45, 45, 50), max(8, height // 26)
    head = int(0.26 * height)
    bar(image, (0, 0), (width, head // 2), hues(template, 3)[0])
    drawing.write(
        image, None, drawing.words(template, 2), 12, head // 8, 2 * size, (255, 255, 255), template
    )
    drawing.lines_of_text(image, 12, head // 2, width - 24, head // 2 - 4, size, ink, template)
    for y in (head, int(0.78 * height)):
        stroke(image, (10, y), (width - 10, y), np.array(ink), 2)
    for y in range(head + 2 * size, int(0.78 * height) - size, 2 * size):
        cv2.putText(
            image, drawing.words(contents, 2)[:18], (14, y), 0, size / 28, ink, 1, cv2.LINE_AA
        )
        price = f"{contents.integers(1, 200)}.{contents.integers(100):02d}"
        cv2.putText(image, price, (int(0.72 * width), y), 0, size / 28, ink, 1, cv2.LINE_AA)
    total = f"TOTAL {contents.integers(10, 2000)}.{contents.integers(100):02d}"
    cv2.putText(
        image, total, (int(0.4 * width), int(0.84 * height)), 0, size / 22, ink, 2, cv2.LINE_AA
    )
    drawing.lines_of_text(
        image, 12, int(0.87 * height), width - 24, int(0.1 * height), size, ink, template
    )
    return image


def screen(
    height: int, width: int, template: np.random.Generator, contents: np.random.Generator
) -> np.ndarray:
    """A screen of an app: bars, tabs and buttons are the template; its texts and a plain picture the contents."""
    box = (width // 8, height // 3, width - width // 8, height - height // 3)
    kind = str(template.choice(["phone", "browser"]))
    image = drawing.screen(height, width, box, kind, template)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = drawing.backdrop(y1 - y0, x1 - x0, contents)
    image[y1 : height - height // 8] = image[0, 0]
    size = max(8, height // 24)
    drawing.lines_of_text(image, x0, y1 + 2, x1 - x0, height // 5, size, (110, 110, 115), contents)
    return image


def line_drawing(
    height: int, width: int, template: np.random.Generator, contents: np.random.Generator
) -> np.ndarray:
    """Pen lines on white: a frame and a horizon are the template, the figures the contents."""
    image = np.full((height, width, 3), 255, np.uint8)
    ink = np.full(3, int(template.integers(0, 60)))
    cv2.rectangle(image, (6, 6), (width - 7, height - 7), rgb(ink), 2)
    y = template.uniform(0.4, 0.8) * height
    stroke(image, (6, y), (width - 7, y), ink, 2)
    for _ in range(int(contents.integers(4, 10))):
        centre = contents.uniform(0.1, 0.9, 2) * (width, height)
        size = contents.uniform(0.04, 0.22, 2) * min(height, width)
        if contents.random() < 0.5:
            ellipse(image, centre, size, ink, contents.uniform(0, 180), thick=2)
        else:
            points = centre + contents.normal(0, 1, (5, 2)) * size
            cv2.polylines(image, [points.astype(np.int32)], False, rgb(ink), 2, cv2.LINE_AA)
    return image


def card(
    height: int, width: int, template: np.random.Generator, contents: np.random.Generator
) -> np.ndarray:
    """An identity card: frame, labels and arms are the template; portrait, name and numbers the contents."""
    tint = hues(template, 4, 0.2)[3].astype(float) * 0.4 + 150
    image = np.full((height, width, 3), tint, np.uint8)
    dark, size = np.array([30, 40, 70]), max(8, height // 18)
    bar(image, (0, 0), (width, int(0.18 * height)), tint * 0.5)
    drawing.write(
        image, None, drawing.words(template, 2), 14, 6, 2 * size, (255, 255, 255), template
    )
    for radius in range(20, max(height, width), int(template.integers(10, 24))):  # guilloche
        ellipse(image, (width, height), (radius, radius), tint * 0.9, thick=1)
    side = int(0.5 * height)
    portrait, covered = drawing.sticker(side, contents)
    bar(image, (14, 0.25 * height), (side, side), hues(contents, 2)[1])
    drawing.cover(image, None, portrait, covered, 14, int(0.25 * height))
    for number, label in enumerate(("Name", "Born", "No.", "Until")):
        y = int((0.32 + 0.15 * number) * height)
        cv2.putText(image, label, (side + 30, y), 0, size / 34, rgb(dark * 2), 1, cv2.LINE_AA)
        text = drawing.words(contents, 2) if number == 0 else f"{contents.integers(10**5, 10**8)}"
        cv2.putText(
            image, text[:14], (side + 30, y + size), 0, size / 24, rgb(dark), 1, cv2.LINE_AA
        )
    return image


#: Every painter by name.
FLAT: dict[str, FlatPainter] = {
    painter.__name__: painter for painter in (logo, slide, receipt, screen, line_drawing, card)
}
