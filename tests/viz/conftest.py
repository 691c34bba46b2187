"""Fixtures for tests of drawings."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from imgfp import viz


@pytest.fixture(scope="session")
def hostile_name() -> str:
    """A name with math, markup, a line end and a bidirectional mark."""
    return "a$b_{x\n</svg><script>alert(1)</script>\u202e"


@pytest.fixture(scope="session")
def check_drawing() -> Callable:
    """Checks a `draw_*` function: it draws on the Axes it is given, returns it, and leaves its
    arguments and pyplot alone."""

    def pixels(fig: Figure) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(viz.to_png(fig))).convert("RGB"))

    def check(draw: Callable, *arguments: object) -> None:
        import matplotlib.pyplot as plt

        fig, ax = viz.figure(5, 3)
        empty = pixels(fig)
        images = [value for value in arguments if isinstance(value, np.ndarray)]
        before = [image.copy() for image in images]
        assert draw(ax, *arguments) is ax
        assert not np.array_equal(pixels(fig), empty), "nothing was drawn"
        for image, copy in zip(images, before, strict=True):
            assert np.array_equal(image, copy), "an argument was changed"
        assert not plt.get_fignums(), "pyplot knows the figure"

    return check
