"""Images that the tests of descriptors use."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def mosaics() -> list[np.ndarray]:
    """Seven different images of coloured blocks, of different sizes, (H,W,3) uint8."""
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (6, 8, 3), np.uint8) for _ in range(7)]
    return [np.repeat(np.repeat(s, 12 + i, 0), 15, 1) for i, s in enumerate(small)]
