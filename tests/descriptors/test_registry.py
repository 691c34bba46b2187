"""Models by name: what is loaded, and errors that name what is missing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from imgfp.descriptors.base import ModelError
from imgfp.descriptors.registry import load_model


def test_weights_for_a_model_without_any_are_refused():
    for name in ("gist-grid", "phash", "pdq"):
        with pytest.raises(ModelError, match=f"'{name}' takes no weights"):
            load_model(name, "x.pth")


def test_an_unknown_name_is_named():
    pytest.importorskip("timm")
    with pytest.raises(
        ModelError, match="unknown descriptor model 'gits'; choose gist-grid, imgfp"
    ):
        load_model("gits")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "imgfp.descriptors.checkpoints", raising=False)
    monkeypatch.delattr("imgfp.descriptors.checkpoints", raising=False)
    for package in ("torch", "timm", "safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ModelError, match=r"imgfp needs a package .*; install imgfp\[torch\]"):
        load_model("imgfp")


def test_importing_the_registry_does_not_import_torch():
    code = (
        "import sys, imgfp.descriptors.registry as d;"
        "d.load_model('gist-grid'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pathsep_joins_two_weights_files():
    pytest.importorskip("timm")
    with pytest.raises(ModelError, match=r"no-such-a\.pth does not exist"):
        load_model("esvit-swin-b", os.pathsep.join(["no-such-a.pth", "no-such-b.pth"]))
