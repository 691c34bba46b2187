# SPDX-License-Identifier: AGPL-3.0-or-later
"""What shaped a run is in its `params.yaml`, and nothing that did not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from imgfp import store
from imgfp.runner import params, record
from imgfp.runner.record import Record, StageRecord, differences

SEARCHED = StageRecord(
    {"local_candidates": 10, "seed": 0}, {"local_candidates": "default", "seed": "profile"}
)
SCORED = StageRecord({"fusion": "sum", "seed": 0}, {"fusion": "command line", "seed": "profile"})
RUN = Record(
    {"local_candidates": 10, "seed": 0, "fusion": "sum"},
    {"local_candidates": "default", "seed": "profile", "fusion": "command line"},
    {"03_local_search": SEARCHED, "09_merge": SCORED},
)  # fmt: skip


def test_what_is_written_is_read_and_is_a_profile(tmp_path):
    path = tmp_path / "params.yaml"
    RUN.write(path)
    assert record.read(path) == RUN
    assert params.read_profile(path) == RUN.values
    assert "local_candidates: 10  # default\n" in path.read_text()
    path.write_text(path.read_text() + "more: 1\n")
    with pytest.raises(store.StoreError, match="damaged"):
        record.read(path)


def test_a_stage_that_ran_with_another_value_keeps_it():
    """As where one stage alone is run again with other settings than those before it had."""
    asked = Record({"local_candidates": 2, "seed": 0, "fusion": "sum"}, {"local_candidates": "command line"}, {"09_merge": SCORED})  # fmt: skip
    now = record.joined(asked, RUN)
    assert now.values == {**asked.values, "stages": "03,09"}
    assert now.ran_with["local_candidates"] == 10
    assert now.stages == RUN.stages


def test_stages_with_different_defaults_leave_no_value_that_one_of_them_did_not_have():
    stages = {"22_a": StageRecord({"rounds": 3, "seed": 0}), "23_b": StageRecord({"rounds": 12, "seed": 0})}  # fmt: skip
    now = record.joined(Record({}, {}, stages), Record())
    assert now.values == {"seed": 0, "stages": "22,23"}


def test_a_value_that_was_edited_comes_from_the_profile(tmp_path):
    RUN.write(tmp_path / "a.yaml")
    text = (
        (tmp_path / "a.yaml")
        .read_text()
        .replace("local_candidates: 10  #", "local_candidates: 5  #")
    )
    (tmp_path / "b.yaml").write_text(text)
    edited = record.of_profile(tmp_path / "b.yaml")
    assert edited.sources_of(edited.values) == {**RUN.sources, "local_candidates": "profile"}


def test_a_changed_default_is_a_difference():
    later = replace(SEARCHED, values={"local_candidates": 12, "seed": 0}, versions={"numpy": "3"})
    rows = differences(RUN, RUN.with_stage("03_local_search", later))
    assert rows.loc["local_candidates"].tolist() == [10, 12, "default", "default"]
    assert rows.loc["numpy", ["before", "after"]].tolist() == [record.NOT_RECORDED, "3"]
    assert [*rows.index] == ["local_candidates", "numpy"]


@pytest.mark.parametrize(
    "recorded",
    [
        "1",
        "{}",
        "{sources: {}, stages: 5}",
        "{sources: {}, stages: {01_a: 1}}",
        '{sources: {}, stages: {01_a: {values: {"a: 1": 0}}}}',
    ],
)
def test_a_record_of_another_form_is_one_line(tmp_path, recorded):
    (tmp_path / "p.yaml").write_text(f"seed: 1\nrecorded: {recorded}\n")
    with pytest.raises(params.ParameterError, match="'recorded' is not as imgfp writes it"):
        record.of_profile(tmp_path / "p.yaml")


def test_a_source_that_imgfp_does_not_write_is_not_taken_over(tmp_path):
    hostile = {"seed": "default\nreference_dir: /etc"}
    text = f"seed: 1\nrecorded: {json.dumps({'sources': hostile, 'stages': {}})}\n"
    (tmp_path / "p.yaml").write_text(text)
    assert record.of_profile(tmp_path / "p.yaml").sources == {}
