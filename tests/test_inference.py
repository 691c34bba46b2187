# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sessions of ONNX files, hashes of weights, optional packages."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings

import numpy as np
import onnxruntime
import pytest

from imgfp import inference
from imgfp.crops.box_features import N_FEATURES
from imgfp.inference import (
    SHIPPED,
    ConfinedSession,
    onnx_session,
    require,
    sha256_of,
    torch_device,
)


def test_shipped_weights_are_there_and_run_on_one_thread():
    session = onnx_session(SHIPPED / "box_scorer.onnx")
    assert session.get_providers() == ["CPUExecutionProvider"]
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_nothing_is_reported_or_left_behind(tmp_path):
    """onnxruntime keeps files where it reports what it runs, except under continuous integration."""
    code = "from imgfp.inference import *; print(onnx_session(SHIPPED / 'box_scorer.onnx'))"
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(tmp_path))
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    subprocess.run([sys.executable, "-c", code], env=inherited | places, check=True)
    assert not list(tmp_path.rglob("*"))


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
    monkeypatch.setattr(inference, "MAX_MODEL_MB", 0.001)
    with pytest.raises(ValueError, match=r"whole\.onnx: larger than 0\.001 MB, the limit"):
        onnx_session(tmp_path / "whole.onnx")


def saved(path, nodes, domains=(("", 17),), **shapes):
    """An ONNX file of these nodes, from `x` of one row to `y`."""
    onnx = pytest.importorskip("onnx")
    sides = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes.get(name, ["n", 4]))
        for name in ("x", "y")
    ]
    graph = onnx.helper.make_graph(nodes, "g", sides[:1], sides[1:])
    opsets = [onnx.helper.make_opsetid(*domain) for domain in domains]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def endless(path):
    """A loop that never ends: its body copies its condition, which is true."""
    from onnx import TensorProto, helper

    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still"]),
            helper.make_node("Identity", ["v"], ["w"]),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("on", TensorProto.BOOL, []),
            info("v", TensorProto.FLOAT, ["n", 4]),
        ],
        [info("still", TensorProto.BOOL, []), info("w", TensorProto.FLOAT, ["n", 4])],
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    nodes = [
        helper.make_node("Constant", [], ["on"], value=true),
        helper.make_node("Loop", ["", "on", "x"], ["y"], body=body),
    ]
    return saved(path, nodes)


def test_a_given_model_runs_in_a_process_that_can_write_no_file(tmp_path):
    path = tmp_path / "box_scorer.onnx"
    path.write_bytes((SHIPPED / "box_scorer.onnx").read_bytes())
    here, there = onnx_session(SHIPPED / "box_scorer.onnx"), onnx_session(path)
    assert isinstance(there, ConfinedSession)
    sides = [[(side.name, side.shape) for side in one.get_inputs()] for one in (here, there)]
    assert sides[0] == sides[1]
    assert there.get_providers() == here.get_providers()
    feed = {sides[0][0][0]: np.random.default_rng(0).random((3, N_FEATURES), np.float32)}
    (expected,), (found,) = here.run(None, feed), there.run(None, feed)
    assert found.dtype == expected.dtype and (found == expected).all() and found.flags.writeable
    there._process._process.kill()  # by whoever: the next batch has a new one
    assert (there.run(None, feed)[0] == expected).all()


def test_a_model_that_never_ends_is_ended(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    session = onnx_session(endless(tmp_path / "endless.onnx"))
    monkeypatch.setattr(inference, "RUN_SECONDS", 0.2)
    message = r"endless\.onnx: this model was ended: it took more than 0\.4 s of processor time"
    with pytest.raises(ValueError, match=message):
        session.run(None, {"x": np.zeros((2, 4), np.float32)})


def test_a_model_that_takes_more_memory_than_the_limit_is_refused(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    shape = onnx.helper.make_tensor("s", onnx.TensorProto.INT64, [2], [2**30, 4])
    nodes = [
        onnx.helper.make_node("Constant", [], ["s"], value=shape),
        onnx.helper.make_node("Expand", ["x", "s"], ["y"]),
    ]
    monkeypatch.setattr(inference, "MAX_RUN_MB", 2000)
    session = onnx_session(saved(tmp_path / "large.onnx", nodes))
    with pytest.raises(ValueError, match=r"large\.onnx: not an ONNX model that can be run: "):
        session.run(None, {"x": np.zeros((1, 4), np.float32)})


def test_operators_that_onnxruntime_does_not_hold_are_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Own", ["x"], ["y"], domain="own.domain")
    path = saved(tmp_path / "own.onnx", [node], [("", 17), ("own.domain", 1)])
    with pytest.raises(ValueError, match=r"own\.onnx: not an ONNX model .*own\.domain"):
        onnx_session(path)


@pytest.mark.parametrize("name", ["own.pt", "own.pth.tar", "own.torchscript", "own.bin", "own"])
def test_a_file_that_can_run_code_is_refused_by_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"cos\nsystem\n(S'exit 3'\ntR.")
    remedy = rf"{name}: neither .* it can run code .*: imgfp convert \S+{name} \S+own\.onnx"
    with pytest.raises(ValueError, match=remedy):
        onnx_session(path)
