"""Sessions of ONNX files and hashes of weights."""

from __future__ import annotations

import hashlib

import pytest

from imgfp.inference import SHIPPED, onnx_session, sha256_of


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
