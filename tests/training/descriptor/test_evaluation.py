# SPDX-License-Identifier: AGPL-3.0-or-later
"""Evaluation of a descriptor alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("faiss")

from imgfp.descriptors.base import l2_normalise
from imgfp.descriptors.registry import load_model
from imgfp.training.descriptor import evaluation
from imgfp.training.descriptor.data import read_check

TRUTH = pd.DataFrame({"query_id": ["q1", "q2", "q3"], "reference_id": ["r1", "r2", ""]})


def test_predictions_take_the_best_view_and_normalise():
    known = np.eye(3, dtype=np.float32)
    queries = {
        "q1": np.array([[0, 0.6, 0.8], [1, 0, 0]], np.float32),
        "q2": l2_normalise(np.array([[0.1, 1, 0], [0.1, 0, 0.2]])),
    }
    found = evaluation.predict(queries, (["r1", "r2", "r3"], known), top_k=1)
    assert list(found.reference_id) == ["r1", "r2"]
    assert found.score.iloc[0] == 1
    background = np.array([[1.0, 0, 0]], np.float32)
    less = evaluation.predict(queries, (["r1", "r2", "r3"], known), 1, 1, background)
    assert list(less.reference_id) == ["r3", "r2"]


def test_views_of_a_query_are_picked_by_name():
    vectors = np.arange(8).reshape(4, 2)
    kept = evaluation.by_query(["a", "b"], vectors, ["whole", "mirror"], ["mirror"])
    np.testing.assert_array_equal(kept["b"], [[6, 7]])


def test_groups_and_their_metrics():
    meta = pd.DataFrame({"query_id": ["q1", "q2", "q3"], "ops": ["blur+crop", "blur", "crop"]})
    groups = evaluation.comparison_groups(meta, TRUTH)
    assert groups["blur"] == ["q1", "q2"] and groups["crop"] == ["q1"]
    assert groups["1 edits"] == ["q2"] and groups["all"] == ["q1", "q2"]
    right = pd.DataFrame(
        {"query_id": ["q1", "q2", "q3"], "reference_id": ["r1", "r9", "r1"], "score": [3, 2, 1.0]}
    )
    table = evaluation.compare({"mine": right}, TRUTH, groups).set_index("group")
    assert table.loc["crop", "mine micro-AP"] == 1 and table.loc["blur", "mine micro-AP"] == 0.5
    assert table.loc["all", "mine R1"] == 0.5 and table.loc["crop", "positives"] == 1


def test_recall_by_family_and_strength(photographs):
    named = {f"p{i}": image for i, image in enumerate(photographs[:5])}
    names, images = evaluation.made_queries(named, {"weak": 0.1, "strong": 0.9}, ["blur", "grey"])
    assert len(names) == len(images) == 20
    assert names[1] == ("p0", "blur", "strong")
    table = evaluation.recall_by_family(
        names, {"ours": [name for name, *_ in names], "none": ["x"] * 20}
    )
    assert list(table.columns) == ["ours weak", "ours strong", "none weak", "none strong"]
    assert (table.loc["grey"].to_numpy() == [1, 1, 0, 0]).all()
    grid = {"grid": load_model("gist-grid")}
    made = evaluation.by_family(grid, photographs[:2], photographs[2:], {"weak": 0.0})
    assert made.loc["jpeg", "grid weak"] == 1
    assert evaluation.by_family(grid, [], photographs, {"weak": 0.0}).empty


def test_queries_are_evaluated_with_and_without_views(tmp_path, photographs):
    for name, image in {
        "refs/r1": photographs[0],
        "refs/r2": photographs[1],
        "refs/r3": photographs[2],
        "queries/q1": photographs[0][:, ::-1],
        "queries/q2": photographs[9],
    }.items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    (tmp_path / "t.csv").write_text("query_id,reference_id\nq1,r1\nq2,\n")
    where = [str(tmp_path / name) for name in ("queries", "refs", "t.csv")]
    check = read_check(*where)
    assert list(check.references) == ["r1", "r2", "r3"] and set(check.meta.ops) == {""}
    tables = evaluation.evaluate("grid", load_model("gist-grid"), check, ["mirror"], neighbours=1)
    assert set(tables) == {"grid", "grid normalised", "grid views", "grid views normalised"}
    figures = evaluation.compare_all(tables, check.truth)
    assert figures.loc["grid views", "micro_ap"] == 1
    assert tables["grid views"].score.max() > 0.99 > tables["grid"].score.max()
    (tmp_path / "t.csv").write_text("query_id,reference_id\nq9,r1\n")
    with pytest.raises(ValueError, match="have no file, first 'q9'"):
        read_check(*where)


def test_turned_queries_are_a_group_of_their_own():
    meta = pd.DataFrame({"query_id": ["q1", "q2", "q3"], "ops": ["hflip+crop", "crop", ""]})
    groups = evaluation.comparison_groups(meta, TRUTH)
    assert groups["mirrored or turned"] == groups["hflip"] == ["q1"]
    assert groups["neither mirrored nor turned"] == ["q2"]
    assert list(groups)[-1] == "mirrored or turned"
