"""Edits of an image before it is pasted, and of the finished training image.

Each takes an (H,W,3) uint8 RGB image and a generator and returns a new image; none depends on the boxes.
"""

from __future__ import annotations

import cv2
import numpy as np

from imgfp.edits import drawing, photometric


def some_part(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photograph, in half of the cases cropped to 45-100 % of its sides."""
    if rng.random() < 0.5:
        return photo
    height, width = photo.shape[:2]
    h, w = (max(8, round(side * rng.uniform(0.45, 1))) for side in (height, width))
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return photo[y : y + h, x : x + w]


_TONES = (
    photometric.colour, photometric.grey, photometric.sepia, photometric.solarise, photometric.posterise, photometric.invert,
    photometric.channels, photometric.gamma, photometric.blur, photometric.sharpen, photometric.pixelise, photometric.lowres,
    photometric.jpeg, photometric.noise,
)  # fmt: skip


def _tone(image: np.ndarray, rng: np.random.Generator, hardest: float) -> np.ndarray:
    return _TONES[rng.integers(len(_TONES))](image, rng.uniform(0.05, hardest), rng)


def edit(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Edits before an image is pasted: the box of the paste is that of the result."""
    if rng.random() < 0.35:
        return image
    edits = (mirror, squeeze, rotate, tilt, stick, write, cross, _add_bar)
    for _ in range(1 + (rng.random() < 0.3)):
        if rng.random() < 0.5:
            image = _tone(image, rng, 0.9)
        else:
            image = edits[rng.integers(len(edits))](image, rng)
    return image


def mirror(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image[::-1])


def squeeze(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    return cv2.resize(image, (max(8, round(width * rng.uniform(0.6, 1.7))), height))


def _fill(rng: np.random.Generator) -> drawing.Colour:
    return (0, 0, 0) if rng.random() < 0.5 else drawing.colour(rng)


def rotate(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotated on a canvas of the same size or one that contains it all; the corners are plain."""
    height, width = image.shape[:2]
    angle = rng.uniform(-30, 30) if rng.random() < 0.7 else rng.uniform(-180, 180)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    if rng.random() < 0.5:
        cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
        size = round(width * cos + height * sin), round(width * sin + height * cos)
        matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
        width, height = size
    edge = cv2.BORDER_CONSTANT if rng.random() < 0.8 else cv2.BORDER_REFLECT
    return cv2.warpAffine(image, matrix, (width, height), borderMode=edge, borderValue=_fill(rng))


def tilt(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Perspective: every corner moves inwards by up to a quarter of the side; the rest is plain."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], np.float32) * [width, height]
    moved = corners + inwards * rng.uniform(0, 0.25, (4, 2))
    matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    return cv2.warpPerspective(image, matrix, (width, height), borderValue=_fill(rng))


def stick(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(rng.integers(1, 5)):
        size = max(8, round(min(height, width) * rng.uniform(0.08, 0.4)))
        stamp, alpha = drawing.sticker(size, rng)
        if rng.random() < 0.5:
            alpha = cv2.convertScaleAbs(alpha, alpha=rng.uniform(0.5, 1))
        x, y = int(rng.integers(width)) - size // 2, int(rng.integers(height)) - size // 2
        drawing.cover(image, None, stamp, alpha, x, y)
    return image


def write(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(rng.integers(1, 5)):
        size = max(7, round(height * rng.uniform(0.04, 0.15)))
        x, y = int(rng.integers(-width // 8, width // 2)), int(rng.integers(height))
        text = drawing.words(rng, int(rng.integers(1, 6)))
        opacity = 1.0 if rng.random() < 0.6 else rng.uniform(0.3, 1)
        drawing.write(image, None, text, x, y, size, drawing.colour(rng), rng, opacity)
    return image


def cross(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bars across the whole image, vertical and horizontal, or at any angle."""
    image = image.copy()
    height, width = image.shape[:2]
    tint = drawing.colour(rng)
    if rng.random() < 0.25:
        alpha = drawing.stripes(height, width, rng.uniform(0.03, 0.4), rng)
        drawing.cover(image, None, tint, alpha, 0, 0)
        return image
    for length, along in ((height, 0), (width, 1)):
        for _ in range(rng.integers(0, 6)):
            thick = max(1, round(length * rng.uniform(0.008, 0.07)))
            start = int(rng.integers(0, max(1, length - thick)))
            (image if along == 0 else image.swapaxes(0, 1))[start : start + thick] = tint
    return image


def _add_bar(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return bars(image, rng)[0]


def bars(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple]:
    """An image with plain bars above, below or both, and text on them; and the box xyxy of the image."""
    height, width = image.shape[:2]
    where = rng.choice(["above", "below", "both"], p=[0.6, 0.15, 0.25])
    above, below = (
        round(height * rng.uniform(0.1, 0.35)) if where in (name, "both") else 0
        for name in ("above", "below")
    )
    tint = (255, 255, 255) if rng.random() < 0.6 else drawing.colour(rng)
    ink = (0, 0, 0) if sum(tint) > 380 else (255, 255, 255)
    out = np.full((height + above + below, width, 3), tint, np.uint8)
    out[above : above + height] = image
    for top, tall in ((0, above), (above + height, below)):
        if tall and rng.random() < 0.92:
            size = max(7, round(tall * rng.uniform(0.25, 0.6)))
            x = int(width * rng.uniform(0.01, 0.2))
            text = drawing.words(rng, int(rng.integers(2, 8)))
            strip = out[top : top + tall]
            drawing.write(strip, None, text, x, int(tall * rng.uniform(0.05, 0.4)), size, ink, rng)
    return out, (0, above, width, above + height)


#: Edits of a whole image that leave nothing to cut out.
WHOLE = (mirror, squeeze, rotate, tilt, stick, write, cross, cross)


def over_everything(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Edits of the finished image that move nothing: tones, stickers, text, stripes."""
    if rng.random() < 0.45:
        for _ in range(1 + (rng.random() < 0.3)):
            image = _tone(image, rng, 0.8)
    for share, edit in ((0.1, stick), (0.12, write), (0.08, cross)):
        if rng.random() < share:
            image = edit(image, rng)
    return image
