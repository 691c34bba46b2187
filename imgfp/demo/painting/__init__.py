"""Procedural paintings: textured, varied images without copyright, as distractors.

image = painting.procedural(rng, "hills", (320, 480))
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from imgfp.demo.painting import made, nature, printed

Painter = Callable[[int, int, np.random.Generator], np.ndarray]

#: Every painter by name: (height, width, rng) -> (height,width,3) uint8 RGB.
KINDS: dict[str, Painter] = {
    painter.__name__: painter for painter in (*nature.PAINTERS, *made.PAINTERS, *printed.PAINTERS)
}


def procedural(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> np.ndarray:
    """A painted image of a kind in KINDS; size is (height, width) px, at least 64 each.

    Uneven lighting and a fine grain are added, so that no region is flat. Raises ValueError for an
    unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of picture {kind!r}; choose from {', '.join(KINDS)}")
    height, width = size
    image = KINDS[kind](height, width, rng)
    light: np.ndarray = rng.uniform(0.85, 1.12, (2, 2)).astype(np.float32)
    light = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    grain: np.ndarray = rng.standard_normal((height // 2, width // 2), np.float32)
    grain = grain * np.float32(rng.uniform(1, 4))
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
    lit = cv2.multiply(image, cv2.merge([light] * 3), dtype=cv2.CV_32F)
    return cv2.add(lit, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
