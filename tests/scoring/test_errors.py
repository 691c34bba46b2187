"""Error analysis: groups of queries, branches, causes of missed copies and false alarms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from imgfp.scoring.errors import (
    branch_breakdown,
    breakdown,
    changes,
    duplicate_references,
    edit_groups,
    sort_errors,
)


def frame(columns: str, *rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns.split())


def pairs(*rows: tuple) -> pd.DataFrame:
    return frame("query_id reference_id score", *rows)


TRUTH = frame(
    "query_id reference_id",
    *[("a", "A"), ("b", "B"), ("c", "C"), ("d", "D"), ("x", ""), ("y", ""), ("z", "")],
)


def test_without_predictions_every_copy_is_missed_as_not_proposed():
    table = sort_errors(pairs(), TRUTH, pairs(), 1.0)
    assert table["cause"].tolist() == ["not_proposed"] * 4
    assert set(table["kind"]) == {"missed"} and table["score"].isna().all()


def test_each_missed_pair_has_its_cause():
    run = pairs(("a", "A", 9.0), ("b", "A", 4.0), ("b", "B", 3.0), ("c", "C", 2.0), ("x", "C", 1.0))
    boxes = frame("query_id x0 y0 x1 y1", ("d", 0.0, 0.0, 10.0, 10.0), ("c", *[np.nan] * 4))
    crops = frame("query_id x0 y0 x1 y1", ("d", 8.0, 8.0, 20.0, 20.0))
    table = sort_errors(run, TRUTH, run, 5.0, true_boxes=boxes, crops=crops)
    causes = dict(zip(table["query_id"], table["cause"], strict=True))
    assert causes == {"b": "beaten_by_another", "c": "under_scored", "d": "crop_box_wrong"}
    assert table.set_index("query_id").loc["b", "other_reference_id"] == "A"
    good = crops.assign(x0=1.0, y0=1.0, x1=10.0, y1=10.0)
    table = sort_errors(run, TRUTH, run, 5.0, true_boxes=boxes, crops=good)
    assert table.set_index("query_id").loc["d", "cause"] == "not_proposed"


def test_a_proposed_pair_without_a_score_is_under_scored_or_beaten():
    proposed = pairs(("a", "A", 1.0), ("b", "B", 1.0))
    table = sort_errors(pairs(("b", "Q", 2.0)), TRUTH, proposed, 5.0).set_index("query_id")
    assert table.loc["a", "cause"] == "under_scored"
    assert table.loc["b", "cause"] == "beaten_by_another"


def test_each_false_alarm_has_its_cause():
    run = pairs(
        ("a", "A", 9.0), ("a", "A2", 9.0), ("b", "Q", 9.0), ("c", "C", 9.0), ("d", "D", 9.0),
        ("x", "S", 9.0), ("x", "H", 9.0), ("y", "H", 9.0), ("z", "H", 9.0), ("y", "G", 9.0),
        ("z", "L", 9.0), ("x", "P", 9.0), ("y", "low", 1.0),
    )  # fmt: skip
    meta = frame("query_id hard_negative_of", ("x", "S"), ("y", np.nan))
    evidence = frame(
        "query_id reference_id inliers ncc_inlier_ratio",
        *[("x", "P", 20, 0.95), ("y", "G", 0, 0.1), ("z", "L", 8, 0.2), ("z", "L", 0, 0.1)],
    )
    table = sort_errors(run, TRUTH, run, 5.0, evidence=evidence, meta=meta)
    got = {(q, r): cause for q, r, cause in table[["query_id", "reference_id", "cause"]].to_numpy()}
    assert got == {
        ("a", "A2"): "duplicate_of_the_truth",
        ("b", "Q"): "wrong_reference_of_a_copy",
        ("x", "S"): "same_scene_other_photograph",
        ("x", "P"): "suspicious_truth",
        **{(q, "H"): "reference_matches_many_queries" for q in "xyz"},
        ("y", "G"): "no_geometric_evidence",
        ("z", "L"): "look_alike",
        ("b", "B"): "not_proposed",
    }


def test_references_kept_for_one_query_are_duplicates():
    run = pairs(("a", "B", 9.0), ("a", "A", 7.0), ("b", "A", 6.0), ("b", "B", 5.0), ("a", "C", 1.0))
    table = duplicate_references(run, 4.0)
    assert table.to_numpy().tolist() == [["A", "B", 2, 7.0]]
    assert len(duplicate_references(pairs(), 0.0)) == 0


def test_edit_groups_split_names():
    meta = frame("query_id ops", ("a", "crop+crop+jpeg"), ("b", ""), ("c", None))
    assert edit_groups(meta).to_numpy().tolist() == [["a", "crop"], ["a", "jpeg"]]
    assert len(edit_groups(meta.iloc[1:])) == 0


def test_edit_groups_by_strength():
    rows = ("a", "crop+jpeg+crop", "0.1+1.00+0.5"), ("b", "", ""), ("c", "blur", "0.67")
    groups = edit_groups(frame("query_id ops strengths", *rows), by_strength=True)
    names = ["crop weak", "jpeg strong", "crop medium", "blur strong"]
    assert groups["group"].tolist() == names and groups["query_id"].tolist() == list("aaac")
    with pytest.raises(ValueError, match="'q': `ops` has 2 entries and `strengths` 1"):
        edit_groups(frame("query_id ops strengths", ("q", "crop+jpeg", "0.1")), by_strength=True)


def test_breakdown_counts_copies_and_alarms_apart():
    run = pairs(("a", "A", 9.0), ("b", "B", 3.0), ("x", "A", 9.0), ("y", "A", 1.0))
    groups = frame(
        "query_id group",
        *[("a", "crop"), ("b", "crop"), ("b", "blur"), ("x", "crop"), ("y", "crop"), ("d", "blur")],
    )
    table = breakdown(run, TRUTH, groups, 5.0, candidates=run).set_index("group")
    assert table.index.tolist() == ["blur", "crop"]  # worst first
    assert table.loc["crop", ["positives", "recall", "recall_at_1", "proposed"]].tolist() == [
        2,
        0.5,
        1,
        1,
    ]
    assert table.loc["crop", ["negatives", "false_alarms"]].tolist() == [2, 0.5]
    assert table.loc["blur", ["positives", "recall", "proposed"]].tolist() == [2, 0, 0.5]
    assert np.isnan(table.loc["blur", "false_alarms"])
    assert np.isnan(breakdown(run, TRUTH, groups, 5.0)["proposed"]).all()


def test_branches_alone_and_combined():
    run = pairs(("a", "A", 9.0), ("b", "B", 8.0), ("x", "A", 7.0), ("c", "C", 1.0))
    proposed = frame(
        "query_id reference_id branch",
        *[("a", "A", "local"), ("a", "A", "global"), ("a", "A", "local"), ("b", "B", "global")],
        *[("x", "A", "local"), ("c", "C", "crop")],
    )
    table = branch_breakdown(run, TRUTH, proposed, 5.0).set_index("branches")
    assert table.index[:3].tolist() == ["local", "crop", "global"]
    assert table.loc["local", ["pairs", "true_pairs", "kept", "kept_true"]].tolist() == [2, 1, 2, 1]
    assert table.loc["only local+global", "pairs"] == 1 and table.loc["only global", "pairs"] == 1
    assert table.loc["global", "micro_ap"] == pytest.approx(0.5)
    assert table.filter(like="only", axis=0)["pairs"].sum() == len(run)
    assert table.loc["crop", ["share", "kept"]].tolist() == [0.25, 0]


def test_changes_between_two_runs():
    before = pairs(("a", "A", 9.0), ("x", "A", 9.0), ("b", "B", 1.0))
    after = pairs(("a", "A", 0.9), ("b", "B", 0.8), ("c", "C", 0.1))
    table = changes(before, after, TRUTH, 5.0, 0.5)
    rows = table[["query_id", "is_true", "change"]].to_numpy().tolist()
    assert rows == [["b", True, "gained"], ["x", False, "lost"]]
    assert np.isnan(table["score_after"].iloc[1])
    assert len(changes(before, before, TRUTH, 5.0, 5.0)) == 0
