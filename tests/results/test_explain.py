import numpy as np
import pandas as pd
import pytest

from imgfp.results import Results, explain


def test_the_ablation_of_a_branch_that_alone_proposed_a_pair_is_none(finished_run):
    results = Results(finished_run)
    found_by = results.candidates.groupby(["query_id", "reference_id"])["branch"].agg(set)
    only_local = found_by.index[found_by == {"local"}][0]
    scores = results.scores_without(*only_local)
    assert set(scores) == {"all branches", "without local"}
    assert scores["without local"] is None and scores["all branches"] is not None
    both = results.scores_without("q-whole", "china")
    assert both["without local"] is not None and both["without global"] is not None
    assert results.scores_without("q-grey", "coffee") == {}


def test_contributions_are_ordered_and_explain_the_score(calibrated_run):
    results = Results(calibrated_run)
    ids = results.pairs.loc[0, ["query_id", "reference_id"]]
    parts = list(results.contributions(*ids).values())
    assert sum(parts) > 0
    assert [abs(part) for part in parts] == sorted((abs(part) for part in parts), reverse=True)
    assert results.scores_without(*ids)["all branches"] == pytest.approx(results.pairs["score"][0])


def test_fusion_by_sum_has_no_contributions(finished_run):
    assert Results(finished_run).contributions("q-whole", "china") == {}


def test_a_singular_or_missing_homography_is_none():
    names = [f"h{row}{column}" for row in range(3) for column in range(3)]
    assert explain.homography_of(None) is None
    assert explain.homography_of(pd.Series({"inliers": 3})) is None
    assert explain.homography_of(pd.Series(np.full(9, np.nan), names)) is None
    assert explain.homography_of(pd.Series(np.zeros(9), names)) is None
    assert np.array_equal(explain.homography_of(pd.Series(np.eye(3).ravel(), names)), np.eye(3))


def test_the_overlap_is_given_in_the_pixels_of_each_image():
    half = np.diag([0.5, 0.5, 1])
    query, reference = explain.outlines(half, (200, 100), (60, 100))
    # Integer coordinates are the centres of pixels: the edges of an image lie half a pixel outside.
    assert reference.min(axis=0) == pytest.approx([-0.25, -0.25])
    assert reference.max(axis=0) == pytest.approx([59.5, 49.75])
    assert np.allclose(query, reference * 2)
    _, part = explain.outlines(half, (200, 100), (60, 100), np.array([0, 0, 40, 40]))
    assert part.max(axis=0) == pytest.approx([20, 20])


def test_without_a_homography_or_an_overlap_there_is_no_outline():
    assert explain.outlines(None, (200, 100), (60, 100)) == (None, None)
    away = np.array([[1.0, 0, 500], [0, 1, 0], [0, 0, 1]])
    assert explain.outlines(away, (200, 100), (60, 100)) == (None, None)
