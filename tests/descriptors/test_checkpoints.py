# SPDX-License-Identifier: AGPL-3.0-or-later
"""Published models: state dicts are written in the published layout with random values, loaded, and
compared with a forward pass that is written out here."""

import argparse
import json
import os
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
import safetensors.torch
from torch import nn
from torch.nn import functional as F

from imgfp.descriptors import checkpoints, networks
from imgfp.descriptors.base import IMAGENET, ModelError, Preprocessing
from imgfp.descriptors.registry import load_model
from imgfp.training.convert import read_tensors


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (40 + 9 * i, 64, 3), np.uint8) for i in range(3)]


def unit(vectors):
    return (vectors / vectors.norm(dim=1, keepdim=True)).numpy()


def normalised(model, pictures, mean, std):
    pixels = torch.from_numpy(np.stack([model.preprocess(p) for p in pictures])).float() / 255
    return ((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


def randomise(module, seed=0):
    """Random weights, and running statistics that differ from their defaults."""
    torch.manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            scale = 0.5 + torch.rand_like(value) if name.endswith("var") else None
            value.copy_(value + 0.05 * torch.randn_like(value) if scale is None else scale)
    return module.eval()


def converted(content, path):
    """A published checkpoint as `imgfp convert` writes it; returns the path as text."""
    torch.save(content, path)
    tensors = read_tensors(path)
    safetensors.torch.save_file(
        {name: value.clone() for name, value in tensors.items()}, path.with_suffix(".safetensors")
    )
    return str(path.with_suffix(".safetensors"))


# EsViT


def published_swin(width, depths, heads, window, side=56):
    """Names and shapes of the published backbone, with the buffers that it also holds."""
    shapes = {
        "patch_embed.proj.weight": (width, 3, 4, 4),
        "patch_embed.proj.bias": (width,),
        "patch_embed.norm.weight": (width,),
        "patch_embed.norm.bias": (width,),
    }
    for stage, depth in enumerate(depths):
        wide, inside = width * 2**stage, min(window, side // 2**stage)
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}."
            for norm in ("norm1", "norm2"):
                shapes |= {f"{at}{norm}.weight": (wide,), f"{at}{norm}.bias": (wide,)}
            table = ((2 * inside - 1) ** 2, heads[stage])
            shapes[at + "attn.relative_position_bias_table"] = table
            shapes[at + "attn.relative_position_index"] = (inside**2, inside**2)
            for layer, out, into in (
                ("attn.qkv", 3 * wide, wide),
                ("attn.proj", wide, wide),
                ("mlp.fc1", 4 * wide, wide),
                ("mlp.fc2", wide, 4 * wide),
            ):
                shapes |= {f"{at}{layer}.weight": (out, into), f"{at}{layer}.bias": (out,)}
        if stage < len(depths) - 1:
            at = f"layers.{stage}.downsample."
            shapes |= {at + "reduction.weight": (2 * wide, 4 * wide)}
            shapes |= {at + "norm.weight": (4 * wide,), at + "norm.bias": (4 * wide,)}
    return shapes | {"norm.weight": (wide,), "norm.bias": (wide,)}


def swin_last_blocks(w, images, depths, heads, window, last=4):
    """Mean tokens of the last blocks, by the definitions of Swin and EsViT."""

    def norm(x, at):
        return F.layer_norm(x, x.shape[-1:], w[at + ".weight"], w[at + ".bias"], eps=1e-6)

    def linear(x, at):
        return F.linear(x, w[at + ".weight"], w.get(at + ".bias"))

    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=4)
    x = norm(x.permute(0, 2, 3, 1), "patch_embed.norm")
    pooled = []
    for stage, depth in enumerate(depths):
        side = x.shape[1]
        size = min(window, side)
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}."
            shift = size // 2 if block % 2 and side > window else 0
            y = norm(x, at + "norm1").roll((-shift, -shift), (1, 2))
            # Which part of the unshifted picture a token comes from: only equals may attend.
            part = torch.zeros(side, side)
            if shift:
                part[-shift:] += 1
                part[:, -shift:] += 2
            out = torch.empty_like(y)
            row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
            row, column = row.flatten(), column.flatten()
            index = (row[:, None] - row + size - 1) * (2 * size - 1)
            index = index + column[:, None] - column + size - 1
            bias = w[at + "attn.relative_position_bias_table"][index].permute(2, 0, 1)
            for top in range(0, side, size):
                for left in range(0, side, size):
                    here = (slice(None), slice(top, top + size), slice(left, left + size))
                    tokens = y[here].flatten(1, 2)
                    n, count, wide = tokens.shape
                    q, k, v = linear(tokens, at + "attn.qkv").reshape(
                        n, count, 3, heads[stage], wide // heads[stage]
                    ).permute(2, 0, 3, 1, 4)  # fmt: skip
                    scores = q @ k.transpose(-1, -2) / (wide // heads[stage]) ** 0.5 + bias
                    label = part[here[1:]].flatten()
                    scores = scores.masked_fill(label[:, None] != label, -torch.inf)
                    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, count, wide)
                    out[here] = linear(mixed, at + "attn.proj").reshape(n, size, size, wide)
            x = x + out.roll((shift, shift), (1, 2))
            x = x + linear(F.gelu(linear(norm(x, at + "norm2"), at + "mlp.fc1")), at + "mlp.fc2")
            seen = norm(x, "norm") if stage == len(depths) - 1 else x
            pooled.append(seen.mean(dim=(1, 2)))
        if stage < len(depths) - 1:
            at = f"layers.{stage}.downsample."
            corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
            x = linear(norm(torch.cat(corners, -1), at + "norm"), at + "reduction")
    return torch.cat(pooled[-last:], 1)


