# SPDX-License-Identifier: AGPL-3.0-or-later
import numpy as np
import pytest
from matplotlib.collections import LineCollection

from imgfp import viz
from imgfp.viz.pictures import overlay, subsample

EMPTY = np.empty((0, 2))


def calls(photograph: np.ndarray, name: str) -> dict:
    """Every drawing: the function, arguments with something to draw, arguments with less."""
    boxes = np.array([[10, 10, 200, 200], [5, 5, 50, 60]])
    points, ends = np.array([[100.0, 90, 20, 1.2]]), np.array([[30.0, 40], [300, 200]])
    pair, none = (photograph, photograph), np.empty((0, 4))
    return {
        "image": (viz.draw_image, (photograph, name), (photograph,)),
        "sheet": (viz.draw_contact_sheet, ([photograph] * 3, [name] * 3, 2), ([],)),
        "boxes": (viz.draw_boxes, (photograph, boxes, [name] * 2, [0]), (photograph, EMPTY)),
        "keypoints": (viz.draw_keypoints, (photograph, points, name), (photograph, none)),
        "matches": (viz.draw_matches, (*pair, ends, ends, [True, False]), (*pair, EMPTY, EMPTY)),
        "overlay": (viz.draw_overlay, pair, pair),
        "map": (viz.draw_map, ([photograph] * 3, np.eye(3, 9), [0, -1, 0]), ([], EMPTY)),
    }


@pytest.mark.parametrize("drawing", calls(np.zeros((4, 4, 3), np.uint8), ""))
@pytest.mark.parametrize("filled", [False, True])
def test_draws_on_the_axes_given_and_returns_it(
    check_drawing, photograph, hostile_name, drawing, filled
):
    draw, some, none = calls(photograph, hostile_name)[drawing]
    check_drawing(draw, *(some if filled else none))


def test_an_outline_is_drawn_and_an_empty_one_is_not(check_drawing, hostile_name):
    check_drawing(lambda ax, xy: viz.draw_outline(ax, xy, text=hostile_name), np.eye(3, 2))
    _, ax = viz.figure(3, 2)
    assert viz.draw_outline(ax, EMPTY) is ax and not ax.patches


def test_only_the_most_confident_boxes_are_drawn_and_all_chosen_ones(photograph):
    _, ax = viz.figure(4, 3)
    boxes = np.tile([10.0, 10, 90, 90], (9, 1))
    viz.draw_boxes(ax, photograph, boxes, [str(row) for row in range(9)], chosen=[7], others=2)
    assert sorted(text.get_text() for text in ax.texts) == ["0", "1", "7"]


def test_boxes_on_a_thumbnail_are_in_pixels_of_the_original(photograph):
    small = photograph[::4, ::4]
    for picture, size in ((photograph, None), (small, (640, 427))):
        fig, ax = viz.figure(4, 3)
        viz.draw_boxes(ax, picture, [[320, 0, 640, 427]], chosen=[0], size=size)
        fig.canvas.draw()
        patch = ax.patches[0].get_window_extent()
        assert patch.x0 == pytest.approx((ax.bbox.x0 + ax.bbox.x1) / 2, abs=3)


def test_match_lines_end_at_the_matched_positions(photograph):
    _, ax = viz.figure(6, 3)
    xy = np.array([[0.0, 0.0], [640, 427]])
    viz.draw_matches(ax, photograph, photograph[:, :320], xy, xy * [0.5, 1], [True, True])
    lines = [c.get_segments() for c in ax.collections if isinstance(c, LineCollection)]
    ends = next(segments for segments in lines if len(segments))
    assert len(ends) == 2
    first, last = ends
    assert first[0] == pytest.approx([0, 0]) and last[0] == pytest.approx([640 / 427, 1])
    assert last[1][0] - first[1][0] == pytest.approx(320 / 427)


def test_a_subsample_keeps_the_ends_and_the_limit():
    assert subsample(np.arange(3), 5).tolist() == [0, 1, 2]
    kept = subsample(np.arange(100), 10)
    assert len(kept) == 10 and kept[0] == 0 and kept[-1] == 99


def test_an_overlay_blends_the_two_images_or_is_white_where_they_are_equal(
    photograph, other_photograph
):
    assert np.array_equal(overlay(other_photograph, photograph, blend=0), photograph)
    assert np.array_equal(overlay(other_photograph, photograph, blend=1), other_photograph)
    same = overlay(photograph, photograph, difference=True)
    assert (same == 255).all()
    half = np.zeros(photograph.shape[:2], bool)
    half[:, :320] = True
    outside = overlay(other_photograph, photograph, half, difference=True)[:, 320:]
    assert outside.std() > 0 and not (outside == 255).all()
    with pytest.raises(ValueError, match="differ in size"):
        overlay(photograph[:10], photograph)


def test_similar_images_are_neighbours_on_a_map_and_copies_have_one_colour(photograph):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, 16))[[0, 1] * 16] + rng.normal(0, 0.05, (32, 16))
    _, ax = viz.figure(6, 3)
    viz.draw_map(ax, [photograph] * 32, vectors, [5, -1] * 4 + [-1] * 24)
    centres = np.array([image.get_extent() for image in ax.images]).reshape(-1, 2, 2).mean(2)
    apart = np.abs(centres[::2].mean(0) - centres[1::2].mean(0)).max()
    assert apart > 2.5, "two clusters lie on two sides of the 4 by 8 cells"
    assert len(np.unique(centres, axis=0)) == 32
    assert len(ax.patches) == 4 and len({patch.get_edgecolor() for patch in ax.patches}) == 1
