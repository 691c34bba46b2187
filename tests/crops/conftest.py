"""Images that the tests of crops use."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def pasted(photograph, other_photograph) -> np.ndarray:
    """(427,640,3): a photograph with another one pasted at x0, y0, x1, y1 = 200, 100, 500, 300."""
    host = photograph.copy()
    host[100:300, 200:500] = other_photograph[50:250, 100:400]
    return host
