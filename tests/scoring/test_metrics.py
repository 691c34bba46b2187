# SPDX-License-Identifier: AGPL-3.0-or-later
"""Metrics of a run: hand-made cases, brute force on random ones, figures of the 2021 system."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imgfp.scoring.metrics import bootstrap, evaluate, precision_recall_curve, rank_predictions


def pairs(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["query_id", "reference_id", "score"])


def truth_of(**references: str) -> pd.DataFrame:
    return pd.DataFrame({"query_id": list(references), "reference_id": list(references.values())})


TRUTH = truth_of(a="A", b="B", c="C", d="")


def test_no_predictions_reach_nothing():
    metrics = evaluate(pairs(), TRUTH)
    assert (metrics.micro_ap, metrics.recall_at_1, metrics.recall_at_10) == (0, 0, 0)
    assert metrics.recall_at_p90 is None and metrics.threshold_at_p90 is None
    assert (metrics.queries, metrics.positives) == (4, 3)
    assert len(precision_recall_curve(pairs(), TRUTH)) == 0


def test_no_positives_have_no_figures():
    metrics = evaluate(pairs(("d", "A", 1.0)), truth_of(d=""), pairs(("d", "A", 1.0)))
    assert metrics.micro_ap is None and metrics.recall_at_p90 is None
    assert metrics.recall_at_1 is None and metrics.candidate_recall is None


def test_figures_of_a_hand_made_run():
    run = pairs(("a", "A", 9.0), ("d", "A", 8.0), ("b", "B", 7.0), ("c", "A", 6.0), ("c", "C", 5.0))
    metrics = evaluate(run, TRUTH, candidates=run.iloc[:3])
    assert metrics.micro_ap == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    assert metrics.recall_at_p90 == pytest.approx(1 / 3) and metrics.threshold_at_p90 == 9.0
    assert metrics.recall_at_1 == pytest.approx(2 / 3) and metrics.recall_at_10 == 1
    assert metrics.candidate_recall == pytest.approx(2 / 3)
    low = evaluate(run, TRUTH, target_precision=0.6)
    assert low.recall_at_p90 == 1 and low.threshold_at_p90 == 5.0


def test_ties_count_against_the_run():
    run = pairs(("a", "A", 1.0), ("a", "B", 1.0), ("b", "B", 1.0))
    metrics = evaluate(run, TRUTH)
    assert metrics.recall_at_1 == pytest.approx(1 / 3)  # a's true pair comes behind its equal
    assert metrics.micro_ap == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert metrics.threshold_at_p90 is None
    # A threshold cannot fall inside a tie.
    curve = precision_recall_curve(run, TRUTH)
    assert curve[["threshold", "kept", "true"]].values.tolist() == [[1.0, 3, 2]]


def test_the_last_of_ten_ranks():
    ten = pairs(*[("a", f"X{i}", 2.0) for i in range(9)], ("a", "A", 1.0))
    assert evaluate(ten, TRUTH).recall_at_10 == pytest.approx(1 / 3)
    assert evaluate(pd.concat([ten, pairs(("a", "Y", 1.0))]), TRUTH).recall_at_10 == 0


def test_a_blank_truth_never_matches_a_blank_prediction():
    assert not rank_predictions(pairs(("d", "", 1.0)), TRUTH)["is_true"].any()
    missing = pd.DataFrame({"query_id": ["d"], "reference_id": [None]})
    assert evaluate(pairs(), missing).positives == 0


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (pairs(("a", "A", np.nan)), "'a'.*'A'.*finite"),
        (pairs(("a", "A", np.inf)), "finite"),
        (pairs(("a", "A", 1.0), ("a", "A", 2.0)), "'a', 'A'.*more than once"),
        (pairs(("a", "A", 1.0), ("zebra", "A", 2.0)), "zebra"),
    ],
)
def test_bad_predictions_are_refused_by_name(run, message):
    with pytest.raises(ValueError, match=message):
        evaluate(run, TRUTH)


def test_a_query_may_be_made_from_several_references():
    truth = pd.concat([TRUTH, truth_of(a="B"), truth_of(a="B")])
    run = pairs(("a", "A", 9.0), ("a", "B", 8.0), ("d", "A", 7.0), ("b", "B", 6.0))
    metrics = evaluate(run, truth, candidates=run)
    assert (metrics.queries, metrics.positives) == (4, 4)
    assert metrics.micro_ap == pytest.approx((1 + 1 + 3 / 4) / 4)
    assert metrics.recall_at_p90 == 0.5 and metrics.candidate_recall == 0.75
    assert metrics.recall_at_1 == pytest.approx(2 / 3)  # of the queries a, b and c
    interval = bootstrap(run, truth, rounds=50)
    assert interval.loc["micro_ap", "value"] == pytest.approx(metrics.micro_ap)


def test_a_query_with_a_reference_and_without_one_is_refused():
    with pytest.raises(ValueError, match="'a' with a reference and with a blank"):
        evaluate(pairs(), pd.concat([TRUTH, truth_of(a="")]))


def test_against_brute_force(rng):
    """Definitions again, the slow way: every threshold, every prefix of the worst order."""
    for _ in range(20):
        queries = [f"q{i}" for i in range(12)]
        truth = truth_of(**{q: rng.choice(["", "X", "Y"]) for q in queries})
        if not (truth["reference_id"] != "").any():
            continue
        run = pairs(
            *[(q, r, float(rng.integers(5))) for q in queries for r in "XYZ" if rng.random() < 0.6]
        )
        expected = dict(truth.to_numpy())
        positives = sum(r != "" for r in expected.values())
        rows = sorted((-s, expected[q] == r) for q, r, s in run.to_numpy())
        hits = [hit for _, hit in rows]
        average = sum(sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit) / positives
        recall, threshold = None, None
        for cut in sorted(set(run["score"]), reverse=True):
            kept = [expected[q] == r for q, r, s in run.to_numpy() if s >= cut]
            enough = sum(kept) / len(kept) >= 0.6 and sum(kept) > 0
            if enough and (recall is None or sum(kept) / positives > recall):
                recall, threshold = sum(kept) / positives, cut
        metrics = evaluate(run, truth, target_precision=0.6)
        assert metrics.micro_ap == pytest.approx(average)
        assert (metrics.recall_at_p90, metrics.threshold_at_p90) == (recall, threshold)


def bootstrap_case(rng) -> tuple[pd.DataFrame, pd.DataFrame]:
    queries = [f"q{i}" for i in range(200)]
    truth = truth_of(**{q: "X" if i % 2 else "" for i, q in enumerate(queries)})
    score = [1.5 * (i % 2) + rng.normal() for i in range(200)]
    return pairs(*[(q, "X", s) for q, s in zip(queries, score, strict=True)]), truth


def test_bootstrap_brackets_the_figure_and_repeats(rng):
    run, truth = bootstrap_case(rng)
    table = bootstrap(run, truth, rounds=200, seed=3)
    metrics = evaluate(run, truth)
    assert table.loc["micro_ap", "value"] == pytest.approx(metrics.micro_ap)
    assert table.loc["recall_at_p90", "value"] == pytest.approx(metrics.recall_at_p90)
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    assert 0.02 < table.loc["micro_ap", "high"] - table.loc["micro_ap", "low"] < 0.3
    pd.testing.assert_frame_equal(table, bootstrap(run, truth, rounds=200, seed=3))


def test_bootstrap_is_paired(rng):
    run, truth = bootstrap_case(rng)
    same = bootstrap(run, truth, run.sample(frac=1, random_state=0), rounds=50)
    assert (same[["difference", "difference_low", "difference_high", "better"]] == 0).all(axis=None)
    worse = run.assign(score=np.roll(run["score"], 1))
    gain = bootstrap(run, truth, worse, rounds=50)
    assert (gain["better"] == 1).all() and (gain["difference_low"] > 0).all()


def test_bootstrap_needs_a_true_pair():
    with pytest.raises(ValueError, match="no true pair"):
        bootstrap(pairs(), truth_of(d=""))


def read_2021(scores: Path, truth: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Result text (query, reference, score) of the 2021 system, of queries in the truth; the truth."""
    with open(scores, newline="") as file:
        rows = [(q, r, float(s)) for q, r, s in csv.reader(file, delimiter="\t")]
    with open(truth, newline="") as file:
        known = pd.DataFrame(list(csv.DictReader(file)))
    run = pairs(*rows)
    return run[run["query_id"].isin(known["query_id"])], known


