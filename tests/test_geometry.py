"""Overlaps of images under a homography, and the traces that a second camera leaves in one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imgfp.geometry import (
    camera_signs,
    corners_of,
    iou,
    local_areas,
    overlap_of,
    polygon_area,
    project,
)


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


def test_points_at_infinity_are_not_finite():
    homography = np.array([[1, 0, 0], [0, 1, 0], [-0.1, 0, 1.0]])
    points = np.array([[0.0, 0], [5, 5], [10, 3]])
    projected = project(homography, points)
    assert projected[:2].tolist() == [[0, 0], [10, 10]]
    assert not np.isfinite(projected[2]).all()


def test_local_areas_are_those_of_small_squares():
    homography = np.array([[1.2, 0.3, 4], [-0.2, 0.8, 1], [1e-3, 2e-3, 1.0]])
    points = np.array([[3.0, 8], [40, 10]])
    small = 1e-4 * (corners_of(1, 1))
    for point, area in zip(points, local_areas(homography, points), strict=True):
        assert polygon_area(project(homography, point + small)) / 1e-8 == pytest.approx(
            area, rel=1e-4
        )
    assert (local_areas(np.diag([-1.0, 1, 1]), points) == -1).all()  # mirrored


def test_corners_and_areas_of_an_image():
    corners = corners_of(4, 3)
    assert corners.tolist() == [[-0.5, -0.5], [3.5, -0.5], [3.5, 2.5], [-0.5, 2.5]]
    assert polygon_area(corners) == 12


def test_iou_of_known_boxes():
    a = np.array([[0, 0, 10, 10], [20, 20, 20, 30]])
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    assert iou(a[:, None], b) == pytest.approx(np.array([[1 / 3, 1, 0], [0, 0, 0]]))
    assert iou([0, 0, 10, 10], [2, 2, 4, 4], "smaller") == pytest.approx(1)
    assert iou(np.empty((0, 1, 4)), b).shape == (0, 3)


def test_iou_row_by_row():
    one = np.array([[0, 0, 10, 10], [0, 0, 1, 1], [3, 3, 3, 3]], float)
    two = np.array([[5, 0, 15, 10], [2, 2, 3, 3], [3, 3, 3, 3]], float)
    assert iou(one, two) == pytest.approx([1 / 3, 0, 0])
