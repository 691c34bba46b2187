import time
from dataclasses import replace

import ipywidgets as ipw
import numpy as np
import pandas as pd
import pytest
from small_run import made_with

from imgfp import report, store, viz, widgets
from imgfp.datatypes import table
from imgfp.results import Results, compare
from imgfp.runner import params
from imgfp.store import decisions
from imgfp.widgets.review import by_worth
from imgfp.widgets.thresholds import Scores
from imgfp.widgets.votes import why


@pytest.fixture(scope="module")
def results(finished_run):
    return Results(finished_run)


@pytest.fixture
def own_run(finished_run, tmp_path):
    """A copy of the run to write into."""
    import shutil

    root = shutil.copytree(finished_run.parent, tmp_path / "copy")
    return Results(root / "run", root / "library")


def pages(widget: ipw.Widget) -> str:
    """All text that a browser would show, as the kernel knows it."""
    own = str(getattr(widget, "value", ""))
    return own + "".join(pages(child) for child in getattr(widget, "children", ()))


# --------------------------------------------------------------------------------- pure functions


def test_the_pairs_nearest_to_the_threshold_teach_most():
    pairs = pd.DataFrame({"score": [9.0, 8.0, 5.0, 4.0, 1.0]})
    assert by_worth(pairs, 5.0)["score"].tolist()[:2] == [5.0, 4.0]
    assert by_worth(pairs, None)["score"].tolist()[0] == 5.0
    assert not len(by_worth(pairs.head(0), 5.0))


def test_counts_at_a_threshold(results):
    scores = Scores.of(results, "merged")
    every = scores.at(-1)
    assert every["kept"] == len(results.pairs) and every["recall"] == pytest.approx(5 / 6)
    tied = scores.scores[0]
    assert scores.at(tied)["kept"] == (scores.scores >= tied).sum()
    assert scores.at(tied + 1) | {"precision": 0} == {
        "kept": 0,
        "true": 0,
        "wrong": 0,
        "precision": 0,
        "recall": 0.0,
    }
    near = scores.around(60, 6)
    assert len(near) == 6 and near["score"].max() >= 60 > near["score"].min()


def test_a_pair_matches_itself_whole_and_an_empty_one_nothing(results):
    features = results.features("reference", "china")
    found = compare.PairMatcher(features, features).matches()
    assert found.verification.inliers.sum() > 100
    none = np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)
    assert not len(compare.PairMatcher(none, features).matches().query_xy)
    fewer = compare.PairMatcher(features, features, keypoints=50)
    assert len(fewer.matches().query_xy) <= 50


def test_a_query_is_laid_where_the_map_says(photograph):
    move = np.array([[1.0, 0, 100], [0, 1, 0], [0, 0, 1]])
    size = photograph.shape[1::-1]
    small = photograph[::2, ::2]
    warped, ground, inside = compare.warp_query(small, photograph, size, size, move, 320)
    assert warped.shape == ground.shape == (214, 320, 3)
    assert not inside[:, :48].any() and inside[5:-5, 55:].all()
    assert abs(warped[:, 60:].astype(int) - ground[:, 10:-50]).mean() < 12


def test_why_a_reference_won_or_nobody_did():
    rows = pd.DataFrame(
        {
            "reference_id": ["r<1>", "r2"],
            "score": [9.0, 4.0],
            "mean_squared_distance": [9000.0, 4000.0],
            "accepted": [False, False],
        }
    )
    assert "not below 8,000" in why(rows, {})
    assert "needs more than 20" in why(rows, {"vote_min_hits": 20})
    assert "5 more than the next" in why(rows.assign(accepted=True), {})
    assert "No keypoint" in why(rows.head(0), {})


# -------------------------------------------------------------------------------------- browsers


def test_headless_runs_get_a_line_instead(results, monkeypatch):
    monkeypatch.setenv("IMGFP_HEADLESS", "1")
    assert "make app" in widgets.show(widgets.CropBrowser, results).data
    monkeypatch.delenv("IMGFP_HEADLESS")
    assert isinstance(widgets.show(widgets.CropBrowser, results), ipw.VBox)


