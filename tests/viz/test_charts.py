# SPDX-License-Identifier: AGPL-3.0-or-later
import numpy as np
import pandas as pd
import pytest

from imgfp import viz
from imgfp.scoring.thresholds import reliability


def calls(name: str) -> dict:
    """Every chart: the function, arguments with data, arguments without data."""
    thirds = np.array([0.2, 0.5, 0.9])
    groups = {"group": [name], "positives": [3], "recall": [0.5], "proposed": [0.7]}
    some = pd.DataFrame(groups)
    return {
        "scores": (viz.draw_score_histogram, (thirds, thirds / 2, 0.4), ([],)),
        "curve": (viz.draw_precision_recall, (thirds, thirds, [(name, 0.5, 0.5)]), ([], [])),
        "bars": (viz.draw_bars, ([name, "b"], [1.0, np.nan]), ([], [])),
        "votes": (viz.draw_votes, ([name, "b"], [4, 2], 0, 3), ([], [], None, 3)),
        "reliability": (
            viz.draw_reliability,
            (reliability(thirds, [0, 1, 1]),),
            (reliability([], []),),
        ),
        "breakdown": (viz.draw_breakdown, (some,), (some.head(0),)),
        "losses": (viz.draw_curve, ({name: thirds},), ({},)),
        "histograms": (viz.draw_histograms, ({name: thirds, "none": []},), ({},)),
    }


@pytest.mark.parametrize("chart", calls(""))
@pytest.mark.parametrize("filled", [False, True])
def test_draws_on_the_axes_given_and_returns_it(check_drawing, hostile_name, chart, filled):
    draw, some, none = calls(hostile_name)[chart]
    check_drawing(draw, *(some if filled else none))


def test_points_are_drawn_on_a_scale_that_contains_zero(check_drawing):
    counts, shares = np.array([0, 3, 200]), np.array([0.1, 0.5, 0.9])
    named = {"axes": ("count", "share"), "colour": "probability"}
    check_drawing(lambda ax, *xyp: viz.draw_points(ax, *xyp, **named), counts, shares, shares)


def test_a_small_group_is_as_high_as_a_large_one_and_a_mark_at_zero_is_not_on_a_log_axis():
    fig, ax = viz.figure(7, 2.6)
    groups = {"few": [50.0] * 3, "many": [2.0] * 3000}
    viz.draw_histograms(ax, groups, marks={"none": 0, "some": 5}, log=True)
    heights = {patch.get_label(): patch.get_data().values.max() for patch in ax.patches}
    assert heights["few (3)"] == heights["many (3,000)"] == 1
    assert [line.get_xdata()[0] for line in ax.lines] == [5]
    assert fig.get_tightbbox().width < 8  # inches


@pytest.mark.parametrize(
    ("scale", "scores", "threshold", "position", "tick"),
    [
        ("odds", [1e-6, 0.5, 1 - 1e-6, 0.0, 1.0], 0.99, np.log(99), "0.5"),
        ("log", [0, 3, 40, 2500], 99, 2.0, "1,000"),
    ],
)
def test_a_threshold_is_drawn_in_the_scale_of_the_axis(scale, scores, threshold, position, tick):
    _, ax = viz.figure(4, 3)
    viz.draw_score_histogram(ax, scores, [1.0], threshold, scale=scale)
    line = next(line for line in ax.lines if str(line.get_label()).startswith("threshold"))
    assert line.get_xdata()[0] == pytest.approx(position) and str(threshold) in line.get_label()
    assert tick in [text.get_text() for text in ax.get_xticklabels()]
