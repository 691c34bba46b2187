"""The edge-based detector, and sides that move to the nearest edge."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.crops.edges import detect_rectangles, snap_to_edges
from imgfp.geometry import iou


def test_an_opaque_paste_is_detected_first(pasted):
    found = detect_rectangles(pasted)
    assert iou(found.xyxy[0], [200, 100, 500, 300]) > 0.9
    assert found.confidence[0] > 0.6


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 500, 3), (300, 200, 3)])
def test_plain_images_have_no_rectangle(shape):
    assert len(detect_rectangles(np.full(shape, 128, np.uint8))) == 0


def test_sides_snap_to_the_edge_and_to_the_border(pasted):
    near = np.array([[209, 94, 493, 306.5]])
    assert snap_to_edges(pasted, near) == pytest.approx(np.array([[200, 100, 500, 300]]), abs=1)
    plain = np.full((100, 200, 3), 90, np.uint8)
    loose = np.array([[3.0, 20, 150, 99]])
    assert snap_to_edges(plain, loose).tolist() == [[0, 20, 150, 100]]
    assert snap_to_edges(plain, np.empty((0, 4))).shape == (0, 4)
