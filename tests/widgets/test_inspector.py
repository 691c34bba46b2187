# SPDX-License-Identifier: AGPL-3.0-or-later
import base64
import re

import pytest

from imgfp import widgets
from imgfp.report.evidence import SHOWN
from imgfp.results import Results, compare
from imgfp.verify.evidence import COLUMNS
from imgfp.widgets import inspector as module


def test_a_pair_is_shown_and_explained(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-pasted", "china")
    assert "pasted" in inspector.summary.value and "Ground truth: a copy" in inspector.summary.value
    assert "<polygon" in inspector.matches.value and "branch local" in inspector.branches.value
    assert "without local" in inspector.branches.value
    assert ">relation</td>" in inspector.facts.value and ">contains (" in inspector.facts.value
    lines = inspector.matches.value.count("<line")
    inspector.ratio.value = 3.0
    assert 0 < inspector.matches.value.count("<line") < lines
    inspector.single.value = 1
    assert inspector.matches.value.count("<line") == 1
    before = inspector.overlay.value
    inspector.blend.value = 1.0
    assert inspector.overlay.value != before
    inspector.mode.value = "flicker"
    assert "<animate" in inspector.overlay.value
    inspector.mode.value = "difference"
    assert "<animate" not in inspector.overlay.value and "<image" in inspector.overlay.value


def test_outliers_can_be_hidden(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-pasted", "china")
    inspector.outliers.value = False
    inliers = int(inspector._matches.verification.inliers.sum())
    assert inspector.matches.value.count("<line") == inliers > 0


def test_every_column_shown_is_evidence_and_has_its_meaning_as_a_tooltip(results):
    assert set(SHOWN) <= set(COLUMNS)
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-pasted", "china")
    for name in ("inliers", "ncc_inlier_ratio", "ncc_chance", "copy_probability"):
        label, meaning = SHOWN[name]
        assert f'title="{meaning[:30]}' in inspector.facts.value
        assert f">{label}</td>" in inspector.facts.value


def test_the_choices_of_one_pair_do_not_carry_over_to_the_next(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-pasted", "china")
    inspector.single.value, inspector.mirroring.value = 2, True
    inspector.look_at("q-whole", "china")
    assert inspector.single.value == 0 and inspector.mirroring.value == "verified"
    assert inspector.matches.value.count("<line") > 1


def test_a_mirrored_pair_matches_only_mirrored(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-mirrored", "astronaut")
    inspector.mirroring.value = True
    mirrored = inspector._matches.verification.inliers.sum()
    inspector.mirroring.value = False
    assert inspector._matches.verification.inliers.sum() < mirrored / 3
    inspector.mirroring.index = 0
    assert inspector._matches.verification.inliers.sum() == mirrored
    assert inspector.mirroring.index == 0, "the button that was pressed must look pressed"


def test_the_case_file_of_the_pair_on_view_is_offered(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-pasted", "china")
    inspector.case.click()
    links = dict(
        re.findall(r'download="(.*?)" href="data:.*?;base64,(.*?)"', inspector.files.value)
    )
    page = base64.b64decode(links["case.html"]).decode()
    assert "<title>imgfp case: q-pasted and china</title>" in page
    assert base64.b64decode(links["case.pdf"]).startswith(b"%PDF")
    inspector.look_at("q-whole", "china")
    assert inspector.files.value == "", "the file of another pair"


def test_a_pair_that_was_never_proposed_can_be_shown(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-grey", "coffee")
    assert "not verified" in inspector.summary.value and "no branch" in inspector.branches.value
    assert "No transform" in inspector.overlay.value


def test_what_was_tried_on_one_pair_does_not_carry_over(results, calls_of):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-pasted", "china")
    inspector.ratio.value, inspector.keypoints.value, inspector.single.value = 2.0, 100, 1
    inspector.mirroring.value = True
    matched = calls_of(module, "pair_matcher")
    inspector.look_at("q-whole", "china")
    assert (inspector.ratio.value, inspector.keypoints.value) == (module.RATIO, 0)
    assert (inspector.single.value, inspector.mirroring.value) == (0, "verified")
    assert len(matched) == 1, "the pair is matched once"


def test_without_a_pair_the_inspector_stays_empty(results):
    inspector = widgets.MatchInspector(results)
    inspector.pager._filters["nearest to the threshold"] = list
    inspector.pager.filter.value = "nearest to the threshold"
    inspector.ratio.value, inspector.keypoints.value, inspector.blend.value = 2.0, 100, 0.1
    assert inspector.matches.value == inspector.overlay.value == ""


def test_the_matches_are_those_of_verification(results):
    inspector = widgets.MatchInspector(results)
    inspector.look_at("q-whole", "china")
    best = results.best_evidence("q-whole", "china")
    assert len(inspector._matches.query_xy) == best["tentative"] > 0


@pytest.mark.parametrize(
    ("filtered", "is_true"),
    [("missed copies (below the threshold)", True), ("false alarms (above the threshold)", False)],
)
def test_errors_are_filtered_by_truth_and_threshold(finished_run, filtered, is_true):
    results = Results(finished_run)
    scores = results.pairs.loc[results.pairs["is_true"] == is_true, "score"]
    # Half of the pairs of this kind are on the wrong side.
    results = Results(finished_run, score_threshold=float(scores.median()))
    inspector = widgets.MatchInspector(results)
    inspector.pager.filter.value = filtered
    pairs = results.pairs.set_index(["query_id", "reference_id"]).loc[inspector.pager._keys]
    assert len(pairs) and (pairs["is_true"] == is_true).all()
    assert ((pairs["score"] >= results.threshold) != is_true).all()


def test_the_contribution_of_each_feature_is_shown(calibrated_run):
    results = Results(calibrated_run)
    inspector = widgets.MatchInspector(results)
    parts = results.contributions(*inspector.pager.key)
    name, value = next(iter(parts.items()))
    assert f"log-odds: {name.replace('_', ' ')}" in inspector.branches.value
    assert f"{value:+.2f}" in inspector.branches.value


def test_a_slider_neither_searches_nor_warps_again(results, calls_of):
    inspector = widgets.MatchInspector(results)
    searches, warps = calls_of(compare, "nearest_two"), calls_of(module, "warp_query")
    inspector.look_at("q-pasted", "china")
    assert len(searches) == len(warps) == 1
    shown = inspector.matches.value, inspector.overlay.value
    inspector.ratio.value, inspector.blend.value = 2.0, 0.2
    assert inspector.matches.value != shown[0] and inspector.overlay.value != shown[1]
    assert len(searches) == len(warps) == 1
