# SPDX-License-Identifier: AGPL-3.0-or-later
import numpy as np
import pandas as pd
import pytest

from imgfp import report
from imgfp.report.pairs import CAUSES, best_of_each_query, sheet
from imgfp.results import Results
from imgfp.scoring.errors import FALSE_ALARMS, MISSED
from imgfp.store import decisions

EVIDENCE = {
    "refused": "",
    "transform": "mirrored",
    "inliers": 90,
    "tentative": 120,
    "ncc_inlier_ratio": 0.92,
    "ncc_chance": 0.03,
    "displaced_blocks": 12,
    "localisable_blocks": 300,
    "copy_probability": 0.97,
}


def test_evidence_is_described_in_one_line():
    assert report.evidence_in_words(pd.Series(EVIDENCE)) == (
        "mirrored; 90 of 120 matches are inliers; block NCC inlier ratio 92 % (chance 3 %); "
        "12 of 300 localisable blocks displaced; pair classifier: 0.97 probability of a copy"
    )
    assert report.evidence_in_words(None) == "not verified"


def test_what_did_not_run_is_not_described():
    evidence = pd.Series(EVIDENCE | {"copy_probability": 0.0, "localisable_blocks": 0})
    words = report.evidence_in_words(evidence)
    assert words.endswith("(chance 3 %)")


def test_too_little_structure_is_said():
    flat = EVIDENCE | {"exact_inliers": 0, "localisable_blocks": 0}
    words = [
        report.evidence_in_words(pd.Series(flat | changed))
        for changed in (
            {"colour_difference": 40.0},
            {"colour_difference": 2.0},
            {"colour_difference": np.nan},
            {"colour_difference": 40.0, "localisable_blocks": 300},
            {"colour_difference": 40.0, "exact_inliers": 1},
        )
    ]
    assert words[0].endswith("; too little structure to tell; the colours differ")
    assert words[1].endswith("; too little structure to tell; the colours agree")
    assert not any("structure" in word for word in words[2:])


def test_a_pair_that_is_held_back_as_another_photograph_says_so():
    for probability, stable, told in ((0.3, 0.6, True), (0.3, 0.95, False), (0.7, 0.6, False)):
        changed = {"copy_probability": probability, "ncc_stable": stable, "displaced_blocks": 9}
        words = report.evidence_in_words(pd.Series(EVIDENCE | changed))
        assert words.endswith("do so displaced: another photograph") is told


def test_a_shared_part_and_what_differs_outside_it_are_said():
    form = EVIDENCE | {"shared_by": 214, "shared_inliers": 70, "compared_blocks": 1500}
    form |= {"differing_blocks": 160, "unshared_differing": 130}
    words = report.evidence_in_words(pd.Series(form))
    assert (
        "90 of 120 matches are inliers; 70 of them lie in a part that 214 more references share"
        in words
    )
    assert (
        "160 of 1,500 blocks differ at full resolution, 130 of them outside the shared part"
        in words
    )


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        ("too_few", "no transform between the images: fewer than three matches agree on one"),
        ("shared_by_many", "rejected: the matches lie in text, a logo or a texture"),
    ],
)
def test_a_refusal_is_explained(refused, words):
    assert report.evidence_in_words(pd.Series({"refused": refused})).startswith(words)


def test_every_cause_of_an_error_has_a_title():
    assert set(CAUSES) == {*MISSED, *FALSE_ALARMS}


def test_every_error_is_shown_with_its_cause(words):
    assert "No branch proposed the true reference" in words and "q-negative" in words
    assert "Proposed, but scored below the threshold" in words


def test_an_error_names_the_other_reference(finished_run, parse):
    results = Results(finished_run, score_threshold=1.0)
    pairs = results.predictions
    pairs.loc[(pairs["query_id"] == "q-pasted") & (pairs["reference_id"] == "china"), "score"] = 0.5
    other = results.errors.set_index("cause")["other_reference_id"]
    words = parse(report.build(results, rounds=0)).words
    assert other["beaten_by_another"] == "coffee" and "outscored by coffee" in words
    assert other["wrong_reference_of_a_copy"] == "china" and "made from china" in words


def test_a_transform_in_words_and_an_outline_belong_to_a_pair(html, words):
    assert "mirrored" in words
    assert html.count("<polygon") >= 8 and html.count("<path d=") >= 6


def test_references_reported_together_are_shown_side_by_side(hostile_run):
    html = report.build(Results(hostile_run, score_threshold=1.0), rounds=0)
    shown = html[html.index("Possible duplicate references") :]
    shown = shown[: shown.index("</section>")]
    assert shown.count("<title>reference ") == 12 and "<title>query" not in shown
    assert "together for 2 queries" in shown and "together for one query" in shown
    assert "<script" not in shown


def test_a_reviewed_pair_shows_the_decision(copied_run, parse):
    results = Results(copied_run, copied_run.parent / "library")
    ids = results.pairs.loc[0, ["query_id", "reference_id"]]
    decisions.append(results.decisions_path, *ids, "same_scene", reviewer="Ada")
    assert "reviewed: same scene" in parse(report.build(results, rounds=0)).words


def test_a_pair_whose_image_is_missing_is_left_out(finished_run):
    results = Results(finished_run)
    rows = best_of_each_query(results).head(2).reset_index(drop=True)
    assert len(sheet(results, "title", "note", rows)["pairs"]) == 2
    rows.loc[0, "reference_id"] = "no such image"
    assert len(sheet(results, "title", "note", rows)["pairs"]) == 1
