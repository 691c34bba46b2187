"""One side of a pair: its searched part, its frame, its grey pixels, its orientations."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imgfp.geometry import project
from imgfp.verify.view import (
    DIHEDRAL_VIEWS,
    MIN_FRAME_CORRELATION,
    View,
    alignment_of,
    homography_of,
)


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ([10, 20, 200, 150], [10, 20, 200, 150]),
        ([-5, 20, 900, 150], [0, 20, 640, 150]),
        ([700, 20, 900, 150], [0, 0, 640, 427]),  # outside of the image: all of it
        (None, [0, 0, 640, 427]),
    ],
)
def test_the_searched_part_is_clipped_to_the_image(box, part):
    nothing = np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)
    box = None if box is None else np.array(box)
    view = View(*nothing, np.zeros((48, 64), np.uint8), 640, 427, box=box)
    assert view.part.tolist() == part
    low, high = view.corners.min(axis=0), view.corners.max(axis=0)
    assert [*(low + 0.5), *(high + 0.5)] == part


def test_the_frame_is_never_finer_than_the_image(make_view, photograph):
    for short_side_px, frame_px in ((300, 427 / 300), (500, 1), (0, 1)):
        view = make_view(photograph, frame_short_side_px=short_side_px)
        assert view.frame_px == pytest.approx(frame_px)


def test_alignments_of_views_are_in_pixels_of_the_grey_parts(make_view, photograph):
    box = np.array([350, 20, 617, 198])
    query, reference = make_view(photograph, 320, box=box), make_view(photograph)
    assert query.grey.shape[0] == pytest.approx(178 * 320 / 427, abs=2)
    same = alignment_of(query, reference, np.eye(3))
    assert same.query is query.grey and same.reference is reference.grey
    assert same.overlay().inlier_ratio > 0.95
    homography = np.array([[0.9, 0.1, 12], [-0.1, 1.1, 3], [1e-4, 0, 1]])
    back = homography_of(query, reference, alignment_of(query, reference, homography))
    assert back == pytest.approx(homography, rel=1e-9, abs=1e-12)
    centre = np.array([[(350 + 617) / 2 - 0.5, (20 + 198) / 2 - 0.5]])
    in_grey = project(query.to_grey_px, centre)[0]
    assert in_grey == pytest.approx(np.array(query.grey.shape[::-1]) / 2, abs=1.5)


def test_every_orientation_of_a_frame_is_among_its_views(make_bare_view, photograph):
    view = make_bare_view(photograph[:, :427])
    assert np.linalg.norm(view.dihedral_views, axis=1) == pytest.approx(1, abs=1e-5)
    for number, (flip, mirror, turn) in enumerate(DIHEDRAL_VIEWS):
        edited = photograph[:, :427]
        edited = edited.transpose(1, 0, 2) if turn else edited
        edited = edited[:: -1 if flip else 1, :: -1 if mirror else 1]
        alike = view.dihedral_views @ make_bare_view(edited).dihedral_views[0]
        assert alike.argmax() == number and alike[number] > 0.95
    noise = np.random.default_rng(0).integers(0, 255, (427, 427, 3)).astype(np.uint8)
    noise = cv2.GaussianBlur(noise, (0, 0), 8)
    alike = abs(make_bare_view(noise).dihedral_views @ view.dihedral_views[0])
    assert alike.max() < MIN_FRAME_CORRELATION
