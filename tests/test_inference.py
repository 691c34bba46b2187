# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sessions of ONNX files, hashes of weights, optional packages."""

from __future__ import annotations

import hashlib
import sys
import warnings

import numpy as np
import onnxruntime
import pytest

from imgfp import inference
from imgfp.inference import SHIPPED, onnx_session, require, sha256_of, torch_device


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


class Session:
    """onnxruntime's session where its CUDA provider loads, or does not."""

    loads = True

    def __init__(self, _, options, providers):
        self.asked = providers

    def get_providers(self):
        names = [one if isinstance(one, str) else one[0] for one in self.asked]
        return names if self.loads else names[-1:]


@pytest.fixture
def with_cuda_provider(monkeypatch):
    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(Session, "loads", True)


@pytest.mark.parametrize(("device", "number"), [("auto", 0), ("cuda", 0), ("cuda:3", 3)])
def test_onnx_runs_on_the_gpu_that_onnxruntime_offers(with_cuda_provider, device, number):
    session = onnx_session(SHIPPED / "box_scorer.onnx", device)
    asked = [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"]
    assert session.asked == asked and inference.session_device(session) == "cuda"
    on_cpu = onnx_session(SHIPPED / "box_scorer.onnx", "cpu")
    assert on_cpu.asked == ["CPUExecutionProvider"] and inference.session_device(on_cpu) == "cpu"


def test_an_onnxruntime_whose_provider_does_not_load_says_that_the_cpu_is_used(
    with_cuda_provider, monkeypatch
):
    monkeypatch.setattr(Session, "loads", False)
    with pytest.warns(UserWarning, match=r"device cuda: box_scorer\.onnx runs on the CPU: "):
        session = onnx_session(SHIPPED / "box_scorer.onnx", "cuda")
    assert inference.session_device(session) == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inference.session_device(onnx_session(SHIPPED / "box_scorer.onnx", "auto")) == "cpu"


def test_torch_takes_the_gpu_that_it_sees(monkeypatch):
    monkeypatch.setattr(inference, "has_driver", lambda: True)
    monkeypatch.setattr(inference, "torch_gpus", lambda: 2)
    asked = ("auto", "cpu", "cuda", "cuda:1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken = [torch_device(device, "a test") for device in asked]
    assert taken == ["cuda", "cpu", "cuda", "cuda:1"]
    with pytest.warns(UserWarning, match="^device cuda:2: a test runs on the CPU: torch sees 2"):
        assert torch_device("cuda:2", "a test") == "cpu"


def test_auto_asks_torch_only_where_there_is_a_driver(monkeypatch):
    def fail():
        raise AssertionError("torch was imported")

    monkeypatch.setattr(inference, "has_driver", lambda: False)
    monkeypatch.setattr(inference, "torch_gpus", fail)
    assert torch_device("auto", "a test") == "cpu"
    monkeypatch.setattr(inference, "has_driver", lambda: True)
    with pytest.raises(AssertionError, match="torch was imported"):
        torch_device("auto", "a test")


def test_without_torch_there_is_no_gpu_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert inference.torch_gpus() == 0


def test_a_worker_without_the_recorded_device_is_refused():
    inference.check_device("cpu", "cpu")
    with pytest.raises(ValueError, match=r"this worker has no cuda .*; set device: cpu, or"):
        inference.check_device("cpu", "cuda")


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


def test_an_onnx_model_may_not_name_another_file(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    weights = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 64])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 64])
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [x], [y], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "whole.onnx")
    onnx_session(tmp_path / "whole.onnx")
    onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, location="w.bin")
    assert (tmp_path / "w.bin").is_file()
    with pytest.raises(ValueError, match=r"split\.onnx: not an ONNX model that can be run"):
        onnx_session(tmp_path / "split.onnx")
    monkeypatch.setattr(inference, "MAX_ONNX_BYTES", 100)
    with pytest.raises(ValueError, match=r"whole\.onnx: larger than 100 bytes"):
        onnx_session(tmp_path / "whole.onnx")
