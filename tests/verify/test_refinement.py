"""Refinement finds the simplest model that explains a copy, to a fraction of a pixel, and only that."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imgfp.geometry import project
from imgfp.verify.correlation import Alignment
from imgfp.verify.refinement import align, refine_alignment

TURN = np.radians(11)
#: Edits of an image 288 px wide and 192 px high, from reference to query pixels, and their model.
EDITS = {
    "cropped": ("axis_aligned", [[1.4, 0, -60], [0, 1.4, -30], [0, 0, 1]]),
    "squeezed": ("axis_aligned", [[0.8, 0, 0], [0, 1.1, 4], [0, 0, 1]]),
    "mirrored": ("axis_aligned", [[-1, 0, 287], [0, 1, 0], [0, 0, 1]]),
    "rotated by 90 degrees": ("axis_aligned", [[0, -1, 191], [1, 0, 0], [0, 0, 1]]),
    "rotated": (
        "similarity",
        [[np.cos(TURN), -np.sin(TURN), 30], [np.sin(TURN), np.cos(TURN), -20], [0, 0, 1]],
    ),
    "mirrored and rotated": (
        "similarity",
        [[-np.cos(TURN), np.sin(TURN), 270], [np.sin(TURN), np.cos(TURN), -20], [0, 0, 1]],
    ),
    "sheared": ("affine", [[1, 0.2, -10], [0.05, 1, 0], [0, 0, 1]]),
    "in perspective": ("homography", [[0.9, 0.05, 10], [0.02, 0.85, 12], [8e-4, 3e-4, 1]]),
}


def edited(grey: np.ndarray, edit: np.ndarray) -> np.ndarray:
    size = grey.shape if abs(edit[0, 0]) < 1e-9 else grey.shape[::-1]
    return cv2.warpPerspective(grey, edit, size, flags=cv2.INTER_AREA)


def rough(truth: np.ndarray) -> np.ndarray:
    """The homography as matches give it: wrong by a few hundredths."""
    return np.array([[1.02, 0.015, -3], [-0.01, 0.985, 3], [0, 0, 1]]) @ truth


def test_a_slightly_wrong_alignment_is_corrected(grey):
    wrong = Alignment(grey, grey, np.array([[1.01, 0, 3.0], [0, 0.99, -3.0], [0, 0, 1]]))
    assert wrong.overlay().inlier_ratio < 0.8
    found = align(wrong)
    assert found.overlay().inlier_ratio > 0.9
    corner = project(found.homography, np.array([[280.0, 180.0]]))
    assert corner == pytest.approx(np.array([[280, 180]]), abs=1.5)


def test_an_alignment_that_is_good_or_empty_is_left_as_it_is(grey):
    for shift in (0, 1000):
        alignment = Alignment(grey, grey, np.array([[1, 0, shift], [0, 1, 0], [0, 0, 1.0]]))
        assert align(alignment) is alignment


@pytest.mark.parametrize("name", EDITS)
def test_the_simplest_model_is_found_to_a_fraction_of_a_pixel(grey, name):
    model, edit = EDITS[name]
    query, truth = edited(grey, np.array(edit, float)), np.linalg.inv(edit)
    found = refine_alignment(Alignment(query, grey, rough(truth)))
    assert found.model == model and found.model_consistency > 0.9
    assert found.aligned_blocks > 100
    assert found.displaced_blocks <= 0.02 * found.localisable_blocks
    points = np.array([[x, y] for x in (60, 100, 140) for y in (50, 90, 130)], float)
    sent = project(found.alignment.homography, points)
    assert np.linalg.norm(sent - project(truth, points), axis=1).max() < 0.5


def test_an_overpainted_copy_is_explained_all_the_same(grey):
    model, edit = EDITS["cropped"]
    query, truth = edited(grey, np.array(edit, float)), np.linalg.inv(edit)
    query[::24] = query[1::24] = query[2::24] = 250
    query[60:140, 150:230] = 30
    found = refine_alignment(Alignment(query, grey, rough(truth)))
    assert found.model == model and found.model_consistency > 0.8
    assert found.displaced_blocks <= 0.05 * found.localisable_blocks
    assert found.alignment.homography == pytest.approx(truth, abs=0.2)


def test_parallax_displaces_blocks_that_no_model_explains(grey):
    """As in a second photograph of a scene: what is near moves more than what is far."""
    y, x = np.indices(grey.shape, dtype=np.float32)
    near = 3 * np.sin(x / 15) * np.cos(y / 12)
    query = cv2.remap(grey, x + near, y + 0.5 * near, cv2.INTER_LINEAR)
    found = refine_alignment(Alignment(query, grey, np.eye(3)))
    assert found.model_consistency < 0.75
    assert found.displaced_blocks > 0.2 * found.localisable_blocks > 0


def test_an_unrelated_or_flat_image_gives_no_model(grey, other_grey):
    found = refine_alignment(Alignment(other_grey, grey, np.eye(3)))
    assert found.aligned_blocks < 20
    flat = refine_alignment(Alignment(np.full_like(grey, 128), grey, np.eye(3)))
    assert flat.model == "" and flat.model_consistency == 0
    assert flat.aligned_blocks == flat.localisable_blocks == 0


def test_images_that_hardly_overlap_are_not_refined(grey):
    apart = np.array([[1, 0, 284], [0, 1, 0], [0, 0, 1.0]])
    assert refine_alignment(Alignment(grey, grey, apart)) is None
