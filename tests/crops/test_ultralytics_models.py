# SPDX-License-Identifier: AGPL-3.0-or-later
"""Detectors trained with ultralytics: converted without running their code, refused with code inside."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest

from imgfp import __main__
from imgfp.crops import detectors, ultralytics_models

torch = pytest.importorskip("torch")
# Only located: importing ultralytics directly has side effects.
if importlib.util.find_spec("ultralytics") is None:
    pytest.skip("ultralytics is not installed", allow_module_level=True)
TINY = {
    "nc": 2,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [8, 3, 4]],
        [-1, 1, "C3k2", [8, False]],
    ],
    "head": [[[1, 2], 1, "Detect", ["nc"]]],
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ultralytics_models.build(TINY).eval()


@pytest.fixture
def own(network, tmp_path):
    path = tmp_path / "own.pt"
    torch.save({"model": network, "ema": None, "train_args": {"imgsz": 64}}, path)
    return path


class Bomb:
    """Pickled, this runs a command when it is loaded."""

    def __init__(self, touches):
        self.touches = str(touches)

    def __reduce__(self):
        return os.mkdir, (self.touches,)


def test_conversion_by_command_gives_the_same_boxes(own, network, rng, capsys, monkeypatch):
    target = own.with_suffix(".safetensors")
    assert __main__.main(["convert-detector", str(own), str(target)]) == 0
    assert capsys.readouterr().out == f"crop_detector: {target}\n"
    assert target.stat().st_mode == own.stat().st_mode
    detector = detectors.load_detector(target)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    feed = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    with torch.inference_mode():
        scores = network(feed)[0][0, 4:].numpy()
    monkeypatch.setattr("imgfp.crops.boxes.nms", lambda xyxy, confidence: np.argsort(-confidence))
    (found,) = detector.detect([image])
    best = np.sort(scores.max(0))[::-1]
    assert found.confidence == pytest.approx(best[best > 0.02], abs=1e-6)
    assert (found.xyxy >= 0).all() and (found.xyxy <= 64).all()


def test_a_file_with_code_in_it_is_not_converted_and_its_code_does_not_run(network, tmp_path):
    touched, path = tmp_path / "touched", tmp_path / "bad.pt"
    torch.save({"model": network, "more": Bomb(touched)}, path)
    with pytest.raises(ValueError, match=r"bad.pt: not converted.*export it to ONNX"):
        ultralytics_models.convert(path, tmp_path / "bad.safetensors")
    assert not touched.exists()
    assert not (tmp_path / "bad.safetensors").exists()
    torch.load(path, weights_only=False)  # the bomb is a real one
    assert touched.exists()


@pytest.mark.parametrize(
    ("layer", "activation"),
    [("Conv", "__import__('os').mkdir('touched')"), ("yaml", None), ("torch_safe_load", None)],
)
def test_a_plan_that_names_anything_but_layers_is_refused(layer, activation):
    plan = {**TINY, "backbone": [[-1, 1, layer, [8]]]} | (
        {"activation": activation} if activation else {}
    )
    with pytest.raises(ValueError, match="network plan refused"):
        ultralytics_models.build(plan)


def test_errors_of_other_files_name_what_is_expected(tmp_path, own, capsys):
    from safetensors.torch import save_file

    bare = tmp_path / "bare.safetensors"
    save_file({"w": torch.zeros(2)}, bare)
    with pytest.raises(ValueError, match=r"bare.safetensors: not a detector.*convert-detector"):
        detectors.load_detector(bare)
    assert __main__.main(["convert-detector", "absent.pt", str(bare)]) == 2
    assert "there is no file absent.pt; check the path" in capsys.readouterr().err
    nowhere = tmp_path / "absent/own.safetensors"
    assert __main__.main(["convert-detector", str(own), str(nowhere)]) == 2
    assert f"No such file or directory: '{nowhere}'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"expected a \.pt and a .safetensors"):
        ultralytics_models.convert(own, tmp_path / "own.onnx")


def test_a_trusted_pt_is_used(own, rng):
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    (found,) = detectors.load_detector(own, trust_pt=True).detect([image])
    assert found.xyxy.shape == (len(found), 4)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_gpu_that_torch_does_not_see_is_said(own, monkeypatch, suffix):
    monkeypatch.setattr("imgfp.inference.torch_gpus", lambda: 0)
    path = own.with_suffix(suffix)
    if suffix == ".safetensors":
        ultralytics_models.convert(own, path)
    with pytest.warns(UserWarning, match=f"device cuda: own{suffix} runs on the CPU: torch sees 0"):
        found = detectors.load_detector(path, trust_pt=True, device="cuda")
    assert found.device == "cpu"
    assert len(found.detect([np.zeros((50, 40, 3), np.uint8)])) == 1
