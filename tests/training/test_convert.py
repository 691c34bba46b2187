# SPDX-License-Identifier: AGPL-3.0-or-later
"""`imgfp convert`: the same numbers as ONNX or safetensors; nothing runs that is not trusted, nothing is written."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
from tiny_detector import PLAN
from torch import nn

from imgfp.__main__ import main
from imgfp.confinement import landlock_abi
from imgfp.crops import detectors
from imgfp.descriptors.base import ModelError, Preprocessing
from imgfp.descriptors.checkpoints import Normalised
from imgfp.descriptors.registry import load_model
from imgfp.inference import sha256_of

needs_ultralytics = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None, reason="ultralytics is not installed"
)


class Copies(nn.Module):
    """As SSCD's files: convolutions, GeM of power 3, linear, L2 norm."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 7, 4), nn.BatchNorm2d(16), nn.ReLU())
        self.linear = nn.Linear(16, 32)

    def forward(self, x):
        x = self.trunk(x).clamp(min=1e-6).pow(3.0)
        x = nn.functional.adaptive_avg_pool2d(x, 1).pow(1 / 3.0).flatten(1)
        return nn.functional.normalize(self.linear(x))


class Overwrites(nn.Module):
    """Three lines of TorchScript that write to a file of their choice."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, x):
        file = torch.from_file(self.path, True, 4, dtype=torch.uint8)
        file.fill_(65)
        return x.mean(dim=(2, 3)) + file.sum()


class Bomb:
    """Pickled, this makes a folder when it is loaded."""

    def __init__(self, touches):
        self.touches = str(touches)

    def __reduce__(self):
        return os.mkdir, (self.touches,)


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_bytes(b"untouched")
    return path


@pytest.fixture
def pictures(rng):
    return [rng.integers(0, 256, (90 + 7 * i, 120, 3)).astype(np.uint8) for i in range(3)]


def scripted(network, path):
    torch.jit.save(torch.jit.script(network.eval()), path)
    return path


def test_torchscript_becomes_a_descriptor_with_the_same_vectors(tmp_path, pictures, capsys):
    torch.manual_seed(0)
    source, target = scripted(Copies(), tmp_path / "sscd.torchscript.pt"), tmp_path / "sscd.onnx"
    assert main(["convert", str(source), str(target), "--trust"]) == 0
    assert capsys.readouterr().out == f"descriptor_model: onnx\ndescriptor_weights: {target}\n"
    for name in ("sscd", "onnx"):
        model = load_model(name, str(target))
        assert (model.name, model.dim) == (name, 32)
    assert model.preprocessing == Preprocessing(320, interpolation="bilinear")
    assert model.weights_hash == sha256_of(target)
    whole = Normalised(torch.jit.load(source), model.preprocessing)
    with torch.inference_mode():
        expected = whole(torch.from_numpy(np.stack([model.preprocess(p) for p in pictures])))
    np.testing.assert_allclose(model.embed(pictures), expected.numpy(), atol=1e-6)


def test_the_preprocessing_of_another_network_is_given(tmp_path, pictures):
    source, target = scripted(Copies(), tmp_path / "own.pt"), tmp_path / "own.onnx"
    words = [
        "--side",
        "64",
        "--mean",
        "0.5",
        "0.4",
        "0.3",
        "--std",
        "0.2",
        "0.3",
        "0.4",
        "--interpolation",
        "area",
        "--trust",
    ]
    assert main(["convert", str(source), str(target), *words]) == 0
    steps = load_model("onnx", str(target)).preprocessing
    assert steps == Preprocessing(64, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "area")


def test_torchscript_is_not_run_without_trust(tmp_path, victim, capsys):
    source = scripted(Overwrites(str(victim)), tmp_path / "hostile.pt")
    assert main(["convert", str(source), str(tmp_path / "out.onnx")]) == 2
    error = capsys.readouterr().err
    assert "hostile.pt: not converted: TorchScript is a program" in error and "--trust" in error
    with pytest.raises(
        ModelError, match=r"hostile\.pt: .*can run code .*: imgfp convert \S+hostile\.pt"
    ):
        load_model("sscd", str(source))
    assert victim.read_bytes() == b"untouched" and not (tmp_path / "out.onnx").exists()
    torch.jit.load(source)(torch.zeros(1, 3, 4, 4))  # it is a real one
    assert victim.read_bytes() == b"AAAAuched"


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
def test_trusted_code_still_writes_nothing_elsewhere(tmp_path, victim, capsys):
    source = scripted(Overwrites(str(victim)), tmp_path / "hostile.pt")
    assert main(["convert", str(source), str(tmp_path / "out.onnx"), "--trust"]) == 2
    assert "hostile.pt: not converted: " in capsys.readouterr().err
    assert victim.read_bytes() == b"untouched"


def test_a_file_of_tensors_needs_no_trust(tmp_path, capsys):
    target = tmp_path / "own.safetensors"
    tied = torch.arange(6.0).reshape(2, 3)
    content = {"epoch": 3, "state_dict": {"module.a": tied, "module.b": tied.T, "step": 7}}
    torch.save(content, tmp_path / "own.pth.tar")
    assert main(["convert", str(tmp_path / "own.pth.tar"), str(target)]) == 0
    assert capsys.readouterr().out == f"descriptor_weights: {target}\n"
    from safetensors.torch import load_file

    tensors = load_file(target)
    assert set(tensors) == {"a", "b"}
    assert (tensors["a"] == tied).all() and (tensors["b"] == tied.T).all()


@needs_ultralytics
def test_a_file_of_tensors_is_no_detector(tmp_path, capsys):
    torch.save({"model": {"a": torch.zeros(2)}}, tmp_path / "own.pth")
    assert main(["convert", str(tmp_path / "own.pth"), str(tmp_path / "own.onnx")]) == 2
    assert "it holds no detector; what holds tensors only becomes" in capsys.readouterr().err


@needs_ultralytics
def test_a_pickle_with_code_runs_only_if_trusted_and_then_confined(tmp_path, capsys):
    touched, source = tmp_path / "touched", tmp_path / "bad.pt"
    torch.save({"model": Bomb(touched)}, source)
    words = ["convert", str(source), str(tmp_path / "out.safetensors")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "bad.pt: not converted: it holds more than tensors" in error and "--trust" in error
    assert not touched.exists()
    if landlock_abi():
        assert main([*words, "--trust"]) == 2
        assert "Permission denied" in capsys.readouterr().err
        assert not touched.exists()
    torch.load(source, weights_only=False)  # it is a real one
    assert touched.exists()


@needs_ultralytics
@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_a_detector_of_ultralytics_gives_the_same_boxes(tmp_path, rng, suffix, capsys, monkeypatch):
    from imgfp.crops.ultralytics_models import build

    torch.manual_seed(0)
    network = build(PLAN).eval()
    source, target = tmp_path / "own.pt", tmp_path / f"own{suffix}"
    torch.save({"model": network, "ema": None, "train_args": {"imgsz": 64}}, source)
    assert main(["convert", str(source), str(target)]) == 0
    assert capsys.readouterr().out == f"crop_detector: {target}\n"
    detector = detectors.load_detector(target)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    feed = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    with torch.inference_mode():
        scores = network(feed)[0][0, 4:].numpy()
    monkeypatch.setattr("imgfp.crops.boxes.nms", lambda xyxy, confidence: np.argsort(-confidence))
    (found,) = detector.detect([image])
    best = np.sort(scores.max(0))[::-1]
    assert found.confidence == pytest.approx(best[best > 0.02], abs=1e-5)
    assert (found.xyxy >= 0).all() and (found.xyxy <= 64).all()


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("absent.pt", "out.onnx", "there is no file absent.pt; check the path"),
        ("own.onnx", "out.onnx", "own.onnx: holds no code and needs no conversion"),
        ("own.pt", "out.bin", "out.bin: expected a file .onnx or .safetensors to write"),
        ("own.pt", "absent/out.onnx", "there is no folder absent; make it first"),
        ("own.pt", "out.safetensors", "own.pt: not converted: it holds more than tensors"),
    ],
)
def test_what_cannot_be_converted_is_one_line(
    tmp_path, monkeypatch, capsys, source, target, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("own.pt", "own.onnx"):
        (tmp_path / name).write_bytes(b"no checkpoint")
    assert main(["convert", source, target]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"imgfp: {message}") and error.count("\n") == 1
    assert not (tmp_path / target).exists()
