# SPDX-License-Identifier: AGPL-3.0-or-later
import numpy as np
import pytest

from imgfp import viz
from imgfp.images import decode_image


def test_a_figure_displays_itself_and_its_axes_are_squeezed():
    assert viz.figure(2, 1)[0]._repr_png_()[:4] == b"\x89PNG"
    assert viz.figure(2, 1, rows=2, columns=3)[1].shape == (2, 3)
    assert viz.figure(2, 1, columns=3)[1].shape == (3,)


def test_a_notebook_shows_a_figure_without_empty_margin(photograph):
    fig, ax = viz.figure(6, 6)
    viz.draw_contact_sheet(ax, [photograph] * 4, columns=4)
    shown = decode_image(fig._repr_png_(), "shown")[0]
    assert shown.shape[0] < 0.4 * shown.shape[1]


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("", 5, ""),
        ("plain", 5, "plain"),
        ("one/two/three", 7, "one…ree"),
        ("a\nb\tc", 0, "a\\nb\\tc"),
        ("\u202egpj", 0, "\\u202egpj"),
        ("\u2028", 0, "\\u2028"),
        ("café ж 日本", 0, "café ж 日本"),
    ],
)
def test_labels_are_one_visible_line(text, limit, shown):
    assert viz.label(text, limit) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (143.25, "143.2"), (2.3e-7, "2.3e-07"), (1.0, "1"), (1 - 3.7e-6, "0.99999630")],
)
def test_thresholds_near_one_are_not_rounded_to_one(value, shown):
    assert viz.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (2.3e-7, "< 0.001"),
        (0.12345, "0.123"),
        (0.9, "0.900"),
        (1 - 3.7e-6, "> 0.999"),
        (1.0, "1"),
        (143.25, "143.2"),
    ],
)
def test_scores_have_the_digits_that_mean_something(value, shown):
    assert viz.score(value) == shown


@pytest.mark.parametrize("name", viz.SCALES)
def test_scales_are_invertible(name):
    scores, scale = np.array([0.001, 0.5, 0.999]), viz.SCALES[name]
    assert np.allclose(scale.inverse(scale.forward(scores)), scores)
    assert (np.diff(scale.forward(scores)) > 0).all()
