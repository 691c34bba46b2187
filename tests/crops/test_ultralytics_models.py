# SPDX-License-Identifier: AGPL-3.0-or-later
"""Detectors trained with ultralytics, as safetensors with the plan of their network."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from imgfp.crops import detectors, ultralytics_models

torch = pytest.importorskip("torch")
# Only located: importing ultralytics directly has side effects.
if importlib.util.find_spec("ultralytics") is None:
    pytest.skip("ultralytics is not installed", allow_module_level=True)
from safetensors.torch import save_file
from tiny_detector import PLAN


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ultralytics_models.build(PLAN).eval()


@pytest.mark.parametrize(
    ("layer", "activation"),
    [("Conv", "__import__('os').mkdir('touched')"), ("yaml", None), ("torch_safe_load", None)],
)
def test_a_plan_that_names_anything_but_layers_is_refused(layer, activation):
    plan = {**PLAN, "backbone": [[-1, 1, layer, [8]]]} | (
        {"activation": activation} if activation else {}
    )
    with pytest.raises(ValueError, match="network plan refused"):
        ultralytics_models.build(plan)


@pytest.fixture
def own(network, tmp_path):
    """As `imgfp convert` writes it."""
    path = tmp_path / "own.safetensors"
    about = {"plan": json.dumps(network.yaml), "input_size": "64"}
    save_file(network.state_dict(), path, about)
    return path


def test_a_file_of_another_kind_is_told_what_is_expected(tmp_path):
    bare = tmp_path / "bare.safetensors"
    save_file({"w": torch.zeros(2)}, bare)
    with pytest.raises(
        ValueError, match=r"bare.safetensors: not a network .*its plan.*imgfp convert"
    ):
        detectors.load_detector(bare)
    bare.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"bare.safetensors: not a network .*header"):
        detectors.load_detector(bare)


def test_a_gpu_that_torch_does_not_see_is_said(own, monkeypatch):
    monkeypatch.setattr("imgfp.inference.torch_gpus", lambda: 0)
    with pytest.warns(
        UserWarning, match="device cuda: own.safetensors runs on the CPU: torch sees 0"
    ):
        found = detectors.load_detector(own, device="cuda")
    assert found.device == "cpu"
    assert len(found.detect([np.zeros((50, 40, 3), np.uint8)])) == 1
