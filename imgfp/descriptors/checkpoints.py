# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints of descriptor models: reading published layouts, inference with torch.

`imgfp.descriptors.registry.load_model` is the way in. Weights are files of safetensors, which hold tensors only;
`imgfp convert` makes them of PyTorch's files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from torch import nn

from imgfp.descriptors.base import PUBLISHED, Model, ModelError, Preprocessing
from imgfp.descriptors.networks import CopyNet, EsViT, IscNet
from imgfp.descriptors.onnx_models import PACKAGED
from imgfp.inference import SHIPPED, sha256_of, torch_device

#: The shipped weights.
DESCRIPTOR_WEIGHTS = SHIPPED / "descriptor.safetensors"


class Normalised(nn.Module):
    """A network with the arithmetic of its preprocessing: (n,h,w,3) uint8 pixels -> (n,d)."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        self.network = network
        # Here, since `torch.jit.script` cannot read them in the class.
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name)).reshape(1, 3, 1, 1)
            self.register_buffer(name, values)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        return self.network(images.contiguous(memory_format=torch.channels_last))


class TorchModel(Model):
    """A network with its preprocessing.

    The network runs in float32 on the CPU, in float16 on a GPU.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        preprocessing: Preprocessing,
        weights_hash: str,
        device: str = "cpu",
    ):
        self.name, self.weights_hash = name, weights_hash
        self.preprocessing, self._device = preprocessing, torch.device(device)
        self.device = self._device.type
        self.network = Normalised(network, preprocessing).eval().to(self._device)
        blank = np.zeros((preprocessing.side_px, preprocessing.side_px, 3), np.uint8)
        self.dim = self._vectors(blank[None]).shape[1]

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """(side_px,side_px,3) uint8: the image resized to a square."""
        return self.preprocessing.resized(image)

    def _vectors(self, batch: np.ndarray) -> np.ndarray:
        half = self.device != "cpu"
        with torch.inference_mode(), torch.autocast(self.device, torch.float16, enabled=half):
            return self.network(torch.from_numpy(batch).to(self._device)).float().cpu().numpy()


# Weights


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a .safetensors file. Raises ModelError for any other."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error


def fill(network: nn.Module, tensors: dict[str, torch.Tensor], path: str, advice: str) -> None:
    """Load `tensors` into `network`. Raises what `check_tensors` raises."""
    check_tensors(network, tensors, path, advice)
    network.load_state_dict(tensors)


def check_tensors(
    network: nn.Module, tensors: dict[str, torch.Tensor], path: str, advice: str
) -> None:
    """Raises ModelError naming keys that are missing, unknown or of another shape than those of `network`, followed
    by `advice`."""
    expected = network.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if expected[name].shape != tensors[name].shape
    ]
    faults = [("missing", missing), ("unknown", unknown), ("of another shape", shapes)]
    differences = [f"{len(keys)} {what}: {', '.join(keys[:4])}" for what, keys in faults if keys]
    if differences:
        raise ModelError(f"{path} does not fit this model; keys {'; '.join(differences)}. {advice}")


