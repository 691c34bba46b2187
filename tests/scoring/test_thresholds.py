# SPDX-License-Identifier: AGPL-3.0-or-later
"""Threshold cards, reliability, drift."""

from __future__ import annotations

import re

import numpy as np
import pytest

from imgfp.scoring.thresholds import brier, drift, reliability, threshold_for_precision


def probability(log_odds: np.ndarray) -> np.ndarray:
    """Of a copy, where log-odds of copies are around 1.5 and of others around -1.5, with variance 2.25."""
    return 1 / (1 + np.exp(-log_odds * 2 * 1.5 / 2.25))


def test_no_pairs_reach_no_threshold():
    card = threshold_for_precision([], [])
    assert card.threshold is None and card.recall is None and card.pairs == 0
    assert threshold_for_precision([1, 2], [False, False]).threshold is None


def test_the_cut_with_most_recall_that_reaches_the_target():
    scores, labels = [9, 8, 7, 6, 5], [True, False, True, True, False]
    assert threshold_for_precision(scores, labels, 1.0).threshold == 9
    card = threshold_for_precision(scores, labels, 0.75)
    assert (card.threshold, card.precision, card.recall) == (6, 0.75, 1)
    highest = threshold_for_precision(scores, labels, 0.6)
    assert highest.threshold == 6  # a cut at 5 would only add a false pair


def test_a_tie_is_never_split():
    card = threshold_for_precision([5, 5, 5], [True, True, False], 0.9)
    assert card.threshold is None
    assert threshold_for_precision([5, 5, 5], [True, True, False], 0.6).threshold == 5


def test_copies_that_were_never_scored_lower_the_recall():
    card = threshold_for_precision([3, 2], [True, True], positives=4)
    assert card.recall == 0.5 and card.recall_high <= 0.5


def test_intervals_hold_the_figures_and_repeat(rng):
    labels = rng.random(400) < 0.4
    scores = labels + rng.normal(0, 0.6, 400)
    queries = np.repeat(np.arange(100), 4)
    card = threshold_for_precision(scores, labels, 0.8, queries=queries, seed=4)
    assert card.precision_low < card.precision < card.precision_high
    assert card.recall_low < card.recall < card.recall_high
    assert card == threshold_for_precision(scores, labels, 0.8, queries=queries, seed=4)


@pytest.mark.parametrize("target", [0, 1.5])
def test_bad_arguments_are_refused(target):
    with pytest.raises(ValueError, match="target_precision"):
        threshold_for_precision([1], [True], target)
    with pytest.raises(ValueError, match="finite"):
        threshold_for_precision([np.nan], [True])


def test_reliability_of_a_perfect_and_of_a_boastful_score(rng):
    scores = rng.random(20_000)
    table = reliability(scores, rng.random(20_000) < scores)
    assert len(table) == 10 and table["pairs"].sum() == 20_000
    assert table["observed"].to_numpy() == pytest.approx(table["predicted"].to_numpy(), abs=0.05)
    boast = reliability(np.full(10, 1.0), np.arange(10) < 5)
    assert boast[["low", "high", "predicted", "observed"]].values.tolist() == [[0.9, 1, 1, 0.5]]
    # Newcombe 1998, table II: 81 of 263 with Wilson's interval.
    share = reliability(np.full(263, 0.3), np.arange(263) < 81)
    assert share[["observed_low", "observed_high"]].values[0] == pytest.approx(
        [0.2553, 0.3662], abs=1e-4
    )
    assert len(reliability([], [])) == 0
    with pytest.raises(ValueError, match=r"0\.\.1"):
        reliability([3.0], [True])


def test_brier():
    assert brier([1, 0], [True, False]) == 0
    assert brier([0.5, 0.5], [True, False]) == 0.25
    assert np.isnan(brier([], []))


def test_drift_is_silent_for_the_same_and_speaks_for_another(rng):
    fitted = np.quantile(rng.beta(0.4, 0.4, 5000), np.linspace(0, 1, 101))
    same = drift(fitted, rng.beta(0.4, 0.4, 400), copies=0.5)
    assert same.warning == "" and same.stability < 0.1
    other = drift(fitted, rng.beta(0.4, 4, 400), copies=0.5)
    assert other.stability > 0.25 and "distributed unlike" in other.warning


def test_drift_says_what_a_threshold_is_worth_where_copies_are_rare(rng):
    """Batches of the same kinds of queries, of which a tenth are copies, not a half."""
    likelihoods = rng.normal(1.5, 1.5, 4000), rng.normal(-1.5, 1.5, 4000)
    fitted = np.quantile(probability(np.concatenate(likelihoods)), np.linspace(0, 1, 101))
    words = r"about (\d+) % \((\d+) to (\d+) %\) of the queries "
    inside, widths = {"are": 0, "at": 0}, {}
    for size in [4000, *20 * [400]]:
        copies, others = rng.normal(1.5, 1.5, size // 10), rng.normal(-1.5, 1.5, 9 * size // 10)
        scores, labels = probability(np.concatenate([copies, others])), np.arange(size) < size // 10
        found = drift(fitted, scores, copies=0.5, threshold=0.8)
        assert found.copies == pytest.approx(0.1, abs=0.02 if size == 4000 else 0.08)
        true = {"are": 10, "at": 100 * labels[scores >= 0.8].mean()}
        for end, what in true.items():
            share, low, high = map(int, re.search(words + end, found.warning).groups())
            inside[end] += low - 1 <= what <= high + 1
            widths.setdefault((end, size), high - low)
            assert low <= share <= high and share == pytest.approx(
                what, abs=6 if size > 400 else 30
            )
    assert min(inside.values()) >= 17  # of 21 intervals of 95 %
    assert widths["at", 4000] < widths["at", 400] / 2


def test_drift_needs_enough_queries_and_a_reference():
    assert "too few" in drift([0, 1], [0.5] * 49, copies=0.5).warning
    with pytest.raises(ValueError, match="no fitted scores"):
        drift([], [0.5] * 60, copies=0.5)


def test_drift_with_many_equal_scores():
    assert drift(np.zeros(101), np.zeros(80), copies=0.5).warning == ""
    assert (
        drift(np.zeros(101), np.ones(80), copies=0.5).warning == ""
    )  # one bin: nothing to tell apart
