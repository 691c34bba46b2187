"""Images that the tests of edits use, and the check of a homography by pixels."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from imgfp.demo import painting
from imgfp.edits.record import Edited


@pytest.fixture(scope="session")
def ramp() -> np.ndarray:
    """(200,240,3): red is x, green is y, so that every pixel shows where it came from."""
    image = np.full((200, 240, 3), 128, np.uint8)
    image[..., 0] = np.arange(240)
    image[..., 1] = np.arange(200)[:, None]
    return image


@pytest.fixture(scope="session")
def hosts() -> list[np.ndarray]:
    noise = np.random.default_rng(1)
    return [noise.integers(0, 256, (90 + 50 * i, 160, 3)).astype(np.uint8) for i in range(3)]


@pytest.fixture(scope="session")
def textured() -> np.ndarray:
    """(300,400,3) with detail everywhere."""
    return painting.procedural(np.random.default_rng(0), "leaves", (300, 400))


@pytest.fixture(scope="session")
def misses() -> Callable[[Edited], np.ndarray]:
    """Function: edited ramp -> distance (n,2) px of the homography from what the pixels show, well
    inside the mask; (0,2) where the ramp is transparent and its pixels show nothing."""

    def measure(edited: Edited) -> np.ndarray:
        inside = cv2.erode(np.pad(edited.mask.astype(np.uint8), 1), np.ones((7, 7)), borderValue=0)
        y, x = np.nonzero(inside[1:-1, 1:-1])
        if (abs(edited.image[y, x, 2].astype(int) - 128) > 1).any():
            return np.empty((0, 2))
        points = np.stack([x, y, np.ones_like(x)], axis=1) @ np.linalg.inv(edited.homography).T
        return edited.image[y, x, :2].astype(float) - points[:, :2] / points[:, 2:]

    return measure