SMALL = {"width": 8, "depths": (2, 2, 4, 2), "heads": (1, 2, 2, 4), "window": 14}


def random_tensors(shapes, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(shape, generator=rng) for name, shape in shapes.items()}


@pytest.fixture
def small_esvit(monkeypatch):
    monkeypatch.setattr(checkpoints, "EsViT", partial(networks.EsViT, **SMALL))
    shapes = published_swin(**SMALL) | {
        "head.mlp.0.weight": (4, 4),
        "head_dense.last_layer.weight": (4,),
    }
    return random_tensors(shapes), random_tensors(
        {"linear.weight": (256, 192 // 4 * 4), "linear.bias": (256,)}
    )


def test_esvit_with_its_linear_head_agrees_with_the_published_forward(
    small_esvit, tmp_path, pictures
):
    backbone, head = small_esvit
    head = random_tensors({"linear.weight": (256, 32 + 32 + 64 + 64), "linear.bias": (256,)})
    teacher = {f"module.backbone.{k}": v for k, v in backbone.items()}
    both = (
        converted({"teacher": teacher, "epoch": 3}, tmp_path / "backbone.pth"),
        converted(
            {"state_dict": {f"module.{k}": v for k, v in head.items()}}, tmp_path / "head.pth"
        ),
    )
    model = load_model("esvit-swin-b", os.pathsep.join(both))
    assert model.dim == 256
    assert model.preprocessing.side_px == 224
    assert model.preprocessing.interpolation == "bicubic"
    images = normalised(model, pictures, *IMAGENET)
    features = swin_last_blocks(
        backbone, images, **{k: SMALL[k] for k in ("depths", "heads", "window")}
    )
    expected = unit(F.linear(features, head["linear.weight"], head["linear.bias"]))
    np.testing.assert_allclose(model.embed(pictures), expected, atol=2e-5)


def test_esvit_features_need_no_head(small_esvit, tmp_path, pictures):
    backbone, _ = small_esvit
    teacher = {f"backbone.{k}": v for k, v in backbone.items()}
    path = converted({"teacher": teacher}, tmp_path / "b.pth")
    model = load_model("esvit-swin-b-features", path)
    assert model.dim == 192
    with pytest.raises(ModelError, match=r"2 missing: linear\.bias, linear\.weight.*linear head"):
        load_model("esvit-swin-b", path)


def test_the_full_esvit_has_the_published_names_and_shapes():
    with torch.device("meta"):
        full = networks.EsViT()
    published = published_swin(128, (2, 2, 18, 2), (4, 8, 16, 32), 14)
    published = {k: torch.empty(v, device="meta") for k, v in published.items()}
    ours = {k: tuple(v.shape) for k, v in full.state_dict().items()}
    theirs = {k: tuple(v.shape) for k, v in checkpoints.esvit_layout(published).items()}
    assert theirs | {"linear.weight": (256, 3072), "linear.bias": (256,)} == ours


# ISC2021 descriptor track


def test_isc21_agrees_with_the_published_forward(monkeypatch, tmp_path, pictures):
    small = "tf_efficientnetv2_b0"  # the same blocks as M, fewer
    monkeypatch.setattr(checkpoints, "IscNet", partial(networks.IscNet, backbone=small))
    torch.manual_seed(0)
    trunk = randomise(timm.create_model(small))
    head = random_tensors({"fc.weight": (256, 192), "bn.weight": (256,), "bn.bias": (256,)})
    head |= {"bn.running_mean": torch.randn(256), "bn.running_var": 1 + torch.rand(256)}
    kept = {
        k: v
        for k, v in trunk.state_dict().items()
        if k.split(".")[0] in ("conv_stem", "bn1", "blocks")
    }
    state = {f"module.backbone.{k}": v for k, v in kept.items()}
    state |= {f"module.{k}": v for k, v in head.items()} | {
        "module.bn.num_batches_tracked": torch.tensor(1)
    }
    args = argparse.Namespace(input_size=512)
    content = {"arch": small, "args": args, "state_dict": state}
    model = load_model("isc21-dt1", converted(content, tmp_path / "isc.pth.tar"))
    assert model.preprocessing.side_px == 512
    images = normalised(model, pictures[:2], (0.5,) * 3, (0.5,) * 3)
    with torch.inference_mode():
        maps = trunk.blocks(trunk.bn1(trunk.conv_stem(images)))
        pooled = F.avg_pool2d(maps.clamp(min=1e-6), maps.shape[-2:]).flatten(1)
    centred = (pooled @ head["fc.weight"].T - head["bn.running_mean"]) / (
        head["bn.running_var"] + 1e-5
    ).sqrt()
    expected = unit(centred * head["bn.weight"] + head["bn.bias"])
    np.testing.assert_allclose(model.embed(pictures[:2]), expected, atol=1e-5)


# timm


def test_any_timm_model_loads_from_a_file(tmp_path, pictures):
    network = randomise(timm.create_model("resnet10t"))
    model = load_model("resnet10t", converted(network.state_dict(), tmp_path / "resnet.pth"))
    config = timm.data.resolve_model_data_config(network)
    with torch.inference_mode():
        images = normalised(model, pictures, config["mean"], config["std"])
        expected = unit(network.forward_features(images).mean(dim=(2, 3)))
    np.testing.assert_allclose(model.embed(pictures), expected, atol=1e-5)


def test_dinov2_in_its_authors_layout_agrees_with_a_plain_vision_transformer(tmp_path, pictures):
    """ViT-S/14 with layer scale at 518 px; the class token after the last norm."""
    wide, heads, blocks = 384, 6, 12
    shapes = {"cls_token": (1, 1, wide), "mask_token": (1, wide), "pos_embed": (1, 1370, wide)}
    shapes |= {"patch_embed.proj.weight": (wide, 3, 14, 14), "patch_embed.proj.bias": (wide,)}
    shapes |= {"norm.weight": (wide,), "norm.bias": (wide,)}
    for i in range(blocks):
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.weight": (wide,), f"blocks.{i}.{norm}.bias": (wide,)}
        shapes |= {f"blocks.{i}.ls{j}.gamma": (wide,) for j in (1, 2)}
        for layer, out, into in (
            ("attn.qkv", 3 * wide, wide),
            ("attn.proj", wide, wide),
            ("mlp.fc1", 4 * wide, wide),
            ("mlp.fc2", wide, 4 * wide),
        ):
            shapes |= {
                f"blocks.{i}.{layer}.weight": (out, into),
                f"blocks.{i}.{layer}.bias": (out,),
            }
    w = {k: v / 6 for k, v in random_tensors(shapes).items()}
    path = converted(w, tmp_path / "dinov2_vits14.pth")
    model = load_model("vit_small_patch14_dinov2.lvd142m", path)

    def norm(x, at):
        return F.layer_norm(x, (wide,), w[at + ".weight"], w[at + ".bias"], eps=1e-6)

    images = normalised(model, pictures[:1], *IMAGENET)
    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=14)
    x = torch.cat([w["cls_token"], x.flatten(2).transpose(1, 2)], 1) + w["pos_embed"]
    for i in range(blocks):
        at = f"blocks.{i}."
        qkv = F.linear(norm(x, at + "norm1"), w[at + "attn.qkv.weight"], w[at + "attn.qkv.bias"])
        q, k, v = qkv.reshape(1, -1, 3, heads, wide // heads).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-1, -2) / 8).softmax(-1) @ v).transpose(1, 2).flatten(2)
        mixed = F.linear(mixed, w[at + "attn.proj.weight"], w[at + "attn.proj.bias"])
        x = x + w[at + "ls1.gamma"] * mixed
        y = F.gelu(
            F.linear(norm(x, at + "norm2"), w[at + "mlp.fc1.weight"], w[at + "mlp.fc1.bias"])
        )
        x = x + w[at + "ls2.gamma"] * F.linear(y, w[at + "mlp.fc2.weight"], w[at + "mlp.fc2.bias"])
    np.testing.assert_allclose(model.embed(pictures[:1]), unit(norm(x, "norm")[:, 0]), atol=2e-5)


def test_dinov3_loads_through_timm(tmp_path, pictures):
    network = randomise(timm.create_model("vit_small_patch16_dinov3"))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "v3.safetensors")
    model = load_model("vit_small_patch16_dinov3", str(tmp_path / "v3.safetensors"))
    with torch.inference_mode():
        images = normalised(model, pictures[:1], *IMAGENET)
        expected = unit(network.forward_head(network.forward_features(images), pre_logits=True))
    np.testing.assert_allclose(model.embed(pictures[:1]), expected, atol=1e-5)


def test_errors_of_timm_name_the_file(tmp_path):
    with pytest.raises(ModelError, match="unknown descriptor model 'resnet10x'"):
        load_model("resnet10x")
    other = converted({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    message = r"no weights of 'resnet10t' from .*other\.safetensors.*Missing key"
    with pytest.raises(ModelError, match=message):
        load_model("resnet10t", other)


# Files


def test_a_pickle_is_neither_read_by_its_own_name_nor_by_another(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth.tar")
    remedy = (
        r"trap\.pth\.tar: .*can run code.*: imgfp convert \S+trap\.pth\.tar \S+trap\.safetensors"
    )
    with pytest.raises(ModelError, match=remedy):
        load_model("isc21-dt1", str(tmp_path / "trap.pth.tar"))
    (tmp_path / "trap.pth.tar").rename(tmp_path / "trap.safetensors")
    with pytest.raises(ModelError, match=r"trap\.safetensors cannot be read as safetensors"):
        load_model("isc21-dt1", str(tmp_path / "trap.safetensors"))
    assert not (tmp_path / "sprung").exists()


def test_a_header_of_a_size_that_no_file_has_is_refused(tmp_path):
    path = tmp_path / "huge.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match=r"huge\.safetensors cannot be read as safetensors"):
        load_model("isc21-dt1", str(path))


@pytest.mark.parametrize("name", ["esvit-swin-b", "isc21-dt1", "sscd"])
def test_a_model_without_its_file_names_the_source(name):
    with pytest.raises(ModelError, match=r"needs a weights file.*github\.com"):
        load_model(name)


def test_weights_of_another_shape_are_named():
    layer = nn.Linear(2, 3)
    with pytest.raises(
        ModelError, match=r"1 missing: bias.*1 unknown: scale.*weight is \(3, 1\), not \(3, 2\)"
    ):
        checkpoints.fill(
            layer, {"weight": torch.zeros(3, 1), "scale": torch.zeros(1)}, "x.pth", "Get it there."
        )


# The trainable model


def packed(tmp_path, seed=0):
    torch.manual_seed(seed)
    network = networks.CopyNet("regnetx_002", dim=32)
    setting = Preprocessing(64, interpolation="area")
    path = tmp_path / f"{seed}.safetensors"
    path.write_bytes(checkpoints.pack_copynet(network, setting))
    return network.eval(), path


def test_a_packed_network_comes_back(tmp_path, pictures):
    network, path = packed(tmp_path)
    model = load_model("imgfp", str(path))
    assert model.dim == 32
    assert model.preprocessing == Preprocessing(64, interpolation="area")
    with torch.inference_mode():
        expected = network(normalised(model, pictures, *IMAGENET)).numpy()
    np.testing.assert_allclose(model.embed(pictures), expected, atol=5e-3)  # float16 weights
    assert load_model("imgfp", str(packed(tmp_path, 1)[1])).weights_hash != model.weights_hash


def test_vectors_do_not_depend_on_batches_or_order(tmp_path, pictures):
    model = load_model("imgfp", str(packed(tmp_path)[1]))
    many = pictures * 3
    whole = model.embed(many, batch_size=9)
    assert model.embed([]).shape == (0, 32)
    np.testing.assert_allclose(model.embed(iter(many), batch_size=2), whole, atol=1e-5)
    np.testing.assert_allclose(model.embed(many[::-1], batch_size=4)[::-1], whole, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)


def test_a_file_without_its_settings_is_refused(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ModelError, match="does not name its backbone"):
        load_model("imgfp", str(tmp_path / "bare.safetensors"))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"backbone": "hf-hub:someone/model"}, "'hf-hub:someone/model' is no model of timm"),
        ({"dim": 2**40}, r"of another shape: project\.bias is \(32,\), not \(1099511627776,\)"),
        ({"dim": "many"}, "does not name its backbone"),
    ],
)
def test_settings_of_another_network_are_refused_before_it_is_built(tmp_path, network, message):
    _, path = packed(tmp_path)
    with safetensors.safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    config["network"] |= network
    about = {"config": json.dumps(config)}
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, about)
    with pytest.raises(ModelError, match=message):
        load_model("imgfp", str(path))
