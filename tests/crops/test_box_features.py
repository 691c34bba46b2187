"""Features of boxes: finite for any image, and different for a paste."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.crops.box_features import N_FEATURES, box_features
from imgfp.datatypes import Boxes

NOTHING = Boxes(np.empty((0, 4)), np.empty(0))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 400, 3), (60, 80, 3)])
def test_features_are_finite_for_any_image_and_no_boxes_give_no_rows(shape, rng):
    image = rng.integers(0, 256, shape).astype(np.uint8)
    height, width = shape[:2]
    found = Boxes([[0, 0, width, height], [0, 0, width / 2, height / 3]], [0.9, 0.2])
    features = box_features(image, found.xyxy, found, NOTHING)
    assert features.shape == (2, N_FEATURES) and features.dtype == np.float32
    assert np.isfinite(features).all()
    assert box_features(image, NOTHING.xyxy, NOTHING, NOTHING).shape == (0, N_FEATURES)


def test_a_paste_differs_from_a_box_beside_it(pasted):
    beside = [[200, 100, 500, 300], [100, 60, 330, 260]]
    right, wrong = box_features(pasted, np.array(beside), NOTHING, NOTHING)
    on_edge = [1, 6, 11, 16]  # share of each side that lies on an edge
    assert (right[on_edge] > 0.6).all()
    assert (wrong[on_edge] < 0.6).any()


def test_boxes_of_either_detector_count(pasted):
    xyxy = np.array([[200, 100, 500, 300], [0, 0, 90, 90]], float)
    detected = Boxes([[201, 100, 500, 300]], [0.8])
    features = box_features(pasted, xyxy, detected, NOTHING)
    assert features[:, -8].tolist() == pytest.approx([0.8, 0])  # of the box that nearly coincides
    assert features[:, -5].tolist() == pytest.approx([0.8, 0.8])  # the image's best
    assert not features[:, -4:].any()  # no edges given
