"""Drawing primitives of the edits: backdrops, text, stickers, stripes, screens.

Images are (H,W,3) uint8 RGB. Coverage `alpha` is (h,w) uint8, 255: opaque. Every random choice comes
from the generator given, so that the same seed draws the same image.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

_FACES = ("", "DejaVuSans-Bold", "DejaVuSans", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")
_WORDS = (
    "when", "you", "the", "and", "this", "look", "best", "ever", "not", "sure", "if", "summer",
    "sale", "now", "only", "today", "my", "life", "in", "one", "picture", "wait", "for", "it",
    "nobody:", "me:", "again", "monday", "friday", "weekend", "mood", "love", "share", "follow",
    "like", "copy", "original", "photo", "news", "breaking", "local", "man", "finds", "found",
    "lost", "cat", "dog", "home", "city", "night", "morning", "coffee", "recipe", "travel",
    "guide", "part", "two", "three", "top", "ten", "why", "how", "what", "they", "never", "told",
    "us", "about", "real", "fake",
)  # fmt: skip


def words(rng: np.random.Generator, count: int) -> str:
    """`count` everyday words, sometimes in capitals."""
    text = " ".join(_WORDS[i] for i in rng.integers(len(_WORDS), size=max(1, count)))
    return text.upper() if rng.random() < 0.3 else text


def colour(rng: np.random.Generator) -> Colour:
    """White or black in 40 % of cases, otherwise any colour."""
    draw = rng.random()
    if draw < 0.4:
        return (255, 255, 255) if draw < 0.2 else (0, 0, 0)
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return red, green, blue


def backdrop(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A soft colour gradient, as a background without any other image."""
    knots = rng.integers(0, 256, (3, 3, 3)).astype(np.uint8)
    return cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC)


