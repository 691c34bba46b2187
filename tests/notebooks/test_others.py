# SPDX-License-Identifier: AGPL-3.0-or-later
"""The notebooks beside the pipeline, run on little data: training of the crop detector and of the pair
classifier, comparison of runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_run

from imgfp import report, store
from imgfp.benchmarks.capacity import Assumptions, Costs, Indexes
from imgfp.benchmarks.planning import RunPlan
from imgfp.crops import detectors
from imgfp.images import encode_jpeg
from imgfp.results import Results, sheets
from imgfp.runner import params, record
from imgfp.runner.machine import Machine
from imgfp.runner.record import StageRecord
from imgfp.scoring import metrics
from imgfp.search.plan import CodecCost, SearchCost
from imgfp.verify.classifier import SIDE_PX, PairClassifier

CODECS = ("Flat", "SQ8_direct", "PQ32x4fsr", "SQfp16")
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
pytestmark = pytest.mark.pipeline


def execute(name: str, **parameters):
    """The executed notebook."""
    import papermill

    path, named = str(NOTEBOOKS / name), {key: str(v) for key, v in parameters.items()}
    numbers = {key: v for key, v in parameters.items() if isinstance(v, int | float)}
    return papermill.execute_notebook(path, None, parameters=named | numbers, progress_bar=False)


def shown(executed) -> list[dict]:
    return [out.get("data", {}) for cell in executed.cells for out in cell.get("outputs", [])]


def test_the_crop_detector_trains_a_few_steps_and_continues(tmp_path):
    (tmp_path / "photographs").mkdir()
    for name, image in small_run.photographs().items():
        (tmp_path / f"photographs/{name}.jpg").write_bytes(encode_jpeg(image))
    small = {"batch_size": 2, "image_size": 96, "final_image_size": 64, "width": 0.0625}
    small |= {"held_out": 2, "validation_scenes": 8, "scorer_scenes": 12, "scorer_photographs": 2}
    small |= {"photo_dir": tmp_path / "photographs", "run_dir": tmp_path / "run"}
    small |= {"report_steps": 1, "picture_makers": 0}
    execute("20_train_crop_detector.ipynb", steps=1, **small)
    again = execute("20_train_crop_detector.ipynb", steps=2, **small)
    history = json.loads((tmp_path / "run/history.json").read_text())
    assert [row["step"] for row in history] == [1, 2]
    assert sum("image/png" in data for data in shown(again)) == 5
    detector = detectors.load_detector(tmp_path / "run")
    assert len(detector.detect(list(small_run.photographs().values()))) == 6
    table = pd.read_csv(tmp_path / "run/evaluation.csv")
    assert {"trained", "network alone", "classical"} == set(table["detector"])


def test_the_pair_classifier_trains_an_epoch(tmp_path):
    (tmp_path / "photographs").mkdir()
    for name, image in small_run.photographs().items():
        (tmp_path / f"photographs/{name}.jpg").write_bytes(encode_jpeg(image))
    groups = "path,group\n" + "".join(f"{name}.jpg,\n" for name in small_run.photographs())
    (tmp_path / "groups.csv").write_text(groups)
    small = {"rounds": 1, "copies": 6, "synthetic": 6, "others": 1, "scenes": 1, "workers": 1}
    small |= {"epochs": 1, "batch_size": 4, "channels": 2, "held_out": 2, "references": 4}
    small |= {"photo_dir": tmp_path / "photographs", "run_dir": tmp_path / "run"}
    done = execute("23_train_pair_classifier.ipynb", groups_csv=tmp_path / "groups.csv", **small)
    assert sum("image/png" in data for data in shown(done)) == 5
    table = pd.read_csv(tmp_path / "run/evaluation.csv")
    assert "synthetic" in set(table["kind"]) and table["roc_auc"].between(0, 1).all()
    planes = np.zeros((3, SIDE_PX, SIDE_PX), np.uint8)
    assert 0 <= PairClassifier(str(tmp_path / "run/pair_classifier.onnx"))(planes) <= 1
    assert (tmp_path / "run/held_out_groups.csv").read_text().strip() == "path,group"


def test_two_runs_are_compared(finished_run, tmp_path):
    root = shutil.copytree(finished_run.parent, tmp_path / "copy")
    path = root / "run/predictions.csv"
    worse = pd.read_csv(path)
    worse.loc[worse["query_id"] == "q-whole", "score"] = 1
    store.write_sheet(path, worse)
    ran = record.read(root / "run/params.yaml")
    stage = StageRecord({"local_min_confidence": 0.4}, {"local_min_confidence": "default"})
    ran.with_stage("04_crops", stage).write(root / "run/params.yaml")
    runs = {"before_run": root / "run", "after_run": finished_run}
    done = execute("32_compare_runs.ipynb", **runs, bootstrap_rounds=20, save_dir=tmp_path)
    moved = pd.read_csv(tmp_path / "changes.csv")
    assert sheets.change_titles(moved[moved["is_true"]]) == ["q-whole  1 to 374", "china"]
    assert moved.loc[moved["is_true"], ["query_id", "change"]].to_numpy().tolist() == [
        ["q-whole", "gained"]
    ]
    assert sum("image/png" in data for data in shown(done)) == 6
    figures = metrics.evaluate(Results(finished_run).predictions, Results(finished_run).truth)
    assert any(f"{figures.micro_ap:.4f}" in str(data) for data in shown(done))
    differ = next(str(data) for data in shown(done) if "before_from" in str(data))
    assert "local_min_confidence" in differ and "fusion" not in differ  # one default has changed
    (table,) = (str(data) for data in shown(done) if "target_precision" in str(data))
    assert "8.0" not in table  # queries are whole numbers


def test_a_sweep_writes_the_cheapest_setting(calibrated_run, tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text("seed: 0  # of every random choice\n")
    named = {"tuned_run": calibrated_run, "written_profile": profile, "save_dir": tmp_path}
    executed = execute("33_sweep.ipynb", **named, bootstrap_rounds=20, allowed_loss=0.9)
    assert sum("image/png" in data for data in shown(executed)) == 2
    table = pd.read_csv(tmp_path / "sweep.csv")
    assert len(table) == 4 and table["candidates_verified"].tolist()[0] == 6
    values = params.read_profile(profile)
    assert values["candidates_verified"] == 1
    assert values["tuned_on"] == Results(calibrated_run).truth_hash
    warned = report.build(Results(calibrated_run, **values), rounds=0)
    assert "were chosen by the truth" in warned
    assert "were chosen by the truth" not in report.build(Results(calibrated_run), rounds=0)


def test_the_capacity_plan_takes_the_stored_plan(tmp_path):
    library = store.Library(tmp_path)
    search = SearchCost(5.0, 12.0, 1.5, dict.fromkeys(CODECS, CodecCost(1.0, 8.0, 0.5, 9.0)))
    images = {"images": 64, "queries": 32, "copies": 32, "vector_width": 256}
    every = {field.name: 0.01 for field in fields(Costs)}
    every |= {"keypoints": 400.0, "query_keypoints": 400.0, "local": search, "similar": search}
    made = RunPlan(
        3000, 1000, Costs(**every | images), Indexes(), Assumptions(), Machine(2, 10**6, 10**12)
    )
    store.save(library.plan_json, asdict(made), small_run.made_with())
    executed = execute("31_capacity_plan.ipynb", library_dir=tmp_path, references=10**7)
    assert sum("image/png" in data for data in shown(executed)) == 4
    text = json.dumps([cell.get("outputs") for cell in executed.cells if "outputs" in cell])
    assert "needs 167.6 MB of memory on one machine, 1.0 MB are free" in text
    assert "10000000000" in text and "PQ32x4fsr" in text
    assert "local_nprobe: 32" in text