def esvit_layout(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the published layout of EsViT, and of its linear evaluation head, under the names of
    `imgfp.descriptors.networks.EsViT`."""
    renamed = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("backbone.")
        if name.startswith("linear."):
            renamed[name] = tensor
        # Left out: the heads of self-supervised training, and buffers that timm computes.
        elif not name.startswith("head") and "relative_position_index" not in name:
            parts = name.split(".")
            if "downsample" in parts:  # published at the end of a stage, in timm before the next
                parts[1] = str(int(parts[1]) + 1)
            renamed["swin." + ".".join(parts)] = tensor
    return renamed


# Models by name


def _load_copynet(name: str, paths: list[str], device: str) -> TorchModel:
    return TorchModel(name, *unpack_copynet(paths[0]), sha256_of(paths[0]), device)


def _read_copynet(path: str) -> tuple[dict[str, torch.Tensor], dict]:
    tensors = {name: tensor.float() for name, tensor in read_weights(path).items()}
    with safetensors.safe_open(path, "pt") as file:
        config = (file.metadata() or {}).get("config", "{}")
    # Batch norm counts batches in integers, which a float16 file does not store exactly.
    return {
        name: tensor.long() if name.endswith("num_batches_tracked") else tensor
        for name, tensor in tensors.items()
    }, json.loads(config)


def pack_copynet(network: CopyNet, preprocessing: Preprocessing) -> bytes:
    """A float16 safetensors file with everything that `load_model("imgfp", path)` needs."""
    config = {"network": network.shape, "preprocessing": asdict(preprocessing)}
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    return safetensors.torch.save(tensors, {"config": json.dumps(config)})


def unpack_copynet(path: str | Path) -> tuple[CopyNet, Preprocessing]:
    """What `pack_copynet` wrote, in float32. Raises ModelError for a file of another layout."""
    try:
        tensors, config = _read_copynet(str(path))
        shape = {name: config["network"][name] for name in ("backbone", "dim", "levels", "grid")}
        preprocessing = Preprocessing(**config["preprocessing"])
        if shape["backbone"] not in timm.list_models():  # others are files, or come from the hub
            raise ValueError(f"{shape['backbone']!r} is no model of timm")
        with torch.device("meta"):  # nothing is allocated that the file does not hold
            layout = CopyNet(**shape)
    except ModelError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} does not name its backbone ({error}); export it with notebook 21"
        ) from None
    check_tensors(layout, tensors, str(path), PUBLISHED["imgfp"])
    network = CopyNet(**shape)
    network.load_state_dict(tensors)
    return network, preprocessing


def _load_esvit(name: str, paths: list[str], device: str) -> TorchModel:
    network = EsViT(dim=0 if name == "esvit-swin-b-features" else 256)
    tensors = esvit_layout({k: v for path in paths for k, v in read_weights(path).items()})
    if name == "esvit-swin-b-features":
        tensors = {k: v for k, v in tensors.items() if not k.startswith("linear.")}
    fill(network, tensors, " and ".join(paths), PUBLISHED[name])
    return TorchModel(name, network, Preprocessing(224), _hash(paths), device)


def _load_isc(name: str, paths: list[str], device: str) -> TorchModel:
    network = IscNet()
    fill(network, read_weights(paths[0]), paths[0], PUBLISHED[name])
    half = (0.5, 0.5, 0.5)
    return TorchModel(
        name, network, Preprocessing(512, half, half, "bilinear"), _hash(paths), device
    )


def _load_timm(name: str, paths: list[str], device: str) -> TorchModel:
    """A model of timm, which knows the layouts of its own models: pooled features without classifier."""
    overlay = {"state_dict": read_weights(paths[0])} if paths else None
    try:
        # The classifier is removed after loading, because timm checks the keys of whole models only.
        network: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        network.reset_classifier(0)
    except Exception as error:  # the hub client raises any error of its transport
        source = paths[0] if paths else "the hub"
        reason = " ".join(str(error).split())[:400]
        raise ModelError(
            f"no weights of {name!r} from {source}: {reason}. Set `weights` to the path of a "
            "file in timm's or the authors' layout, or connect to the hub"
        ) from error
    config = timm.data.resolve_model_data_config(network)
    method = config["interpolation"] if config["interpolation"] == "bilinear" else "bicubic"
    steps = Preprocessing(config["input_size"][1], config["mean"], config["std"], method)
    tensor_bytes = (v.numpy().tobytes() for v in network.state_dict().values())
    weights_hash = _hash(paths) if paths else _digest(tensor_bytes)
    return TorchModel(name, network, steps, weights_hash, device)


def _hash(paths: list[str]) -> str:
    return "+".join(sha256_of(path) for path in paths)


def _digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


#: Loaders of models by name, besides those of `timm.list_models()`: (name, paths, device) -> model.
MODELS: dict[str, Callable[[str, list[str], str], TorchModel]] = {
    "imgfp": _load_copynet,
    "esvit-swin-b": _load_esvit,
    "esvit-swin-b-features": _load_esvit,
    "isc21-dt1": _load_isc,
}


def load(name: str, weights: str, device: str) -> TorchModel:
    """See `imgfp.descriptors.registry.load_model`."""
    device = torch_device(device, f"descriptor model {name!r}")
    paths = [path for path in weights.split(os.pathsep) if path]
    for path in paths:
        if not Path(path).is_file():
            advice = PUBLISHED.get(name, "Check the path")
            raise ModelError(f"weights file {path} does not exist. {advice}")
    if name not in MODELS:
        if timm.is_model(name.split(".")[0]):
            return _load_timm(name, paths, device)
        raise ModelError(
            f"unknown descriptor model {name!r}; choose gist-grid, {', '.join((*PUBLISHED, *PACKAGED))}, "
            "phash, pdq or a name of timm.list_models()"
        )
    if name == "imgfp" and not paths:
        paths = [str(DESCRIPTOR_WEIGHTS)]
        if not DESCRIPTOR_WEIGHTS.is_file():
            raise ModelError(
                f"the shipped weights {DESCRIPTOR_WEIGHTS} are missing; reinstall imgfp"
            )
    return MODELS[name](name, paths, device)
