# SPDX-License-Identifier: AGPL-3.0-or-later
"""Photometric edits, which move no pixel: colour, blur, noise, compression.

Each takes an (H,W,3) uint8 RGB image, a strength in 0..1 (0 nearly invisible, 1 the hardest of the
ISC2021 challenge) and a numpy Generator, and returns a new image of the same shape and dtype.
"""

from __future__ import annotations

import cv2
import numpy as np

_LEVELS = np.arange(256, dtype=np.float32)
_LUMA = np.array([0.299, 0.587, 0.114])


def _mix(image: np.ndarray, matrix: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Every pixel times a (3,3) matrix plus an offset, clipped to 0..255."""
    return cv2.transform(image, np.column_stack([matrix, np.full(3, offset)]))


def _curve(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Look every value up in (256,) levels, or in (256,3) levels, one column per channel."""
    table = np.clip(np.round(levels), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table if table.ndim == 1 else np.ascontiguousarray(table[None]))


def _random_sign(rng: np.random.Generator, strength: float) -> float:
    """A value of 0.6 to 1 times `strength`, with a random sign."""
    return strength * rng.uniform(0.6, 1) * rng.choice([-1, 1])


def colour(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue; at strength 1 up to 2.5 times, hue 90 degrees."""
    bright, contrast, saturation = (np.exp(0.9 * _random_sign(rng, strength)) for _ in range(3))
    angle = np.pi / 2 * _random_sign(rng, strength) * (rng.random() < 0.5)
    # A rotation about the grey axis (Rodrigues) shifts the hue; mixing with luma scales saturation.
    axis = np.full(3, 1 / np.sqrt(3))
    rotation = cv2.Rodrigues(axis * angle)[0]
    saturate = saturation * np.eye(3) + (1 - saturation) * _LUMA
    matrix = contrast * bright * (saturate @ rotation)
    return _mix(image, matrix, 128 * (1 - contrast))


def grey(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Towards grey, completely from strength 0.5 on; above it the contrast changes too."""
    amount = min(1.0, 2 * strength)
    contrast = np.exp(_random_sign(rng, max(0.0, strength - 0.5)))
    matrix = contrast * ((1 - amount) * np.eye(3) + amount * _LUMA)
    return _mix(image, matrix, 128 * (1 - contrast))


def sepia(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Towards brown (or another single tint), completely at strength 1."""
    tint = np.array([1.18, 1.0, 0.78]) if rng.random() < 0.7 else rng.uniform(0.5, 1.3, 3)
    return _mix(image, (1 - strength) * np.eye(3) + strength * np.outer(tint, _LUMA))


def solarise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Reverse values above a threshold, which falls from 256 at strength 0 to about 80 at 1."""
    threshold = 256 - strength * rng.uniform(150, 190)
    return _curve(image, np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS))


def posterise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Round to few levels per channel: 64 at strength 0, 2 at 1."""
    levels = max(2, round(64 ** (1 - strength) * 2.5**strength))
    return _curve(image, np.round(_LEVELS / 255 * (levels - 1)) * 255 / (levels - 1))


def invert(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Towards the negative of one, two or three channels; the flat grey halfway is skipped."""
    amount = 0.6 * strength if strength < 0.5 else 0.4 + 0.6 * strength
    chosen = rng.permutation(3) < 1 + int(rng.integers(3))
    negative = (1 - amount) * _LEVELS + amount * (255 - _LEVELS)
    return _curve(image, np.where(chosen, negative[:, None], _LEVELS[:, None]))


def channels(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Towards permuted colour channels, completely at strength 1."""
    orders = ((1, 2, 0), (2, 0, 1), (1, 0, 2), (2, 1, 0), (0, 2, 1))
    swap = np.eye(3)[list(orders[rng.integers(5)])]
    return _mix(image, (1 - strength) * np.eye(3) + strength * swap)


def gamma(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Gamma correction, with an exponent of up to 3 or down to 1/3."""
    exponent = 3.0 ** _random_sign(rng, strength)
    return _curve(image, 255 * (_LEVELS / 255) ** exponent)


def vignette(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Darken towards the corners, or towards one side."""
    height, width = image.shape[:2]
    centre = rng.uniform(0.3, 0.7, 2) if rng.random() < 0.6 else rng.uniform(-0.2, 1.2, 2)
    x = (np.arange(width, dtype=np.float32) / width - np.float32(centre[0])) ** 2
    y = (np.arange(height, dtype=np.float32) / height - np.float32(centre[1])) ** 2
    light = 1 / (1 + np.float32(6 * strength) * (x[None] + y[:, None]))
    return cv2.multiply(image, cv2.merge([light] * 3), dtype=cv2.CV_8U)


def blur(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, box or motion blur; at strength 1 a sigma of 2.5 % of the short side."""
    sigma = 0.3 + 0.025 * strength * min(image.shape[:2])
    kind = rng.choice(["gaussian", "gaussian", "box", "motion"])
    if kind == "gaussian" or sigma < 1:
        return cv2.GaussianBlur(image, (0, 0), sigma)
    reach = max(1, round(1.5 * sigma))
    if kind == "box":
        return cv2.blur(image, (2 * reach + 1, 2 * reach + 1))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    angle = rng.uniform(0, np.pi)
    step = np.array([np.cos(angle), np.sin(angle)]) * reach
    ends = [tuple(int(v) for v in np.round(reach + sign * step)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def sharpen(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Unsharp mask, up to five times the detail; sometimes an emboss filter at high strength."""
    if strength > 0.5 and rng.random() < 0.25:
        reach = 1 + 2 * strength
        kernel = np.array([[-reach, -1, 0], [-1, 1, 1], [0, 1, reach]])
        return cv2.filter2D(image, -1, kernel)
    amount = 0.3 + 4.5 * strength
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 2.5))
    return cv2.addWeighted(image, 1 + amount, soft, -amount, 0)


def sketch(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Towards a drawing of the edges: dark on white, light on black, or a grey relief."""
    kind, amount = rng.choice(["pen", "chalk", "relief"]), 0.05 + 0.95 * strength
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.2)).astype(np.float32)
    gain = rng.uniform(1, 2.5)
    if kind == "relief":
        angle = rng.uniform(0, 2 * np.pi)
        slopes = [cv2.Sobel(soft, cv2.CV_32F, 1 - axis, axis, scale=0.25) for axis in (0, 1)]
        drawn = 128 + 2 * gain * (np.cos(angle) * slopes[0] + np.sin(angle) * slopes[1])
    elif kind == "pen":
        drawn = 255 + 2 * gain * np.minimum(cv2.Laplacian(soft, cv2.CV_32F) + 2, 0)
    else:
        slopes = [cv2.Sobel(soft, cv2.CV_32F, 1 - axis, axis, scale=0.5) for axis in (0, 1)]
        drawn = gain * np.sqrt(slopes[0] ** 2 + slopes[1] ** 2)
    if rng.random() < 0.4:
        drawn = drawn.mean(axis=2, keepdims=True).repeat(3, axis=2)
    mixed = amount * drawn + (1 - amount) * image
    return np.clip(mixed, 0, 255).astype(np.uint8)


def halftone(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Towards a halftone print of dots, in black on white or in each channel separately."""
    height, width = image.shape[:2]
    amount = min(1.0, 0.05 + 1.3 * strength)
    pitch = max(3.0, (0.008 + 0.022 * strength * rng.uniform(0.5, 1)) * min(height, width))
    y, x = np.mgrid[:height, :width].astype(np.float32) * np.float32(2 * np.pi / pitch)
    tone = cv2.blur(image, (round(pitch),) * 2).astype(np.float32)
    if rng.random() < 0.5:
        tone = tone.mean(axis=2, keepdims=True).repeat(3, axis=2)
        angles = [rng.uniform(0, np.pi / 2)] * 3
    else:
        angles = list(rng.uniform(0, np.pi / 2, 3))
    # A pixel is white where its tone exceeds that of a rotated periodic screen (Ulichney 1987).
    screen = [
        np.cos(np.cos(a) * x + np.sin(a) * y) + np.cos(np.cos(a) * y - np.sin(a) * x)
        for a in angles
    ]
    printed = np.clip(8 * (tone - 128 - 52 * np.stack(screen, axis=2)) + 128, 0, 255)
    return (amount * printed + (1 - amount) * image).astype(np.uint8)


def pixelise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Pixelise into square blocks, at strength 1 of 6 % of the short side."""
    height, width = image.shape[:2]
    block = 1 + 0.06 * strength * rng.uniform(0.7, 1) * min(height, width)
    small = max(1, round(width / block)), max(1, round(height / block))
    tiny = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(tiny, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def lowres(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Shrunk up to seven times and enlarged again, smoothly."""
    height, width = image.shape[:2]
    shrink = 1 + 6 * strength * rng.uniform(0.7, 1)
    small = max(1, round(width / shrink)), max(1, round(height / shrink))
    tiny = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    method = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_LINEAR
    return cv2.resize(tiny, (width, height), interpolation=method)


def jpeg(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """JPEG compression, quality 95 down to about 5."""
    quality = int(95 - strength * rng.uniform(75, 90))
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # OpenCV, not `imgfp.images`: the bytes are trusted, images may be tiny, and it takes half the time.
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise in colour or in grey (sigma 1 to 55), or salt and pepper noise (up to 15 %)."""
    height, width = image.shape[:2]
    kind = rng.random()
    if kind < 0.25:
        draw = rng.random((height, width), np.float32)
        share = np.float32(0.15 * strength + 0.002)
        noisy = image.copy()
        noisy[draw < share] = 0
        noisy[draw < share / 2] = 255
        return noisy
    depth = 3 if kind < 0.75 else 1
    grain = rng.standard_normal((height, width, depth), np.float32) * np.float32(1 + 54 * strength)
    return cv2.add(image, np.broadcast_to(grain, image.shape), dtype=cv2.CV_8U)
