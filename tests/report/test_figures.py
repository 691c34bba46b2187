# SPDX-License-Identifier: AGPL-3.0-or-later
import numpy as np
import pandas as pd
import pytest

from imgfp import viz
from imgfp.report import figures
from imgfp.results import Results


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The Axes of every figure that is drawn, in order."""
    axes, figure = [], viz.figure

    def keep(*size: float):
        fig, ax = figure(*size)
        axes.append(ax)
        return fig, ax

    monkeypatch.setattr(viz, "figure", keep)
    return axes


def test_scores_are_drawn_by_truth_with_the_threshold(finished_run, drawn):
    figure = figures.score_figure(Results(finished_run))
    labels = drawn[0].get_legend_handles_labels()[1]
    assert [label.split(" (")[0] for label in labels[:2]] == ["not copies", "copies"]
    assert labels[2].startswith("threshold ") and "dashed line" in figure.text
    assert figure.uri.startswith("data:image/png;base64,")


def test_without_truth_all_scores_are_one_group(finished_run, drawn):
    results = Results(finished_run, score_threshold=0.0)
    vars(results)["truth"] = None
    assert "near the threshold" in figures.score_figure(results).text
    (label, *_) = drawn[0].get_legend_handles_labels()[1]
    assert label == f"all pairs ({len(results.pairs):,})"


@pytest.mark.parametrize(("target", "marked"), [(0.6, True), (1.0, True), (1.1, False)])
def test_the_curve_marks_the_target_precision_if_it_is_reached(drawn, target, marked):
    truth = pd.DataFrame({"query_id": ["a", "b"], "reference_id": ["r", "s"]})
    pairs = truth.assign(score=[2.0, 1.0]).replace("s", "r")
    figures.curve_figure(pairs, truth, target)
    assert [text.get_text() for text in drawn[0].texts] == [f"{target:.0%} precision"] * marked


def test_the_brier_score_is_in_the_caption():
    labels = np.array([True, False])
    assert "Brier score 0.0000" in figures.reliability_figure(labels.astype(float), labels).text
    assert "Brier score 1.0000" in figures.reliability_figure(1.0 - labels, labels).text


def test_branches_and_edits_are_drawn_in_the_order_given(drawn):
    branches = pd.DataFrame({"branches": ["local", "only local"], "share": [0.5, np.nan]})
    figures.branch_figure(branches)
    assert [text.get_text() for text in drawn[0].get_yticklabels()] == ["local", "only local"]
    groups = pd.DataFrame({"group": ["blur"], "positives": [4], "recall": [0.5], "proposed": [1.0]})
    figures.edit_figure(groups)
    assert [text.get_text() for text in drawn[1].get_yticklabels()] == ["blur  (4)"]