def test_crop_browser_counts_what_the_sliders_change(results):
    browser = widgets.CropBrowser(results)
    assert "1 of 8 queries" in browser.counts.value
    browser.local.value = 0.4
    assert "2 of 8 queries, 1 more and 0 fewer" in browser.counts.value
    assert "local_min_confidence: 0.4" in browser.lines.value
    browser.pager.filter.value = "changed by the sliders"
    assert browser.pager.key == "q-turned"
    browser.local.value = 0.5
    assert browser.pager.key is None
    browser.local.value = 0.4
    assert browser.pager.key == "q-turned"
    before, now = browser.cuts.value.split("Cut out with these sliders")
    assert "only the whole query" in before and "local" in now and "<svg" in now
    browser.pager.filter.value = "without a box"
    assert browser.pager.key not in ("q-turned", "q-pasted")
    browser.pager.filter.value = "all queries"
    browser.pager.jump.value = "pasted"
    assert browser.pager.key == "q-pasted" and "0.83" in browser.picture.value
    browser.pager.jump.value = "nowhere"
    assert browser.pager.key == "q-pasted"


def test_crop_browser_begins_where_the_run_was_cut(own_run):
    path = own_run.run.crops_parquet
    rules = own_run.crop_rules | {"local_min_confidence": 0.2, "max_aspect": 10, "max_crops": 2}
    store.save(path, store.load(path), made_with(**rules))
    browser = widgets.CropBrowser(Results(own_run.run, own_run.library))
    assert browser.settings["local_min_confidence"] == 0.2
    assert "3 in 2 of 8 queries" in browser.counts.value and "more" not in browser.counts.value
    browser.local.value = 0.6
    assert "1 in 1 of 8 queries, 0 more and 2 fewer" in browser.counts.value
    browser.pager.filter.value = "changed by the sliders"
    assert browser.pager._keys == ["q-pasted", "q-turned"]


