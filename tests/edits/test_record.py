"""The record of an edited image and its primitives: boxes, corners, homographies."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.edits import families, record


def test_an_unedited_image_is_itself(ramp):
    edited = families.apply(ramp, [], np.random.default_rng(0))
    assert (edited.image == ramp).all() and edited.mask.all()
    assert (edited.homography == np.eye(3)).all()
    assert edited.quad is None and edited.box is None and edited.boxes.shape == (0, 4)
    assert edited.ops == []


def test_wrong_images_are_refused(ramp):
    for wrong in (ramp.astype(np.float32), ramp[..., 0], ramp[:0]):
        with pytest.raises(ValueError, match=r"\(H,W,3\) uint8"):
            record.start(wrong)


@pytest.mark.parametrize(
    "step",
    [
        lambda e: record.cut(e, 20, 30, 200, 170),
        lambda e: record.resize(e, 96, 300),
        lambda e: record.place(e, np.zeros((260, 300, 3), np.uint8), 11, 7),
        lambda e: record.warp(e, *record.rotation(240, 200, 30, grow=True), fill=(0, 0, 0)),
        lambda e: record.warp(
            e, np.array([[1, 0.1, 0], [0, 1, 9], [2e-4, 0, 1]]), 240, 220, fill=(0, 0, 0)
        ),
    ],
    ids=["cut", "resize", "place", "rotation", "perspective"],
)
def test_primitives_know_where_the_pixels_went(step, ramp, misses):
    distances = misses(step(record.start(ramp)))
    assert len(distances) > 5000
    assert np.abs(distances.mean(axis=0)).max() < 0.2  # 8 bit values are rounded


def test_a_canvas_grows_to_hold_a_rotated_image(ramp):
    kept = record.warp(
        record.start(ramp), *record.rotation(240, 200, 45, grow=False), fill=(0,) * 3
    )
    grown = record.warp(
        record.start(ramp), *record.rotation(240, 200, 45, grow=True), fill=(0,) * 3
    )
    assert kept.image.shape == ramp.shape
    assert grown.mask.sum() == pytest.approx(ramp[..., 0].size, rel=0.01)
    assert kept.mask.sum() < 0.9 * grown.mask.sum()


def test_a_quad_is_upright_to_within_half_a_pixel():
    quad = record.corners(10, 20)[0]
    assert record.is_upright(quad)
    assert record.is_upright(np.add(quad, [[0, 0.4], [0, 0], [0, 0], [0, 0]]))
    assert not record.is_upright(np.add(quad, [[0, 0.6], [0, 0], [0, 0], [0, 0]]))


def test_a_box_follows_axis_aligned_edits_and_goes_when_rotated(ramp):
    rng = np.random.default_rng(3)
    pasted = families.FAMILIES["padding"](ramp, 0.8, rng)
    mirrored = families.FAMILIES["mirror"](pasted, 0, rng)
    width = pasted.image.shape[1]
    assert mirrored.box[[0, 2]].tolist() == [width - pasted.box[2], width - pasted.box[0]]
    rotated = families.FAMILIES["rotate"](pasted, 0.3, rng)
    assert rotated.box is None and rotated.quad.shape == (4, 2)
    assert (rotated.boxes[0, 2:] > rotated.boxes[0, :2]).all()
