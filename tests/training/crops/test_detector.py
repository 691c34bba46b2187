# SPDX-License-Identifier: AGPL-3.0-or-later
"""Training of the crop detector: resuming, settings, export."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
if importlib.util.find_spec("ultralytics") is None:  # importing it here would patch Pillow
    pytest.skip("ultralytics is not installed", allow_module_level=True)

import PIL.Image
from safetensors.numpy import load_file

from imgfp.crops.detectors import NetworkDetector
from imgfp.training.crops.detector import Recipe, export_onnx, predict, train
from imgfp.training.crops.network import build_network, load_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe():
    return Recipe(steps=3, batch_size=2, image_size=96, final_image_size=64, width=0.0625, seed=1)


def run(photographs, folder, recipe, **options):
    return list(train(photographs, folder, recipe, workers=0, report_steps=1, **options))


@pytest.fixture(scope="module")
def trained(photographs, recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(photographs, folder, recipe)


def test_history_and_importing_ultralytics_leaves_pillow_alone(trained):
    _, history = trained
    assert [row["step"] for row in history] == [1, 2, 3]
    assert all(np.isfinite(row["box_loss"] + row["cls_loss"] + row["dfl_loss"]) for row in history)
    assert PIL.Image.open.__module__ == "PIL.Image"


def test_a_resumed_training_gives_the_same_weights(trained, photographs, recipe, tmp_path):
    steps = train(photographs, tmp_path, recipe, workers=0, report_steps=1)
    next(steps)
    steps.close()
    again = run(photographs, tmp_path, recipe)
    assert [row["step"] for row in again] == [2, 3]
    ours, theirs = (load_file(path / "weights.safetensors") for path in (trained[0], tmp_path))
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_finished_training_has_no_steps_left(trained, photographs, recipe):
    assert run(photographs, trained[0], recipe) == []


def test_other_settings_are_refused_but_more_steps_are_not(trained, photographs, recipe, tmp_path):
    shutil.copytree(trained[0], tmp_path / "copy")
    other = dataclasses.replace(recipe, learning_rate=0.5)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.002 there, 0\.5 asked"):
        run(photographs, tmp_path / "copy", other)
    longer = dataclasses.replace(recipe, steps=4)
    assert [row["step"] for row in run(photographs, tmp_path / "copy", longer)] == [4]


def test_starting_from_weights_and_refusing_others(trained, photographs, recipe, tmp_path):
    weights = trained[0] / "weights.safetensors"
    one = dataclasses.replace(recipe, steps=1)
    fresh = run(photographs, tmp_path / "fresh", one)
    warm = run(photographs, tmp_path / "warm", one, init_weights=weights)
    assert fresh[0]["box_loss"] != warm[0]["box_loss"]
    wider = dataclasses.replace(one, width=0.125)
    with pytest.raises(ValueError, match=r"weights.safetensors: its tensors do not fit"):
        run(photographs, tmp_path / "wider", wider, init_weights=weights)
    with pytest.raises(ValueError, match=r"mine.pt: expected a .safetensors"):
        run(photographs, tmp_path / "pt", one, init_weights="mine.pt")


def test_learning_rate_rises_is_constant_and_falls(recipe):
    long = dataclasses.replace(recipe, steps=1000, warmup_steps=100, decay_share=0.3)
    rates = [long.rate(step) for step in (0, 99, 400, 699, 850, 999)]
    top = long.learning_rate
    assert rates[1:4] == pytest.approx([top] * 3)
    assert rates[0] < 0.02 * top
    assert rates[4] == pytest.approx(top / 2)
    assert rates[5] <= 0.01 * top
    assert {long.size(step) for step in range(700)} == {64, 96, 128}
    assert long.size(700) == 64


def test_onnx_and_torch_give_the_same_boxes(trained, recipe, photographs, tmp_path):
    pytest.importorskip("onnx")
    network = build_network(recipe.width).eval()
    load_weights(network, trained[0] / "weights.safetensors")
    export_onnx(network, tmp_path / "small.onnx", 96)
    from_onnx = NetworkDetector(tmp_path / "small.onnx", floor=1e-6).detect(photographs)
    from_torch = predict(network, photographs, 96, floor=1e-6)
    for ours, theirs in zip(from_onnx, from_torch, strict=True):
        assert len(ours) == len(theirs) > 0
        assert ours.xyxy == pytest.approx(theirs.xyxy, abs=0.1)
        assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-4)