def test_the_2021_system_gets_the_figures_it_reported(isc2021):
    """Its own result file on the second development half (its published figures, five digits)."""
    names = "final_result_demo.txt", "ground_truth_dev2.csv"
    metrics = evaluate(*read_2021(*(isc2021 / name for name in names)))
    assert metrics.micro_ap == pytest.approx(0.84686, abs=5e-6)
    assert metrics.recall_at_p90 == pytest.approx(0.74167, abs=5e-6)
    assert metrics.threshold_at_p90 == 39
    assert metrics.recall_at_1 == pytest.approx(0.90797, abs=5e-6)
    assert metrics.recall_at_10 == pytest.approx(0.91276, abs=5e-6)


def test_a_small_result_file_of_2021_gets_figures_worked_out_by_hand(tmp_path):
    """Sibling of the test above: whole scores with ties, queries outside the truth, blanks."""
    scores, truth = tmp_path / "final_result.txt", tmp_path / "truth.csv"
    lines = ["Q1\tR1\t90", "Q2\tR2\t50", "Q3\tR9\t50", "Q4\tR4\t40", "Q4\tR8\t41", "Q9\tR1\t99"]
    scores.write_text("".join(f"{line}\n" for line in lines))
    truth.write_text("query_id,reference_id\nQ1,R1\nQ2,R2\nQ3,\nQ4,R4\nQ5,R5\n")
    metrics = evaluate(*read_2021(scores, truth))
    # By falling score, false before true: Q1 true, Q3 false, Q2 true, Q4 false, Q4 true.
    assert metrics.micro_ap == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 4)
    assert (metrics.recall_at_p90, metrics.threshold_at_p90) == (0.25, 90)
    assert (metrics.recall_at_1, metrics.recall_at_10) == (0.5, 0.75)
    assert (metrics.queries, metrics.positives) == (5, 4)


def test_import_loads_no_heavy_library():
    heavy = "torch cv2 sklearn faiss matplotlib scipy"
    code = f"import sys, imgfp.scoring.metrics; print([m for m in '{heavy}'.split() if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