def cover(
    image: np.ndarray, shown: np.ndarray | None, layer: np.ndarray | Colour, alpha: np.ndarray,
    x: int, y: int,
) -> None:  # fmt: skip
    """Blend `layer` (a colour, or (h,w,3) uint8) onto `image` in place, its top left at x, y, clipped.

    `shown` (H,W) bool, if given, becomes False where the layer covers half or more.
    """
    height, width = image.shape[:2]
    x0, y0 = max(0, x), max(0, y)
    x1, y1 = min(width, x + alpha.shape[1]), min(height, y + alpha.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    alpha = alpha[y0 - y : y1 - y, x0 - x : x1 - x]
    part = image[y0:y1, x0:x1]
    if isinstance(layer, tuple):
        layer = np.full_like(part, layer)
    else:
        layer = layer[y0 - y : y1 - y, x0 - x : x1 - x]
    weight = alpha.astype(np.float32) / 255
    part[:] = cv2.blendLinear(np.ascontiguousarray(layer), part.copy(), weight, 1 - weight)
    if shown is not None:
        shown[y0:y1, x0:x1] &= alpha < 128


@lru_cache(maxsize=128)
def _font(face: str, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font that ships with matplotlib, which is not imported; "": the default of Pillow."""
    if not face:
        return ImageFont.load_default(size_px)
    package = importlib.util.find_spec("matplotlib")
    assert package is not None and package.origin is not None  # a dependency of this package
    path = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{face}.ttf"
    return ImageFont.truetype(str(path), size_px)


def text_alpha(text: str, size_px: int, face: str = "", outline_px: int = 0) -> np.ndarray:
    """Coverage of one or several lines of text, cropped to its ink: (h,w) uint8, at least 1 x 1."""
    size_px = max(6, size_px)
    ink = ImageDraw.Draw(Image.new("L", (1, 1)))
    font = _font(face, size_px)
    x0, y0, x1, y1 = ink.multiline_textbbox((0, 0), text, font=font, stroke_width=outline_px)
    canvas = Image.new("L", (max(1, int(x1 - x0) + 1), max(1, int(y1 - y0) + 1)))
    ImageDraw.Draw(canvas).multiline_text(
        (-x0, -y0), text, fill=255, font=font, stroke_width=outline_px, align="center"
    )
    return np.asarray(canvas)


def write(
    image: np.ndarray, shown: np.ndarray | None, text: str, x: int, y: int, size_px: int,
    ink: Colour, rng: np.random.Generator, opacity: float = 1.0, turn_deg: float = 0.0,
) -> None:  # fmt: skip
    """Write text onto `image` in place, top left at x, y, in a random font, sometimes outlined.

    shown: see `cover`. turn_deg: rotation, counter-clockwise.
    """
    face = _FACES[rng.integers(len(_FACES))]
    layers = [(0, ink)]
    if rng.random() < 0.3:
        shade = (0, 0, 0) if sum(ink) > 380 else (255, 255, 255)
        layers.insert(0, (1 + size_px // 16, shade))
    for outline, tint in layers:
        alpha = text_alpha(text, size_px, face, outline)
        if turn_deg:
            alpha = _turn(alpha, turn_deg)
        if opacity < 1:
            alpha = cv2.convertScaleAbs(alpha, alpha=opacity)
        cover(image, shown, tint, alpha, x - outline, y - outline)


def _turn(layer: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate counter-clockwise about the centre, on a canvas enlarged to hold it; new pixels are 0."""
    height, width = layer.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = int(np.ceil(width * cos + height * sin)), int(np.ceil(width * sin + height * cos))
    matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return cv2.warpAffine(layer, matrix, size)


def sticker(size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An emoji-like sticker, a face, heart, star, speech bubble, arrow or ring, slightly rotated.

    Returns its colours (s,s,3) uint8 and its coverage (s,s) uint8.
    """
    size = max(4, size_px)
    rgba = np.zeros((size, size, 4), np.uint8)
    kind = rng.choice(["face", "face", "face", "heart", "star", "bubble", "arrow", "ring"])
    tint = tuple(int(v) for v in rng.integers(60, 256, 3))
    _SHAPES[str(kind)](rgba, size, (*tint, 255), rng)
    rgba = _turn(rgba, float(rng.uniform(-30, 30)))
    return np.ascontiguousarray(rgba[..., :3]), rgba[..., 3]


def _polygon(rgba: np.ndarray, points: np.ndarray, tint: tuple) -> None:
    """Fill a polygon given in units of the sticker's side."""
    scaled = np.round(np.asarray(points) * (len(rgba) - 1) * 16).astype(np.int32)
    cv2.fillPoly(rgba, [scaled], tint, cv2.LINE_AA, 4)


def _disc(rgba: np.ndarray, x: float, y: float, radius: float, tint: tuple, line: int = -1) -> None:
    side = len(rgba) - 1
    centre = round(x * side * 16), round(y * side * 16)
    cv2.circle(rgba, centre, round(radius * side * 16), tint, line, cv2.LINE_AA, 4)


def _face(rgba: np.ndarray, size: int, tint: tuple, rng: np.random.Generator) -> None:
    skin = (255, int(rng.integers(190, 225)), int(rng.integers(40, 100)), 255)
    dark, line = (70, 40, 20, 255), max(1, size // 16)
    _disc(rgba, 0.5, 0.5, 0.48, (200, 130, 20, 255))
    _disc(rgba, 0.5, 0.5, 0.45, skin)
    mood = int(rng.integers(5))
    for x in (0.33, 0.67):
        if mood == 0:  # heart eyes
            _polygon(rgba, _HEART * 0.3 + (x - 0.15, 0.22), (230, 30, 60, 255))
        elif mood == 1:  # eyes shut with laughter
            cv2.ellipse(rgba, (int(x * size), int(0.42 * size)), (size // 9, size // 12), 0, 180, 360,
                        dark, line, cv2.LINE_AA)  # fmt: skip
        else:
            _disc(rgba, x, 0.38, 0.07, dark)
    if mood == 2:  # sunglasses
        for x in (0.32, 0.68):
            _disc(rgba, x, 0.38, 0.15, (20, 20, 30, 255))
        cv2.line(rgba, (size // 5, size // 3), (4 * size // 5, size // 3), (20, 20, 30, 255), line)
    centre, axes = (size // 2, int(0.62 * size)), (int(0.25 * size), int(0.2 * size))
    if mood in (0, 1):
        cv2.ellipse(rgba, centre, axes, 0, 0, 180, (120, 20, 20, 255), -1, cv2.LINE_AA)
    elif mood == 3:
        _disc(rgba, 0.5, 0.72, 0.1, (90, 30, 20, 255))
    else:
        turn = 0 if mood == 2 else 180
        cv2.ellipse(rgba, (centre[0], int((0.58 if turn == 0 else 0.78) * size)), axes, turn, 20, 160,
                    dark, line, cv2.LINE_AA)  # fmt: skip
    if mood == 1:  # tears
        _disc(rgba, 0.15, 0.55, 0.1, (90, 170, 250, 255))
        _disc(rgba, 0.85, 0.55, 0.1, (90, 170, 250, 255))


_ANGLE = np.linspace(0, 2 * np.pi, 40)
_HEART = np.stack(
    [
        0.5 + 0.48 * np.sin(_ANGLE) ** 3,
        0.46 - (13 * np.cos(_ANGLE) - 5 * np.cos(2 * _ANGLE) - 2 * np.cos(3 * _ANGLE)) / 32,
    ],
    axis=1,
)
_SPIKE = np.arange(10)
_STAR = 0.5 + np.where(_SPIKE % 2, 0.2, 0.49)[:, None] * np.stack(
    [np.sin(_SPIKE * np.pi / 5), -np.cos(_SPIKE * np.pi / 5)], axis=1
)
_ARROW = np.array(
    [[0, 0.35], [0.55, 0.35], [0.55, 0.1], [1, 0.5], [0.55, 0.9], [0.55, 0.65], [0, 0.65]]
)


def _heart(rgba: np.ndarray, size: int, tint: tuple, rng: np.random.Generator) -> None:
    _polygon(rgba, _HEART, (int(rng.integers(190, 256)), 20, int(rng.integers(20, 100)), 255))


def _star(rgba: np.ndarray, size: int, tint: tuple, rng: np.random.Generator) -> None:
    _polygon(rgba, _STAR, (200, 140, 0, 255))
    _polygon(rgba, 0.5 + (_STAR - 0.5) * 0.85, (255, int(rng.integers(180, 230)), 40, 255))


def _arrow(rgba: np.ndarray, size: int, tint: tuple, rng: np.random.Generator) -> None:
    _polygon(rgba, _ARROW, tint)


def _ring(rgba: np.ndarray, size: int, tint: tuple, rng: np.random.Generator) -> None:
    _disc(rgba, 0.5, 0.5, 0.42, tint, max(1, size // 10))


def _bubble(rgba: np.ndarray, size: int, tint: tuple, rng: np.random.Generator) -> None:
    _polygon(rgba, np.array([[0.2, 0.6], [0.45, 0.7], [0.2, 0.98]]), (255, 255, 255, 255))
    cv2.ellipse(rgba, (size // 2, int(0.42 * size)), (int(0.48 * size), int(0.36 * size)), 0, 0, 360,
                (255, 255, 255, 255), -1, cv2.LINE_AA)  # fmt: skip
    for x in (0.3, 0.5, 0.7):
        _disc(rgba, x, 0.42, 0.06, (60, 60, 60, 255))


_SHAPES = {
    "face": _face, "heart": _heart, "star": _star, "bubble": _bubble, "arrow": _arrow, "ring": _ring,
}  # fmt: skip


def stripes(height: int, width: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Coverage of parallel bars at any angle over about `share` of the image: (H,W) uint8."""
    angle, count = rng.uniform(0, np.pi), int(rng.integers(2, 12))
    across, along = (
        np.array([np.cos(angle), np.sin(angle)]),
        np.array([-np.sin(angle), np.cos(angle)]),
    )
    reach = (height * across[1] + width * abs(across[0])) / 2
    step = 2 * reach / count
    centres = -reach + step * (np.arange(-1, count + 1)[:, None] + rng.random())
    sides = centres + share * step / 2 * np.array([-1, -1, 1, 1])
    ends = (height + width) * np.array([-1, 1, 1, -1])
    bars = (width / 2, height / 2) + sides[..., None] * across + ends[:, None] * along
    alpha = np.zeros((height, width), np.uint8)
    for bar in np.round(bars * 16).astype(np.int32):
        cv2.fillConvexPoly(alpha, bar, 255, cv2.LINE_AA, 4)
    return alpha


def lines_of_text(
    image: np.ndarray, x: int, y: int, width: int, height: int, size_px: int, ink: Colour,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Fill a rectangle of `image`, in place, with small running text."""
    scale = max(0.2, size_px / 30)
    for top in range(y + size_px, y + height, max(4, int(size_px * 1.6))):
        line = words(rng, 14)[: max(1, int(width / (size_px * 0.62)))]
        if rng.random() < 0.15:
            line = line[: len(line) // 2]
        cv2.putText(image, line, (x, top), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)


def screen(
    height: int, width: int, box: tuple[int, int, int, int], kind: str, rng: np.random.Generator
) -> np.ndarray:
    """A drawn phone post, browser window or printed page (`kind`: phone, browser, page), with `box`
    (x0, y0, x1, y1) left free for an image."""
    x0, y0, x1, y1 = box
    dark = kind != "page" and rng.random() < 0.35
    paper = int(rng.integers(10, 40)) if dark else int(rng.integers(235, 256))
    canvas = np.full((height, width, 3), paper, np.uint8)
    ink: Colour = (225, 225, 225) if dark else (40, 40, 45)
    pale: Colour = (70, 70, 75) if dark else (205, 208, 212)
    accent = tuple(int(v) for v in rng.integers(30, 230, 3))
    unit = max(4, min(height, width) // 22)
    if kind == "phone":
        cv2.rectangle(canvas, (0, 0), (width, 2 * unit), accent if rng.random() < 0.4 else pale, -1)
        cv2.putText(canvas, f"{rng.integers(24)}:{rng.integers(10, 60)}", (unit, unit + unit // 2),
                    cv2.FONT_HERSHEY_SIMPLEX, unit / 26, ink, 1, cv2.LINE_AA)  # fmt: skip
        cv2.circle(canvas, (2 * unit, max(3 * unit, y0 - 2 * unit)), unit, accent, -1, cv2.LINE_AA)
        lines_of_text(canvas, 4 * unit, y0 - 3 * unit, width // 2, 2 * unit, unit, ink, rng)
        for i in range(3):
            centre = (2 * unit + 3 * unit * i, y1 + 2 * unit)
            cv2.circle(canvas, centre, unit, ink, 1 + unit // 8, cv2.LINE_AA)
        lines_of_text(canvas, unit, y1 + 4 * unit, width - 2 * unit, 5 * unit, unit, ink, rng)
        cv2.rectangle(canvas, (0, height - 2 * unit), (width, height), pale, -1)
        for x in range(width // 10, width, max(1, width // 5)):
            cv2.circle(canvas, (x, height - unit), unit // 2, accent, -1, cv2.LINE_AA)
    else:
        top = 0
        if kind == "browser":
            top = 4 * unit
            cv2.rectangle(canvas, (0, 0), (width, top), pale, -1)
            for i, dot in enumerate(((237, 106, 94), (245, 191, 79), (98, 197, 84))):
                cv2.circle(canvas, (unit + 2 * unit * i, unit), unit // 2, dot, -1, cv2.LINE_AA)
            cv2.rectangle(canvas, (5 * unit, 2 * unit), (width - 2 * unit, 3 * unit + unit // 2),
                          (245, 245, 245), -1)  # fmt: skip
            lines_of_text(canvas, 5 * unit, 2 * unit, width // 3, unit, unit, (90, 90, 90), rng)
        if y0 - top > 3 * unit:
            write(canvas, None, words(rng, 4), unit, top + unit // 2, int(unit * 1.6), ink, rng)
        lines_of_text(
            canvas, unit, top + 3 * unit, width - 2 * unit, y0 - top - 4 * unit, unit, ink, rng
        )
        lines_of_text(canvas, unit, y0, x0 - 2 * unit, y1 - y0, unit, ink, rng)
        lines_of_text(canvas, x1 + unit, y0, width - x1 - 2 * unit, y1 - y0, unit, ink, rng)
        lines_of_text(
            canvas, unit, y1 + unit, width - 2 * unit, height - y1 - 2 * unit, unit, ink, rng
        )
    return canvas
