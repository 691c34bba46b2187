"""Overlaps of images under a homography, and the traces that a second camera leaves in one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imgfp.geometry import camera_signs, overlap_of


def test_an_overlap_is_clipped_to_both_images():
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    shift = np.array([[1, 0, 6], [0, 1, 0], [0, 0, 1.0]])
    polygon = overlap_of(square, square, shift)
    assert polygon.min(axis=0).tolist() == [6, 0] and polygon.max(axis=0).tolist() == [10, 10]
    assert len(overlap_of(square, square, shift * [[1, 0, 9], [0, 1, 0], [0, 0, 1]])) == 0


def _camera(degrees: float) -> np.ndarray:
    """A plane seen by a camera that was rotated around it."""
    turn = cv2.Rodrigues(np.array([0, np.radians(degrees), 0]))[0]
    lens = np.array([[400.0, 0, 200], [0, 400, 150], [0, 0, 1]])
    plane = np.column_stack([turn[:, 0], turn[:, 1], [0, 0, 1]])
    return lens @ plane @ np.linalg.inv(lens)


@pytest.mark.parametrize(
    ("homography", "axis_aligned", "square", "flat"),
    [
        (np.diag([-0.4, 0.7, 1]), True, True, True),  # mirrored and squeezed
        (np.array([[0, -2.0, 5], [2, 0, 7], [0, 0, 1]]), True, True, True),  # rotated by 90 degrees
        (np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]), False, True, True),
        (np.array([[1, 0.3, 0], [0, 1, 0], [0, 0, 1]]), False, False, True),
        (_camera(20), False, False, False),
    ],
)
def test_a_second_camera_leaves_traces_that_editing_does_not(
    homography, axis_aligned, square, flat
):
    overlap = np.array([[100.0, 40], [400, 40], [400, 300], [100, 300]])
    tilt, shear, perspective = camera_signs(homography, overlap)
    assert (tilt < 1e-6) == axis_aligned and (shear < 1e-6) == square
    assert (perspective < 1e-9) == flat
