# SPDX-License-Identifier: AGPL-3.0-or-later
"""Models by name: what is loaded, and errors that name what is missing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from imgfp.descriptors.base import ModelError
from imgfp.descriptors.registry import load_model
from imgfp.inference import SHIPPED


def test_weights_for_a_model_without_any_are_refused():
    for name in ("gist-grid", "phash", "pdq"):
        with pytest.raises(ModelError, match=f"'{name}' takes no weights"):
            load_model(name, "x.safetensors")


def test_an_unknown_name_is_named():
    pytest.importorskip("timm")
    with pytest.raises(
        ModelError, match="unknown descriptor model 'gits'; choose gist-grid, imgfp"
    ):
        load_model("gits")


def test_a_missing_package_is_named(monkeypatch):
    for package in ("torch", "imagehash"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    for name, package, extra in (("resnet10t", "torch", "torch"), ("phash", "imagehash", "peers")):
        with pytest.raises(ModelError) as error:
            load_model(name)
        assert str(error.value) == (
            f"descriptor model '{name}' needs {package}, which is not installed: "
            f"pip install 'imgfp[{extra}]'"
        )


def test_importing_the_registry_does_not_import_torch():
    code = (
        "import sys, imgfp.descriptors.registry as d;"
        "d.load_model('gist-grid'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pathsep_joins_two_weights_files():
    pytest.importorskip("timm")
    with pytest.raises(ModelError, match=r"no-such-a\.safetensors does not exist"):
        load_model(
            "esvit-swin-b", os.pathsep.join(["no-such-a.safetensors", "no-such-b.safetensors"])
        )


def test_the_shipped_weights_run_on_torch_where_it_has_a_gpu(monkeypatch):
    checkpoints = pytest.importorskip("imgfp.descriptors.checkpoints")
    loaded = []
    monkeypatch.setattr(checkpoints, "load", lambda *given: loaded.append(given))
    monkeypatch.setattr("imgfp.inference.torch_gpus", lambda: 2)
    monkeypatch.setattr("imgfp.inference.has_driver", lambda: True)
    for device in ("auto", "cuda:1"):
        load_model("imgfp", "", device)
    assert loaded == [("imgfp", "", "auto"), ("imgfp", "", "cuda:1")]
    assert load_model("imgfp", "", "cpu").device == "cpu"
    monkeypatch.setattr("imgfp.descriptors.registry.find_spec", lambda _: None)  # torch alone
    assert load_model("imgfp", "", "auto").device == "cpu"
    assert len(loaded) == 2


def test_a_gpu_that_is_not_there_is_said_and_the_cpu_taken(monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr("imgfp.inference.torch_gpus", lambda: 0)
    shipped = str(SHIPPED / "descriptor.safetensors")
    for weights, user in (("", "descriptor.onnx"), (shipped, "descriptor model 'imgfp'")):
        with pytest.warns(UserWarning, match=f"^device cuda: {user} runs on the CPU: "):
            assert load_model("imgfp", weights, "cuda").device == "cpu"
