"""Photographs to train on."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.images import resize_short_side


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Three photographs that ship with dependencies, with a short side of 120 px."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    images = [load_sample_image("china.jpg"), load_sample_image("flower.jpg"), data.astronaut()]
    return [resize_short_side(np.array(image), 120) for image in images]