def test_inspector_opens_pairs_and_says_why(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-pasted", "china")
    assert "pasted" in inspector.said.value and "Known truth: a copy" in inspector.said.value
    assert "<polygon" in inspector.matches.value and "branch local" in inspector.branches.value
    assert "without local" in inspector.branches.value
    lines = inspector.matches.value.count("<line")
    inspector.ratio.value = 3.0
    assert inspector.matches.value.count("<line") < lines
    inspector.single.value = 1
    assert inspector.matches.value.count("<line") == 1
    before = inspector.laid.value
    inspector.blend.value = 1.0
    assert inspector.laid.value != before
    inspector.mode.value = "flicker"
    assert "<animate" in inspector.laid.value


def test_inspector_looks_at_every_pair_afresh(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-pasted", "china")
    inspector.single.value, inspector.reading.value = 2, True
    inspector.look_at("q-whole", "china")
    assert inspector.single.value == 0 and inspector.reading.value == "found"
    assert inspector.matches.value.count("<line") > 1


def test_inspector_finds_a_mirrored_pair_only_when_it_reads_it_mirrored(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-mirrored", "astronaut")
    inspector.reading.value = True
    mirrored = inspector._compared.verification.inliers.sum()
    inspector.reading.value = False
    assert inspector._compared.verification.inliers.sum() < mirrored / 3
    inspector.reading.index = 0
    assert inspector._compared.verification.inliers.sum() == mirrored
    assert inspector.reading.index == 0, "the button that was pressed must look pressed"


def test_inspector_shows_a_pair_that_was_never_proposed(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-grey", "coffee")
    assert "never compared" in inspector.said.value and "no branch" in inspector.branches.value
    assert "No map" in inspector.laid.value


def test_inspector_without_a_pair_stays_empty_whatever_is_moved(results):
    inspector = widgets.MatchInspector(results)
    inspector.pager._filters["nearest to the threshold"] = list
    inspector.pager.filter.value = "nearest to the threshold"
    inspector.ratio.value, inspector.keypoints.value, inspector.blend.value = 2.0, 100, 0.1
    assert inspector.matches.value == inspector.laid.value == ""


def test_inspector_repeats_the_matches_that_were_verified(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-whole", "china")
    assert (
        len(inspector._compared.query_xy) == results.best_evidence("q-whole", "china")["tentative"]
    )


def test_tuner_offers_the_profile_that_made_the_run(own_run, tmp_path):
    for name, run in {"a": "elsewhere", "b": own_run.run.root, "c": "elsewhere"}.items():
        (tmp_path / f"{name}.yaml").write_text(f"run_dir: {run}\n")
    (tmp_path / "0.yaml").write_text("- no: profile\n")
    assert widgets.ThresholdTuner(own_run, profiles=tmp_path).profile.value == "b.yaml"


def test_tuner_counts_opens_and_writes(own_run, tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 0  # of every random choice\n")
    inspector = widgets.MatchInspector(own_run)
    tuner = widgets.ThresholdTuner(own_run, inspector=inspector, profiles=tmp_path)
    assert tuner.value.value == own_run.threshold
    before = tuner.said.value
    tuner.threshold.value = np.log10(21)
    assert tuner.value.value == 20 and tuner.said.value != before
    assert inspector not in tuner.looked.children
    tuner.near[0].children[1].click()
    assert inspector.pager.key == tuple(tuner._near[0][:2])
    assert inspector in tuner.looked.children and "a copy" in pages(tuner.near[0])
    tuner.value.value = 68.5
    tuner._write()
    assert params.read_profile(tmp_path / "mine.yaml") == {"seed": 0, "score_threshold": 68.5}
    tuner.source.value = "global"
    assert "uAP" in tuner.said.value


def test_probabilities_are_tuned_by_their_log_odds(calibrated_run):
    results = Results(calibrated_run)
    assert results.probabilities
    tuner = widgets.ThresholdTuner(results)
    kept = (results.pairs["score"] >= results.threshold).sum()
    assert f">{kept}</td>" in tuner.said.value
    assert len(repr(tuner.value.value)) < len(repr(results.threshold))
    tuner.threshold.value = float(np.log(0.9 / 0.1))
    assert tuner.value.value == pytest.approx(0.9)
    tuner.value.value = 0.99
    assert tuner.threshold.value == pytest.approx(np.log(99))
    assert "score_threshold: 0.99" in tuner.lines.value


def test_inspector_says_what_each_evidence_adds(calibrated_run):
    results = Results(calibrated_run)
    ids = results.pairs.loc[0, ["query_id", "reference_id"]]
    parts = results.contributions(*ids)
    assert sum(parts.values()) > 0
    assert results.scores_without(*ids)["all branches"] == pytest.approx(results.pairs["score"][0])
    assert "for it: " in widgets.MatchInspector(results).branches.value


def test_tuner_draws_a_second_run_over_the_first(results, calibrated_run):
    alone, twice = (widgets.ThresholdTuner(results, other) for other in (None, results))
    assert twice.chart.children[0].value != alone.chart.children[0].value
    assert twice.curve.value != alone.curve.value
    rows = twice.said.value.split("<tr")
    assert all(row.count("<td") == 3 for row in rows[1:]) and "its own" not in twice.said.value
    other_kind = widgets.ThresholdTuner(results, Results(calibrated_run))
    assert "its own: scores of another kind" in other_kind.said.value
    other_kind.source.value = "local"
    assert "its own" not in other_kind.said.value


def test_tuner_draws_bars_of_two_runs_equally_wide_and_whole(results, monkeypatch):
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


def test_the_line_lies_over_the_frame_of_the_chart(results):
    tuner = widgets.ThresholdTuner(results)
    chart = tuner._score_chart(tuner._scores)
    top, right, bottom, left = (float(m.rstrip("%")) for m in tuner.threshold.layout.margin.split())
    x0, y0, x1, y1 = chart.frame
    wide, tall = chart.size
    assert (left, 100 - right) == pytest.approx((100 * x0 / wide, 100 * x1 / wide), abs=0.01)
    assert (top, bottom) == pytest.approx((100 * y0 / wide, 100 * (tall - y1) / wide), abs=0.01)
    assert (tuner.threshold.min, tuner.threshold.max) == (chart.low, chart.high)


def test_a_line_that_snaps_to_its_steps_leaves_the_threshold_alone(results):
    tuner = widgets.ThresholdTuner(results)
    measured, step = tuner.value.value, tuner.threshold.step
    tuner.threshold.value += 0.45 * step
    assert tuner.value.value == measured
    tuner.threshold.value += step
    assert tuner.value.value != measured


def test_a_rounded_threshold_keeps_the_same_pairs(calibrated_run):
    scores = Scores.of(Results(calibrated_run), "merged")
    for exact in scores.scores[:12]:
        short = scores.rounded(float(exact))
        assert scores.at(short)["kept"] == scores.at(exact)["kept"]
        assert len(repr(short)) <= len(repr(float(exact)))


def test_vote_view_shows_who_won(results):
    view = widgets.VoteView(results)
    assert "won with" in view.said.value and view.bars.value[:4] == b"\x89PNG"
    view.pager.filter.value = "nobody won"
    assert "won with" not in view.said.value
    view.branch.value = "global"
    assert "similarity" in view.said.value
    view.pager._filters["somebody won"] = list
    view.pager.filter.value = "somebody won"
    assert "No query" in view.said.value and view.bars.layout.visibility == "hidden"
    view.pager.filter.value = "all queries"
    assert view.bars.layout.visibility == "visible"


def test_review_writes_each_decision_at_once_and_takes_it_back(own_run):
    queue = widgets.ReviewQueue(own_run)
    first = queue.current
    queue.buttons["copy"].click()
    assert "enter one first" in queue.note.value and queue.current == first
    queue.reviewer.value = "Ada"
    queue.reason.value = "same frame"
    queue.buttons["copy"].click()
    assert queue.current != first
    log = decisions.read(queue.path)
    assert log.loc[0, ["query_id", "reference_id", "reason"]].tolist() == [*first, "same frame"]
    queue.back.click()
    assert queue.current == first and not len(decisions.consensus(decisions.read(queue.path)))


def test_undo_reaches_back_before_a_restart_but_not_into_another_run(own_run):
    widgets.ReviewQueue(own_run, "Ada").decide("copy")
    first = decisions.last_of(decisions.read(own_run.decisions_path), "Ada")
    decisions.append(own_run.decisions_path, "elsewhere", "r", "copy", reviewer="Ada")
    again = widgets.ReviewQueue(own_run, "Bob")
    again.undo()
    assert "nothing to take back" in again.note.value
    again.reviewer.value = " Ada "
    again.undo()
    assert again.current == first
    held = decisions.consensus(decisions.read(own_run.decisions_path))
    assert held["query_id"].tolist() == ["elsewhere"]


def test_a_log_that_runs_share_settles_pairs_in_later_runs(own_run, tmp_path):
    own_run.params["decisions_log"] = str(tmp_path / "shared.jsonl")
    queue = widgets.ReviewQueue(own_run, "Ada")
    pair = queue.current
    queue.decide("same_scene")
    later = Results(own_run.run, own_run.library)
    later.params["decisions_log"] = own_run.params["decisions_log"]
    assert widgets.ReviewQueue(later, "Bob").current != pair
    assert "reviewed: same scene" in report.build(later, rounds=0).replace("<b>", "")


def test_review_opens_the_inspector_on_the_pair_to_decide(own_run):
    inspector = widgets.MatchInspector(own_run)
    queue = widgets.ReviewQueue(own_run, "Ada", inspector=inspector)
    assert not queue.looked.children
    queue.closer.value = True
    assert queue.looked.children == (inspector,) and inspector.pager.key == queue.current
    queue.decide("skip")
    assert inspector.pager.key == queue.current
    queue.closer.value = False
    assert not queue.looked.children


def test_review_by_keys(own_run):
    queue = widgets.ReviewQueue(own_run, "Ada")
    for typed in ("c", "cu", "cus", "cu", "cuxo"):
        queue.letters.value = typed
    log = decisions.read(queue.path)["decision"].tolist()
    assert log == ["copy", "unrelated", "same_scene", "undo", "shared_overlay"]


def test_two_reviewers_share_one_queue_and_a_restart_goes_on(own_run):
    ada, bob = (widgets.ReviewQueue(own_run, name) for name in ("Ada", "Bob"))
    shared = ada.current
    ada.decide("copy")
    bob.decide("unrelated")
    assert bob.current != ada.current or bob.current != shared
    assert shared not in (bob.current, widgets.ReviewQueue(own_run, "Ada").current)
    for _ in range(len(own_run.pairs)):
        ada.decide("skip")
    assert ada.current is None and "Every pair" in ada.said.value
    ada.export()
    assert own_run.run.decisions_csv.exists()


def test_hostile_ids_stay_text_in_every_browser(hostile_run):
    results = Results(hostile_run)
    shown = [
        widgets.CropBrowser(results),
        widgets.MatchInspector(results),
        widgets.ThresholdTuner(results),
        widgets.VoteView(results),
        widgets.ReviewQueue(results, "Ada"),
    ]
    for browser in shown:
        text = pages(browser)
        assert "<script" not in text and "<img src=x" not in text and "\u202e" not in text
    assert "&lt;img src=x" in pages(shown[1])


def test_everything_works_when_originals_and_truth_are_away(tmp_path):
    import small_run

    run = small_run.build(tmp_path, with_truth=False, hostile=False, keep_originals=False)
    results = Results(run)
    inspector = widgets.MatchInspector(results)
    assert "<polygon" in inspector.matches.value and "Known truth" not in inspector.said.value
    tuner = widgets.ThresholdTuner(results)
    assert "pairs reported" in tuner.said.value and "precision" not in tuner.said.value
    assert widgets.ReviewQueue(results, "Ada").current is not None


def test_browsers_of_a_run_without_pairs_say_so(tmp_path):
    import small_run

    run = small_run.build(tmp_path, with_truth=False, hostile=False)
    store.write_csv(run / "predictions.csv", table("predictions"))
    for name in ("candidates/local", "candidates/global", "evidence", "crops/detections"):
        for path in (run / name).iterdir():
            path.unlink()
    results = Results(run)
    inspector = widgets.MatchInspector(results)
    inspector.keypoints.value = 100
    assert "No pair fits" in pages(inspector)
    assert "pairs reported" in pages(widgets.ThresholdTuner(results))
    assert "No keypoint" in pages(widgets.VoteView(results))
    assert "Every pair" in pages(widgets.ReviewQueue(results, "Ada"))
    assert "0 of 8 queries" in pages(widgets.CropBrowser(results))


def test_sliders_answer_at_once(results):
    """150 ms a move is the promise; processor time leaves the neighbours of a shared machine out."""
    inspector, tuner = widgets.MatchInspector(results), widgets.ThresholdTuner(results)
    browser = widgets.CropBrowser(results)
    for knob, values in (
        (inspector.ratio, (1.5, 2.0, 2.5)),
        (inspector.blend, (0.1, 0.2, 0.3)),
        (tuner.threshold, (1.5, 1.8, 1.9)),
        (browser.local, (0.3, 0.4, 0.45)),
    ):
        spent = []
        for value in values:
            began = time.process_time()
            knob.value = value
            spent.append(time.process_time() - began)
        assert min(spent) < 0.15, f"{knob.description}: {spent}"
