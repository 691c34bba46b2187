# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every path inside a library and a run."""

from __future__ import annotations

import copy

import pytest

from imgfp import store
from imgfp.datatypes import BRANCHES


def test_a_relative_root_counts_from_the_project_wherever_a_notebook_runs(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert store.Run("runs/demo").root == tmp_path / "runs/demo"
    assert (
        store.Library("library/demo").index("local").root == tmp_path / "library/demo/index/local"
    )


def test_the_layout_of_older_runs_is_kept(tmp_path):
    run, library = store.Run(tmp_path / "run"), store.Library(tmp_path / "library")
    below = {
        "images": run.images,
        "local_features": run.local_features,
        "descriptors": run.descriptors,
        "crops/detections": run.detections,
        "crops/crops.parquet": run.crops_parquet,
        "crops/local_features": run.crop_features,
        "candidates/global": run.candidates("global"),
        "evidence": run.evidence,
        "descriptors.h5": run.descriptors_h5,
        "predictions.csv": run.predictions_csv,
        "metrics.json": run.metrics_json,
        "errors.csv": run.errors_csv,
        "rejects.csv": run.rejects_csv,
        "report.html": run.report_html,
        "fusion.json": run.fusion_json,
        "decisions.jsonl": run.decisions_jsonl,
        "decisions.csv": run.decisions_csv,
        "params.yaml": run.params_yaml,
        "status.json": run.status_json,
        "notebooks": run.notebooks,
    }
    assert below == {name: tmp_path / "run" / name for name in below}
    assert len({run.candidates(branch) for branch in BRANCHES}) == 3
    index = library.index("global")
    assert index.trained == tmp_path / "library/index/global/trained.faiss"
    assert index.manifest == tmp_path / "library/index/global/index.json"
    assert index.owners == tmp_path / "library/index/global/owners.arrow"
    assert index.part(3, 12) == tmp_path / "library/index/global/part-00003-00012.faiss"


def test_a_run_is_a_value_that_stands_for_its_path(tmp_path):
    run = store.Run(tmp_path)
    assert run == store.Run(run) == store.Run(str(tmp_path)) == copy.deepcopy(run)
    assert run.name == tmp_path.name and run != store.Library(tmp_path)
    with pytest.raises(AttributeError):
        run.root = tmp_path
