# SPDX-License-Identifier: AGPL-3.0-or-later
import ipywidgets as ipw
import pytest
import small_run

from imgfp import store, widgets
from imgfp.datatypes import table
from imgfp.results import Results
from imgfp.viz.svg import escaped
from imgfp.widgets.base import Pager, facts_table, slider

BROWSERS = [
    widgets.CropBrowser,
    widgets.MatchInspector,
    widgets.ThresholdTuner,
    widgets.VoteView,
    widgets.ReviewQueue,
]


def test_headless_runs_get_a_line_of_text(results, monkeypatch):
    monkeypatch.setenv("IMGFP_HEADLESS", "1")
    assert "make app" in widgets.show(widgets.CropBrowser, results).data
    monkeypatch.delenv("IMGFP_HEADLESS")
    assert isinstance(widgets.show(widgets.CropBrowser, results), ipw.VBox)


def test_a_pager_steps_around_the_ends_and_jumps_to_the_next_match():
    shown = []
    pager = Pager({"all": lambda: ["a1", "b", "a2"], "none": lambda: []}, shown.append)
    pager.refresh()
    pager.step(-1)
    pager.step(1)
    assert shown == ["a1", "a2", "a1"] and pager.where.value == "1 of 3"
    pager.jump.value = "a"
    assert pager.key == "a2"
    pager.jump.value = "x"
    assert pager.key == "a2" and pager.where.value == "no such id"
    pager.filter.value = "none"
    assert pager.key is None and pager.where.value == "none"
    pager.step(1)
    assert pager.key is None
    pager.jump.value = "a2"
    assert pager.key == "a2" and pager.filter.value == "all", "an id that the filter hides"


def test_a_pager_resets_a_filter_that_hides_the_wanted_key_and_shows_it_once():
    shown = []
    pager = Pager({"all": lambda: [1, 2, 3], "odd": lambda: [1, 3]}, shown.append)
    pager.filter.value = "odd"
    shown.clear()
    pager.go(3)
    assert pager.filter.value == "odd" and shown == [3]
    pager.go(2)
    assert pager.filter.value == "all" and shown == [3, 2]


def test_a_table_escapes_names_values_and_hints():
    html = facts_table([("<b>", "<i>", 2)], {"<b>": '"<u>'})
    assert html.count("<td") == 3 and 'title="&quot;&lt;u&gt;"' in html
    assert "<b>" not in html and "<i>" not in html


@pytest.mark.parametrize(("value", "shown"), [(-1, 0), (0.4, 0.4), (7, 1)])
def test_a_slider_starts_within_its_range(value, shown):
    assert slider("name", value, 0, 1, 0.1).value == shown


@pytest.mark.parametrize("kind", BROWSERS)
def test_hostile_ids_are_text_in_every_browser(hostile_run, text_of, kind):
    browser = kind(Results(hostile_run))
    text = text_of(browser)
    if isinstance(browser, widgets.ReviewQueue):
        show, keys = browser.next, browser._queue
    elif isinstance(browser, widgets.ThresholdTuner):
        show, keys = None, []
    else:
        show, keys = browser.pager.go, browser.pager._keys
    for key in keys[:12]:
        show(key)
        text += text_of(browser)
    assert "<script" not in text and "<img src=x" not in text and "\u202e" not in text
    hostile = [escaped(name, 20)[:16] for name in small_run.HOSTILE[:5]]
    assert any(name in text for name in hostile), "no hostile id was shown"


def test_browsers_work_without_originals_and_without_truth(tmp_path):
    run = small_run.build(tmp_path, with_truth=False, hostile=False, keep_originals=False)
    results = Results(run)
    inspector = widgets.MatchInspector(results)
    assert "<polygon" in inspector.matches.value
    assert "Ground truth" not in inspector.summary.value
    tuner = widgets.ThresholdTuner(results)
    assert "pairs reported" in tuner.table.value and "precision" not in tuner.table.value
    assert widgets.ReviewQueue(results, "Ada").current is not None


def test_browsers_of_a_run_without_pairs_are_empty(tmp_path, text_of):
    run = small_run.build(tmp_path, with_truth=False, hostile=False)
    store.write_sheet(run / "predictions.csv", table("predictions"))
    for name in ("candidates/local", "candidates/global", "evidence", "crops/detections"):
        paths = list((run / name).iterdir())
        assert paths, f"{name} is empty already"
        for path in paths:
            path.unlink()
    results = Results(run)
    inspector = widgets.MatchInspector(results)
    inspector.keypoints.value = 100
    assert "No pair matches" in text_of(inspector)
    assert "pairs reported" in text_of(widgets.ThresholdTuner(results))
    assert "No keypoint" in text_of(widgets.VoteView(results))
    assert "Every pair" in text_of(widgets.ReviewQueue(results, "Ada"))
    assert "0 of 8 queries" in text_of(widgets.CropBrowser(results))
