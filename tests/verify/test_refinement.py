"""A close look finds the plainest edit that explains a copy, to a fraction of a pixel, and only that."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imgfp.geometry import project
from imgfp.verify.correlation import make_overlay, to_grey
from imgfp.verify.refinement import refine_alignment

TURN = np.radians(11)
#: Edits of a picture 288 px wide and 192 px high, from reference to query pixels, and their kind.
EDITS = {
    "cropped": ("upright", [[1.4, 0, -60], [0, 1.4, -30], [0, 0, 1]]),
    "squeezed": ("upright", [[0.8, 0, 0], [0, 1.1, 4], [0, 0, 1]]),
    "mirrored": ("upright", [[-1, 0, 287], [0, 1, 0], [0, 0, 1]]),
    "turned by a quarter": ("upright", [[0, -1, 191], [1, 0, 0], [0, 0, 1]]),
    "rotated": (
        "similarity",
        [[np.cos(TURN), -np.sin(TURN), 30], [np.sin(TURN), np.cos(TURN), -20], [0, 0, 1]],
    ),
    "rotated in a mirror": (
        "similarity",
        [[-np.cos(TURN), np.sin(TURN), 270], [np.sin(TURN), np.cos(TURN), -20], [0, 0, 1]],
    ),
    "sheared": ("affine", [[1, 0.2, -10], [0.05, 1, 0], [0, 0, 1]]),
    "in perspective": ("homography", [[0.9, 0.05, 10], [0.02, 0.85, 12], [8e-4, 3e-4, 1]]),
}


@pytest.fixture
def grey(photograph) -> np.ndarray:
    return to_grey(cv2.resize(photograph, (288, 192), interpolation=cv2.INTER_AREA))


def edited(grey: np.ndarray, edit: np.ndarray) -> np.ndarray:
    size = grey.shape if abs(edit[0, 0]) < 1e-9 else grey.shape[::-1]
    return cv2.warpPerspective(grey, edit, size, flags=cv2.INTER_AREA)


def nearly(truth: np.ndarray) -> np.ndarray:
    """The map as matches give it: a few hundredths wrong."""
    return np.array([[1.02, 0.015, -3], [-0.01, 0.985, 3], [0, 0, 1]]) @ truth


@pytest.mark.parametrize("name", EDITS)
def test_the_plainest_edit_is_found_to_a_fraction_of_a_pixel(grey, name):
    kind, edit = EDITS[name]
    query, truth = edited(grey, np.array(edit, float)), np.linalg.inv(edit)
    found = refine_alignment(query, grey, nearly(truth))
    assert found.kind == kind and found.model_consistency > 0.9
    assert found.blocks > 100 and found.moved <= 0.02 * found.firm
    points = np.array([[x, y] for x in (60, 100, 140) for y in (50, 90, 130)], float)
    off_px = np.linalg.norm(project(found.homography, points) - project(truth, points), axis=1)
    assert off_px.max() < 0.5


def test_a_painted_copy_is_explained_all_the_same(grey):
    kind, edit = EDITS["cropped"]
    query = edited(grey, np.array(edit, float))
    query[::24] = query[1::24] = query[2::24] = 250
    query[60:140, 150:230] = 30
    found = refine_alignment(query, grey, nearly(np.linalg.inv(edit)))
    assert found.kind == kind and found.model_consistency > 0.8 and found.moved <= 0.05 * found.firm
    assert found.homography == pytest.approx(np.linalg.inv(edit), abs=0.2)


def test_depth_moves_blocks_that_no_edit_explains(grey):
    """As a second camera sees a scene: what is near has moved more than what is far."""
    y, x = np.indices(grey.shape, dtype=np.float32)
    near = 3 * np.sin(x / 15) * np.cos(y / 12)
    query = cv2.remap(grey, x + near, y + 0.5 * near, cv2.INTER_LINEAR)
    found = refine_alignment(query, grey, np.eye(3))
    assert found.model_consistency < 0.75
    assert found.moved > 0.2 * found.firm > 0


def test_an_unlike_picture_gives_no_kind(grey, other_photograph):
    other = to_grey(cv2.resize(other_photograph, (288, 192), interpolation=cv2.INTER_AREA))
    found = refine_alignment(other, grey, np.eye(3))
    assert found.blocks < 20
    flat = refine_alignment(np.full_like(grey, 128), grey, np.eye(3))
    assert flat.kind == "" and flat.model_consistency == flat.blocks == flat.firm == 0


def test_pictures_that_hardly_overlap_are_not_looked_at(grey):
    away = np.array([[1, 0, 284], [0, 1, 0], [0, 0, 1.0]])
    assert refine_alignment(grey, grey, away) is None


def test_flow_tells_parts_of_a_pixel_and_which_blocks_can_tell(grey):
    moved = np.array([[1, 0, 1.5], [0, 1, -0.75], [0, 0, 1.0]])
    flow = make_overlay(grey, grey, moved, 192).flow(4)
    sure = (flow.strength > 0.9) & (flow.drop > 0.1) & flow.peak
    assert sure.sum() > 50
    scale = 192 / 288  # pixels of the frame for one of the picture's
    assert np.median(flow.shifts[sure], axis=0) == pytest.approx(
        [1.5 * scale, -0.75 * scale], abs=0.1
    )

    stripes = np.tile(128 + 60 * np.sin(np.arange(288, dtype=np.float32) / 3), (192, 1))
    along = make_overlay(stripes, stripes, np.eye(3), 192).flow(4)
    assert along.drop.max() < 0.05  # a block of stripes fits anywhere along them
