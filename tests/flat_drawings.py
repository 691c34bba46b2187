# SPDX-License-Identifier: AGPL-3.0-or-later
"""Drawings in two flat colours, in which there is hardly a keypoint and only edges correlate."""

from __future__ import annotations

import cv2
import numpy as np

Colour = tuple[int, int, int]


def ring(ground: Colour, colour: Colour, radius: int = 90) -> np.ndarray:
    """A ring in the middle of a ground of one colour, (400,640,3) uint8 RGB."""
    image = np.full((400, 640, 3), ground, np.uint8)
    return cv2.circle(image, (320, 200), radius, colour, 40, cv2.LINE_AA)


def disc(ground: Colour, colour: Colour, radius: int = 120) -> np.ndarray:
    """A disc in the middle of a ground of one colour, (400,640,3) uint8 RGB."""
    image = np.full((400, 640, 3), ground, np.uint8)
    return cv2.circle(image, (320, 200), radius, colour, -1, cv2.LINE_AA)
