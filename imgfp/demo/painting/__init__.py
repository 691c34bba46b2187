"""Painted pictures: textured, varied, no two alike; stand-ins for photographs that nobody has to own.

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
    work.__name__: work for work in (*nature.PAINTERS, *made.PAINTERS, *printed.PAINTERS)
}


def procedural(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> np.ndarray:
    """A painted picture of a kind out of KINDS; size is (height, width) px, at least 64 each.

    It is lit from one side and given a fine grain, so that no area is wholly flat. Raises ValueError
    for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of picture {kind!r}; there are {', '.join(KINDS)}")
    height, width = size
    image = KINDS[kind](height, width, rng)
    light = rng.uniform(0.85, 1.12, (2, 2)).astype(np.float32)
    light = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    grain = rng.standard_normal((height // 2, width // 2), np.float32) * np.float32(
        rng.uniform(1, 4)
    )
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
    lit = cv2.multiply(image, cv2.merge([light] * 3), dtype=cv2.CV_32F)
    return cv2.add(lit, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
