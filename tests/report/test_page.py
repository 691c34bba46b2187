# SPDX-License-Identifier: AGPL-3.0-or-later
import json
import re

import pytest
import small_run

from imgfp import report, store
from imgfp.datatypes import table
from imgfp.results import Results


def test_a_run_without_pairs_has_a_report(tmp_path, parse):
    run = small_run.build(tmp_path, with_truth=False)
    store.write_sheet(run / "predictions.csv", table("predictions"))
    words = parse(report.build(Results(run))).words
    assert "8 queries were compared with 6 references; files and folders that could not" in words
    assert "stand below: 2 of the references and 1 of the queries" in words


def test_the_page_is_one_file_without_external_resources(html, parse):
    page = parse(html)
    assert all(address.startswith("#") for address in page.addresses) and "link" not in page.tags
    assert page.tags.count("img") >= 3 and "svg" in page.tags
    assert "default-src 'none'" in html
    assert "url(" not in html and "@import" not in html
    assert len(html) < 1_000_000


@pytest.mark.parametrize(
    "shown", ["0.833", "Choosing the threshold", "95 % interval", "01 images", "is empty"]
)
def test_results_of_the_run_are_on_the_page(words, shown):
    assert shown in words


def test_the_target_precision_is_the_one_that_is_named(finished_run, parse):
    words = parse(report.build(Results(finished_run), target_precision=0.975, rounds=0)).words
    assert "found at 97.5 % precision" in words and "at 90 % precision" not in words
    assert words.count("97.5 %") == 3  # two tiles and the table


def test_without_a_threshold_nothing_is_reported(copied_run, parse):
    metrics = json.loads((copied_run / "metrics.json").read_text())
    never = metrics | {"threshold_at_p90": None, "recall_at_p90": None}
    (copied_run / "metrics.json").write_text(json.dumps(never))
    results = Results(copied_run, copied_run.parent / "library")
    words = parse(report.build(results, rounds=0)).words
    assert "no pair is reported as a copy" in words
    assert "False alarm" not in words and "dashed line" not in words and "Missed" in words


def test_hostile_ids_are_text(hostile_run, parse):
    html = report.build(Results(hostile_run), rounds=20)
    page = parse(html)
    assert page.tags.count("script") == 1 and not page.handlers
    assert all(address.startswith("#") for address in page.addresses)
    assert "<img src=x" not in html and "<img src=x" in page.words
    assert "{{7*7}}" in page.words and "two\\nlines" in page.words
    assert "\u202e" not in html and "\\u202e" in page.words


def test_a_run_without_truth_shows_the_best_pairs_and_those_to_review(tmp_path, parse):
    run = small_run.build(tmp_path, with_truth=False, keep_originals=False)
    words = parse(report.build(Results(run, score_threshold=60))).words
    assert "Answers" in words and "Around the threshold" in words
    assert "Likely copies" in words and "Missed" not in words


def test_recall_is_shown_per_edit_if_the_edits_are_known(copied_run):
    root = copied_run.parent
    without = report.build(Results(copied_run, root / "library"), rounds=0)
    truth_file = root / "truth.csv"
    results = Results(copied_run, root / "library", truth=str(truth_file))
    results.truth.assign(ops="mirror+crop").to_csv(root / "meta.csv", index=False)
    html = report.build(results, rounds=20)
    assert "Lowest recall first" in html and "Lowest recall first" not in without


def test_recall_is_shown_per_strength_if_it_is_known(finished_run, copied_run, parse):
    root = copied_run.parent
    truth = Results(finished_run).truth
    strengths = [
        "0.1+0.9" if reference == "china" else "0.5+0.9" for reference in truth.reference_id
    ]
    meta = truth.assign(ops="mirror+<b>crop", strengths=strengths)
    meta.to_csv(root / "meta.csv", index=False)
    results = Results(copied_run, root / "library", truth=str(root / "truth.csv"))
    words = parse(report.build(results)).words
    assert "editweakmediumstrong" in words
    assert "mirror50% of 250% of 4–" in words and "<b>crop––50% of 6" in words


def test_probabilities_get_a_reliability_diagram_and_a_check_for_drift(
    calibrated_run, words, parse
):
    calibrated = parse(report.build(Results(calibrated_run), rounds=20)).words
    assert "Brier score" in calibrated and "Brier score" not in words
    assert "too few to detect a drift of the scores" in calibrated


def test_settings_of_the_run_are_shown(html):
    assert re.search(r"local_min_confidence</td><td><bdi>0.5<", html)
