# SPDX-License-Identifier: AGPL-3.0-or-later
"""The descriptor in ONNX files: without torch, same vectors and hash as the weights it was exported from."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from imgfp.descriptors import onnx_models
from imgfp.descriptors.base import ModelError, resize_square
from imgfp.descriptors.registry import load_model
from imgfp.inference import SHIPPED, sha256_of

WEIGHTS = SHIPPED / "descriptor.safetensors"


@pytest.fixture(scope="module")
def shipped():
    return load_model("imgfp")


@pytest.fixture
def pictures(mosaics, photograph, other_photograph):
    """Mosaics, and parts of photographs of many sizes and aspects."""
    parts = [
        image[top : top + 120 + 20 * i, left : left + 400 - 30 * i]
        for image in (photograph, other_photograph)
        for i in range(6)
        for top, left in ((10 * i, 20 * i), (180 - 10 * i, 40 * i))
    ]
    return [*mosaics, photograph, other_photograph, *parts]


def test_the_default_model_needs_no_torch():
    code = (
        "import sys\n"
        "for name in ('torch', 'timm', 'safetensors'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from imgfp.descriptors.registry import load_model\n"
        "vectors = load_model('imgfp').embed([np.zeros((9, 7, 3), np.uint8)])\n"
        "assert vectors.shape == (1, 256), vectors.shape"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_weights_hash_is_that_of_the_shipped_safetensors(shipped):
    assert shipped.weights_hash == sha256_of(WEIGHTS)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_vectors_equal_those_of_torch(shipped, pictures, batch_size):
    pytest.importorskip("torch")
    by_torch = load_model("imgfp", str(WEIGHTS))
    assert by_torch.weights_hash == shipped.weights_hash
    assert by_torch.preprocessing == shipped.preprocessing
    expected = by_torch.embed(pictures)
    np.testing.assert_allclose(shipped.embed(pictures, batch_size), expected, rtol=0, atol=1e-5)


def test_vectors_do_not_depend_on_batches_or_order(shipped, pictures):
    whole = shipped.embed(pictures)
    assert (shipped.name, shipped.dim, whole.shape) == ("imgfp", 256, (len(pictures), 256))
    assert shipped.embed([]).shape == (0, 256)
    backwards = shipped.embed(iter(pictures[::-1]), batch_size=4)[::-1]
    np.testing.assert_allclose(backwards, whole, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    cosine = whole @ whole.T
    assert (cosine[~np.eye(len(whole), dtype=bool)] < 0.999).all()  # different pictures differ


def test_preprocessing_is_that_of_the_metadata(shipped, photograph):
    assert shipped.preprocessing.side_px == 160
    assert (shipped.preprocess(photograph) == resize_square(photograph, 160, "area")).all()
    with pytest.raises(ValueError, match=r"image 0: expected an \(H,W,3\) uint8 image"):
        shipped.embed([photograph[..., 0]])


def test_own_weights_can_be_exported(tmp_path, pictures):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from imgfp.descriptors import base, checkpoints, networks
    from imgfp.training.onnx_export import export_descriptor

    torch.manual_seed(0)
    network = networks.CopyNet("regnetx_002", dim=32, grid=2)
    setting = base.Preprocessing(96, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear")
    weights, exported = tmp_path / "own.safetensors", tmp_path / "own.onnx"
    weights.write_bytes(checkpoints.pack_copynet(network, setting))
    export_descriptor(weights, exported)
    by_torch, by_onnx = load_model("imgfp", str(weights)), load_model("imgfp", str(exported))
    assert isinstance(by_onnx, onnx_models.OnnxModel)
    assert by_onnx.dim == 32
    assert by_onnx.weights_hash == by_torch.weights_hash == sha256_of(weights)
    assert by_onnx.preprocessing == setting
    for batch_size in (1, 32):
        vectors = by_onnx.embed(pictures, batch_size)
        np.testing.assert_allclose(vectors, by_torch.embed(pictures), rtol=0, atol=1e-5)


def test_errors_name_the_file_and_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"absent\.onnx does not exist; check the path"):
        load_model("imgfp", str(tmp_path / "absent.onnx"))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"damaged\.onnx: not an ONNX model"):
        load_model("imgfp", str(damaged))
    with pytest.raises(ModelError, match=r"pair_classifier\.onnx does not name its prepro"):
        load_model("imgfp", str(SHIPPED / "pair_classifier.onnx"))
    shipped = str(onnx_models.DESCRIPTOR_ONNX)
    with pytest.raises(ModelError, match=r"model 'resnet10t' takes a file \.safetensors"):
        load_model("resnet10t", shipped)
    with pytest.raises(ModelError, match=r"model 'sscd' takes a file \.onnx"):
        load_model("sscd", "own.safetensors")
    moved = tmp_path / "descriptor.onnx"
    monkeypatch.setattr("imgfp.descriptors.registry.DESCRIPTOR_ONNX", moved)
    monkeypatch.setattr(onnx_models, "DESCRIPTOR_ONNX", moved)
    with pytest.raises(ModelError, match=r"descriptor\.onnx does not exist; reinstall imgfp"):
        load_model("imgfp")
