"""Views and images that the tests of verification share."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from imgfp.sift import extract
from imgfp.verify.correlation import to_grey
from imgfp.verify.view import View


def _make_view(image: np.ndarray, thumbnail_px: int = 192, box=None, **changes) -> View:
    x, y = (0, 0) if box is None else box[:2]
    part = image if box is None else image[box[1] : box[3], box[0] : box[2]]
    keypoints, descriptors = extract(np.ascontiguousarray(part))
    keypoints[:, :2] += [x, y]
    scale = thumbnail_px / min(image.shape[:2])
    thumbnail = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    sides = {"keypoints": keypoints, "descriptors": descriptors, "thumbnail": thumbnail}
    return View(**sides | {"width": width, "height": height, "box": box} | changes)


@pytest.fixture(scope="session")
def make_view() -> Callable[..., View]:
    """make_view(image, thumbnail_px=192, box=None, **changes): the view of an image, or of a box of
    it; changes replace fields of the view."""
    return _make_view


@pytest.fixture(scope="session")
def make_bare_view() -> Callable[[np.ndarray], View]:
    """make_bare_view(image): a view without a single keypoint."""
    nothing = {"keypoints": np.empty((0, 4), np.float32), "descriptors": np.empty((0, 128), "u1")}
    return lambda image: _make_view(np.ascontiguousarray(image), **nothing)


@pytest.fixture(scope="session")
def reference(photograph) -> View:
    """The view of the photograph."""
    return _make_view(photograph)


@pytest.fixture(scope="session")
def grey(photograph) -> np.ndarray:
    """The photograph as (192,288) float32 grey."""
    return to_grey(cv2.resize(photograph, (288, 192), interpolation=cv2.INTER_AREA))


@pytest.fixture(scope="session")
def other_grey(other_photograph) -> np.ndarray:
    """The other photograph as (192,288) float32 grey."""
    return to_grey(cv2.resize(other_photograph, (288, 192), interpolation=cv2.INTER_AREA))
