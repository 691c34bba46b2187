"""Generated scenes for the training of the crop detector."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.training.crops import scene_edits, scenes
from imgfp.training.crops.scenes import KINDS, WITHOUT_PASTE, Photographs, make_scene


def test_no_photographs_is_an_error():
    with pytest.raises(ValueError, match="no photographs"):
        Photographs([])


def test_a_scene_depends_on_seed_and_number_only(photographs):
    first = make_scene(photographs, 3, 5)
    make_scene(photographs, 3, 6)
    again = make_scene(photographs, 3, 5)
    assert (first.image == again.image).all()
    assert (first.boxes == again.boxes).all()
    assert make_scene(photographs, 4, 5).image.tobytes() != first.image.tobytes()


def test_a_third_of_the_scenes_contain_no_paste():
    assert sum(KINDS[kind] for kind in WITHOUT_PASTE) == pytest.approx(1 / 3, abs=0.01)
    assert sum(KINDS.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", list(KINDS))
def test_boxes_of_each_kind_lie_inside_and_have_an_area(kind, photographs, monkeypatch):
    monkeypatch.setattr(scenes, "KINDS", {kind: 1.0})
    generated = [make_scene(photographs, 0, number) for number in range(12)]
    for scene in generated:
        height, width = scene.image.shape[:2]
        assert scene.image.dtype == np.uint8
        assert (scene.boxes >= 0).all()
        assert (scene.boxes[:, 2:] > scene.boxes[:, :2]).all()
        assert (scene.boxes[:, 2:] <= [width, height]).all()
    counts = [len(scene.boxes) for scene in generated]
    if kind in WITHOUT_PASTE:
        assert max(counts) == 0
    else:  # a paste thinner than 8 % of the image has no box
        assert np.mean(np.array(counts) > 0) > 0.7


@pytest.mark.parametrize("kind", ["paste", "collage", "screenshot", "meme", "bordered"])
def test_boxes_are_exact(kind, monkeypatch):
    """Magenta pastes on dark grey hosts: the magenta pixels are the boxes, in any orientation."""
    monkeypatch.setattr(scenes, "KINDS", {kind: 1.0})
    monkeypatch.setattr(scene_edits, "edit", lambda image, rng: image)
    monkeypatch.setattr(scene_edits, "over_everything", lambda image, rng: image)
    marked = np.full((90, 120, 3), (255, 0, 255), np.uint8)
    host = np.full((90, 120, 3), 60, np.uint8)
    monkeypatch.setattr(scenes, "_host", lambda draw, rng: host.copy())
    for number in range(6):
        scene = make_scene([marked], 1, number)
        magenta = (np.abs(scene.image.astype(int) - (255, 0, 255)).max(2) < 40).astype(float)
        truth = np.zeros_like(magenta)
        for x0, y0, x1, y1 in scene.boxes.round().astype(int):
            truth[y0:y1, x0:x1] = 1
        # Rounded corners and text cover a small part of the paste; nothing is outside the boxes.
        assert magenta[truth == 1].mean() > 0.85
        assert magenta[truth == 0].sum() <= 0.01 * truth.sum()
