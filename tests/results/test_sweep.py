# SPDX-License-Identifier: AGPL-3.0-or-later
"""Many settings of a finished run side by side."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imgfp import store
from imgfp.results import Results
from imgfp.results import sweep as module
from imgfp.results.replay import Replay
from imgfp.results.sweep import (
    MOST_SETTINGS,
    cheapest,
    compare,
    not_kept,
    pareto_front,
    parse,
    sweep,
    wider_run,
)
from imgfp.runner.params import ParameterError


@pytest.fixture(scope="module")
def prepared(calibrated_run) -> Replay:
    return Replay(Results(calibrated_run))


def test_lines_are_values_of_the_type_of_their_parameter():
    lines = [
        "local_candidates: 10,2",
        "global_min_similarity: 0, 0.2",
        "candidates_scored: accepted",
    ]
    found = parse(lines)
    assert found == {
        "local_candidates": [10, 2],
        "global_min_similarity": [0.0, 0.2],
        "candidates_scored": ["accepted"],
    }
    assert type(found["global_min_similarity"][0]) is float
    for line in ("local_candidates", "sift_edge_threshold: 3", "local_candidates: 0", "fusion: sm"):
        with pytest.raises(ParameterError):
            parse([line])


def test_the_first_row_is_the_run_and_each_other_is_a_preview(prepared):
    values = {"local_candidates": [10, 1], "local_min_votes": [0, 30]}
    table = sweep(prepared, values)
    assert len(table) == 4 and not table.duplicated(list(values)).any()
    assert table.loc[0, list(values)].tolist() == [10, 0]
    for row in table.to_dict("records"):
        tried = {name: int(row[name]) for name in values}
        preview = prepared.preview(replace(prepared.settings, **tried))
        assert row["pairs"] == preview.figures.pairs and row["micro_ap"] == preview.tuned.micro_ap
        assert row["held_out_recall"] == preview.held_out.recall
    assert table["pairs"].iloc[1:].max() < table["pairs"].iloc[0]
    with pytest.raises(ParameterError, match="at most"):
        sweep(prepared, {"local_candidates": range(MOST_SETTINGS + 1)})


def test_nothing_beats_what_is_on_the_front():
    cost = np.array([5, 1, 3, 3, 4, 1])
    quality = np.array([0.9, 0.5, 0.8, 0.7, 0.8, 0.4])
    assert pareto_front(cost, quality).tolist() == [True, True, True, False, False, False]


def test_the_cheapest_loses_no_more_than_allowed():
    table = pd.DataFrame({"pairs": [100, 50, 20, 50], "micro_ap": [0.9, 0.89, 0.8, 0.895]})
    assert [cheapest(table, loss) for loss in (0.0, 0.02, 0.5)] == [0, 3, 2]


def test_the_comparison_is_paired_and_on_what_was_held_out(prepared):
    same = compare(prepared, prepared.settings, rounds=20, seed=0)
    assert same["difference"].tolist() == [0, 0] and same["better"].tolist() == [0, 0]
    assert same.loc["micro_ap", "value"] == pytest.approx(prepared.base.held_out.micro_ap)


def test_what_needs_a_run_that_keeps_more_is_named(prepared):
    own = replace(prepared.settings, local_min_votes=3)
    values = {
        "local_candidates": [5, 20],
        "global_candidates": [10, 2],
        "candidates_verified": [6, 0],
        "local_min_votes": [9, 1],
        "candidates_scored": ["accepted"],
        "fusion": ["sum"],
    }
    more = {"local_candidates": 20, "candidates_verified": 0, "local_min_votes": 1}
    assert not_kept(own, values) == more


def test_the_run_that_keeps_more_has_the_settings_of_the_run(calibrated_run, tmp_path, monkeypatch):
    """A plan of notebooks that are not executed here; where they are: `imgfp run params/sweep.yaml`."""
    plans, results = [], Results(calibrated_run)

    def execute(plan):
        plans.append(plan)
        results.record.write(plan.run.params_yaml)

    monkeypatch.setattr(module.notebooks, "execute", execute)
    wider = wider_run(results, {"local_candidates": 20}, str(tmp_path / "wider"))
    (plan,) = plans
    assert plan.values["local_candidates"] == 20 and plan.values["local_min_confidence"] == 0.5
    assert plan.run.root == tmp_path / "wider" and plan.library.root == results.library.root
    assert len(wider.evidence) == len(results.evidence) and not plan.run.status_json.exists()
    own = replace(Replay(results).settings, local_candidates=3)
    assert Replay(wider, settings=own).base.settings == own != Replay(wider).base.settings


def test_a_run_without_a_record_is_not_made_again(calibrated_run, tmp_path):
    root = Path(shutil.copytree(calibrated_run, tmp_path / "run"))
    (root / "params.yaml").unlink()
    with pytest.raises(store.StoreError, match=r"params\.yaml is missing"):
        wider_run(Results(root, calibrated_run.parent / "library"), {}, str(tmp_path / "wider"))
