# SPDX-License-Identifier: AGPL-3.0-or-later
from dataclasses import replace

import numpy as np
import pytest

from imgfp import viz, widgets
from imgfp.results import Results
from imgfp.runner import params
from imgfp.widgets import thresholds
from imgfp.widgets.thresholds import Scores


def test_counts_at_a_threshold(results):
    scores = Scores.of(results)
    every = scores.at(-1)
    assert every["kept"] == len(results.pairs) and every["recall"] == pytest.approx(5 / 6)
    tied = scores.scores[0]
    assert scores.at(tied)["kept"] == (scores.scores >= tied).sum()
    none = scores.at(tied + 1)
    assert np.isnan(none.pop("precision"))
    assert none == {"kept": 0, "true": 0, "wrong": 0, "recall": 0.0}
    near = scores.around(60, 6)
    assert len(near) == 6 and near["score"].max() >= 60 > near["score"].min()


def test_a_rounded_threshold_keeps_the_same_pairs(calibrated_run):
    scores = Scores.of(Results(calibrated_run))
    exact = scores.scores[:12].tolist()
    assert len(exact) == 12
    for threshold in exact:
        short = scores.rounded(threshold)
        assert scores.at(short)["kept"] == scores.at(threshold)["kept"]
        assert len(repr(short)) <= len(repr(threshold))


def test_the_profile_of_the_run_is_offered(own_run, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.yaml").write_text("seed: 0\n")
    tuner = widgets.ThresholdTuner(own_run, profiles=tmp_path)
    assert tuner.writer.profile.value == "a.yaml"  # it was made with none of them
    ran = own_run.record.stages["03_local_search"]
    own_run.record.stages["03_local_search"] = replace(ran, profile=str(tmp_path / "b.yaml"))
    tuner = widgets.ThresholdTuner(own_run, profiles=tmp_path)
    assert tuner.writer.profile.value == "b.yaml"


def test_without_a_profile_nothing_is_written(own_run, tmp_path):
    tuner = widgets.ThresholdTuner(own_run, profiles=tmp_path)
    tuner.writer.write()
    assert "no parameter file" in tuner.writer.written.value and not list(tmp_path.glob("*.yaml"))


def test_a_threshold_is_moved_inspected_and_written(own_run, tmp_path, text_of):
    (tmp_path / "mine.yaml").write_text("seed: 0  # of every random choice\n")
    inspector = widgets.MatchInspector(own_run)
    tuner = widgets.ThresholdTuner(own_run, inspector=inspector, profiles=tmp_path)
    assert tuner.value.value == own_run.threshold
    before = tuner.table.value
    tuner.threshold.value = np.log10(21)
    assert tuner.value.value == 20 and tuner.table.value != before
    assert inspector not in tuner.near.inspected.children
    tuner.near.places[0].children[1].click()
    assert inspector.pager.key == tuner.near.pairs[0]
    assert inspector in tuner.near.inspected.children
    assert "reported, a copy" in text_of(tuner.near.places[0])
    tuner.value.value = 68.5
    tuner.writer.write()
    assert "score_threshold set to 68.5" in tuner.writer.written.value
    assert params.read_profile(tmp_path / "mine.yaml") == {"seed": 0, "score_threshold": 68.5}


def test_probabilities_are_tuned_on_a_log_odds_scale(calibrated_run):
    results = Results(calibrated_run)
    assert results.probabilities
    tuner = widgets.ThresholdTuner(results)
    kept = (results.pairs["score"] >= results.threshold).sum()
    assert f">{kept}</td>" in tuner.table.value
    assert len(repr(tuner.value.value)) < len(repr(results.threshold))
    tuner.threshold.value = float(np.log(0.9 / 0.1))
    assert tuner.value.value == pytest.approx(0.9)
    tuner.value.value = 0.99
    assert tuner.threshold.value == pytest.approx(np.log(99))
    assert "score_threshold: 0.99" in tuner.writer.lines.value


def test_a_second_run_is_drawn_over_the_first(results, calibrated_run):
    alone, twice = (widgets.ThresholdTuner(results, other) for other in (None, results))
    assert twice.chart.children[0].value != alone.chart.children[0].value
    assert twice.curve.value != alone.curve.value
    rows = twice.table.value.split("<tr")[1:]
    assert len(rows) > 5 and all(row.count("<td") == 3 for row in rows)
    assert "its own" not in twice.table.value
    other_kind = widgets.ThresholdTuner(results, Results(calibrated_run))
    assert "its own: the score scales differ" in other_kind.table.value


def test_bars_of_two_runs_have_common_bins_and_are_not_cut_off(results, monkeypatch):
    drawn, figure = [], viz.figure
    monkeypatch.setattr(viz, "figure", lambda *size: drawn.append(figure(*size)) or drawn[-1])
    tuner = widgets.ThresholdTuner(results, results)
    more = np.repeat(tuner._second.scores, 9) * 10, np.repeat(tuner._second.is_true, 9)
    tuner._second = replace(tuner._second, scores=more[0], is_true=more[1])
    tuner._score_chart(tuner._scores)
    most = max(bars.get_data().values.max() for bars in drawn[-1][1].patches)
    assert most < drawn[-1][1].get_ylim()[1]
    edges = [bars.get_data().edges for bars in drawn[-1][1].patches]
    assert len(edges) == 6 and all((one == edges[0]).all() for one in edges)


def test_the_slider_of_the_line_covers_the_frame_of_the_chart(results):
    tuner = widgets.ThresholdTuner(results)
    chart = tuner._score_chart(tuner._scores)
    top, right, bottom, left = (float(m.rstrip("%")) for m in tuner.threshold.layout.margin.split())
    x0, y0, x1, y1 = chart.frame
    width, height = chart.size
    assert (left, 100 - right) == pytest.approx((100 * x0 / width, 100 * x1 / width), abs=0.01)
    assert (top, bottom) == pytest.approx((100 * y0 / width, 100 * (height - y1) / width), abs=0.01)
    assert (tuner.threshold.min, tuner.threshold.max) == (chart.low, chart.high)


def test_a_line_that_snaps_to_its_steps_leaves_the_threshold_alone(results):
    tuner = widgets.ThresholdTuner(results)
    measured, step = tuner.value.value, tuner.threshold.step
    tuner.threshold.value += 0.45 * step
    assert tuner.value.value == measured
    tuner.threshold.value += step
    assert tuner.value.value != measured


def test_moving_the_line_does_not_draw_the_charts_again(results, calls_of):
    tuner = widgets.ThresholdTuner(results)
    rendered, before = calls_of(thresholds.svg.Chart, "of"), tuner.table.value
    tuner.threshold.value = 1.5
    assert tuner.table.value != before and not rendered
    tuner.logarithmic.value = False
    assert len(rendered) == 2
