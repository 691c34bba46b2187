# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sessions of ONNX files, hashes of weights, optional packages."""

from __future__ import annotations

import hashlib
import sys

import pytest

from imgfp.inference import SHIPPED, onnx_session, require, sha256_of


def test_shipped_weights_are_there_and_run_on_one_thread():
    session = onnx_session(SHIPPED / "box_scorer.onnx")
    assert session.get_providers() == ["CPUExecutionProvider"]
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_a_damaged_model_is_named(tmp_path):
    path = tmp_path / "damaged.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"damaged\.onnx: not an ONNX model that can be run"):
        onnx_session(path)


def test_hash_of_a_file(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_of(path) == sha256_of(str(path)) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_required_module_is_imported():
    assert require("hashlib", "torch", "a test") is hashlib


def test_a_required_module_that_is_absent_names_feature_and_extra(monkeypatch, tmp_path):
    expected = "the crop needs imgfp_absent, which is not installed: pip install 'imgfp[train]'"
    monkeypatch.setitem(sys.modules, "imgfp_absent", None)
    (tmp_path / "imgfp_present.py").write_text("import imgfp_absent")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("imgfp_absent", "imgfp_present"):  # also when another module imports it
        with pytest.raises(ModuleNotFoundError) as error:
            require(module, "train", "the crop")
        assert str(error.value) == expected
