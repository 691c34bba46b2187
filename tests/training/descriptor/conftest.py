"""Small images to train on, on one thread."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def photographs():
    """Sixteen images of coarse random blocks, (48..63,64,3) uint8."""
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (4, 4, 3), np.uint8) for _ in range(16)]
    return [np.repeat(np.repeat(s, 12 + i % 4, 0), 16, 1) for i, s in enumerate(small)]
