"""Drawing primitives: coverage, clipping, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.edits import drawing


def test_a_layer_is_blended_and_clipped_and_recorded_where_it_covers_half():
    image, shown = np.zeros((10, 12, 3), np.uint8), np.ones((10, 12), bool)
    alpha = np.full((6, 6), 255, np.uint8)
    alpha[:, 3:] = 100
    drawing.cover(image, shown, (200, 100, 50), alpha, -2, 7)
    assert image[8, 0].tolist() == [200, 100, 50] and not shown[7:, 0].any()
    assert abs(int(image[8, 2, 0]) - 200 * 100 / 255) <= 1 and shown[8, 2]
    assert not image[:7].any() and not image[:, 4:].any() and shown[:7].all()
    before = image.copy()
    drawing.cover(image, shown, (9, 9, 9), alpha, 12, 0)  # outside
    assert (image == before).all()


@pytest.mark.parametrize("face", drawing._FACES)
def test_text_is_cropped_to_its_ink(face):
    alpha = drawing.text_alpha("Two\nlines", 24, face)
    assert alpha.dtype == np.uint8 and alpha.max() == 255
    inked = np.argwhere(alpha > 0)
    assert (inked.min(axis=0) <= 3).all()
    assert (np.array(alpha.shape) - inked.max(axis=0) <= 4).all()
    assert (
        drawing.text_alpha("Two", 48, face).shape[0]
        > 1.5 * drawing.text_alpha("Two", 24, face).shape[0]
    )
    assert min(drawing.text_alpha("", 10, face).shape) >= 1


def test_stripes_cover_about_their_share():
    for seed in range(6):
        alpha = drawing.stripes(150, 200, 0.4, np.random.default_rng(seed))
        assert alpha.shape == (150, 200)
        assert 0.25 < (alpha > 127).mean() < 0.55


def test_every_sticker_has_colours_and_a_shape():
    for seed in range(30):
        colours, alpha = drawing.sticker(40, np.random.default_rng(seed))
        assert colours.shape == (*alpha.shape, 3) and alpha.dtype == np.uint8
        assert 0.02 < (alpha > 127).mean() < 0.95


@pytest.mark.parametrize("kind", ["phone", "browser", "page"])
def test_a_screen_is_drawn_outside_its_free_box_and_repeats(kind):
    first, again = (
        drawing.screen(400, 300, (60, 120, 240, 280), kind, np.random.default_rng(2))
        for _ in range(2)
    )
    assert first.shape == (400, 300, 3) and (first == again).all()
    assert first.std() > 5


def test_words_and_colours_come_from_the_generator():
    rng = np.random.default_rng(0)
    assert len(drawing.words(rng, 5).split()) == 5 and drawing.words(rng, 0)
    seen = {drawing.colour(rng) for _ in range(100)}
    assert {(0, 0, 0), (255, 255, 255)} < seen and len(seen) > 30
    assert drawing.backdrop(20, 30, rng).shape == (20, 30, 3)
