"""Models behind `imgfp.descriptors.registry.load_model`: published layouts of weights, preprocessing, running.

Weights are read as tensors only: safetensors, PyTorch files with `weights_only`, TorchScript.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
from torch import nn

from imgfp.descriptors.base import (
    ModelError,
    check_image,
    l2_normalise,
    prepared_batches,
    resize_square,
)
from imgfp.descriptors.networks import CopyNet, EsViT, IscNet
from imgfp.inference import SHIPPED, sha256_of

#: The shipped weights.
DESCRIPTOR_WEIGHTS = SHIPPED / "descriptor.safetensors"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Preprocessing:
    """What an image goes through: squeezed to side_px square by `interpolation` ("area", "bilinear"
    or "bicubic"), scaled to 0..1, less `mean`, divided by `std` (RGB)."""

    side_px: int
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # JSON gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))


class TorchModel:
    """A network with its preprocessing, as `imgfp.descriptors.base.Model` describes.

    On the CPU everything is float32; on a GPU the network runs in float16.
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
        self.preprocessing, self.device = preprocessing, torch.device(device)
        self.network = network.eval().to(self.device)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(preprocessing.mean, device=self.device).reshape(shape)
        self._std = torch.tensor(preprocessing.std, device=self.device).reshape(shape)
        blank = np.zeros((preprocessing.side_px, preprocessing.side_px, 3), np.uint8)
        self.dim = self._run(blank[None]).shape[1]

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """(side_px,side_px,3) uint8: the squeezed image."""
        setting = self.preprocessing
        return resize_square(check_image(image), setting.side_px, setting.interpolation)

    def embed(self, images: Iterable[np.ndarray], batch_size: int = 32) -> np.ndarray:
        """See `imgfp.descriptors.base.Model.embed`."""
        parts = [
            self._run(batch) for batch in prepared_batches(images, self.preprocess, batch_size)
        ]
        return l2_normalise(np.concatenate(parts)) if parts else np.empty((0, self.dim), np.float32)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        half = self.device.type != "cpu"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.float16, enabled=half):
            pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).float() / 255
            pixels = ((pixels - self._mean) / self._std).contiguous(
                memory_format=torch.channels_last
            )
            return self.network(pixels).float().cpu().numpy()


# Weights


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a .safetensors or PyTorch file, whatever dictionary they lie in.

    Of nested dictionaries the one named teacher, state_dict or model is taken; prefixes that
    training wrappers leave ("module.", "backbone." where all have it) stay for the caller.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # Published checkpoints carry their command line, an argparse.Namespace of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch lets every error of its reader through
        said = str(error).split("\n")[0]
        raise ModelError(f"{path} cannot be read as a file of tensors only: {said}") from error
    for key in ("teacher", "state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    tensors = {k: v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def fill(network: nn.Module, tensors: dict[str, torch.Tensor], path: str, advice: str) -> None:
    """Put `tensors` into `network`. Raises ModelError naming keys that are missing, unknown or of
    another shape."""
    ours = network.state_dict()
    missing = sorted(ours.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - ours.keys())
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(ours[name].shape)}"
        for name in sorted(ours.keys() & tensors.keys())
        if ours[name].shape != tensors[name].shape
    ]
    faults = [("missing", missing), ("unknown", unknown), ("of another shape", shapes)]
    said = [f"{len(keys)} {what}: {', '.join(keys[:4])}" for what, keys in faults if keys]
    if said:
        raise ModelError(f"{path} does not fit this model; keys {'; '.join(said)}. {advice}")
    network.load_state_dict(tensors)


def esvit_layout(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published layout of EsViT, and of its linear evaluation head, in this module's names."""
    renamed = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("backbone.")
        if name.startswith("linear."):
            renamed[name] = tensor
        # The heads of self-supervised training and the buffers that follow from the sizes.
        elif not name.startswith("head") and "relative_position_index" not in name:
            parts = name.split(".")
            if "downsample" in parts:  # published: at the end of a stage; here: before the next
                parts[1] = str(int(parts[1]) + 1)
            renamed["swin." + ".".join(parts)] = tensor
    return renamed


# Models by name


def _load_copynet(name: str, paths: list[str], device: str) -> TorchModel:
    return TorchModel(name, *unpack_copynet(paths[0]), sha256_of(paths[0]), device)


def _read_copynet(path: str) -> tuple[dict[str, torch.Tensor], dict]:
    tensors = {name: tensor.float() for name, tensor in read_weights(path).items()}
    said = None
    if Path(path).suffix == ".safetensors":
        with safetensors.safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get("config")
    if said is None:
        raise ModelError(f"{path} names no backbone; export it with notebook 21")
    # The count of batches seen is an integer, which a float16 file does not carry exactly.
    return {
        name: tensor.long() if name.endswith("num_batches_tracked") else tensor
        for name, tensor in tensors.items()
    }, json.loads(said)


def pack_copynet(network: CopyNet, preprocessing: Preprocessing) -> bytes:
    """A float16 safetensors file that holds all that `load_model("imgfp", path)` needs."""
    config = {"network": network.shape, "preprocessing": asdict(preprocessing)}
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    return safetensors.torch.save(tensors, {"config": json.dumps(config)})


def unpack_copynet(path: str | Path) -> tuple[CopyNet, Preprocessing]:
    """What `pack_copynet` wrote, in float32. Raises ModelError for a file of another layout."""
    tensors, config = _read_copynet(str(path))
    network = CopyNet(**config["network"])
    fill(network, tensors, str(path), MODELS["imgfp"].advice)
    return network, Preprocessing(**config["preprocessing"])


def _load_esvit(name: str, paths: list[str], device: str) -> TorchModel:
    network = EsViT(dim=0 if name == "esvit-swin-b-features" else 256)
    tensors = esvit_layout({k: v for path in paths for k, v in read_weights(path).items()})
    if name == "esvit-swin-b-features":
        tensors = {k: v for k, v in tensors.items() if not k.startswith("linear.")}
    fill(network, tensors, " and ".join(paths), MODELS[name].advice)
    return TorchModel(name, network, Preprocessing(224), _hash(paths), device)


def _load_isc(name: str, paths: list[str], device: str) -> TorchModel:
    network = IscNet()
    fill(network, read_weights(paths[0]), paths[0], MODELS[name].advice)
    half = (0.5, 0.5, 0.5)
    return TorchModel(
        name, network, Preprocessing(512, half, half, "bilinear"), _hash(paths), device
    )


def _load_sscd(name: str, paths: list[str], device: str) -> TorchModel:
    try:
        network = torch.jit.load(paths[0], map_location="cpu")
    except RuntimeError as error:
        raise ModelError(f"{paths[0]} is no TorchScript file. {MODELS[name].advice}") from error
    setting = Preprocessing(320, interpolation="bilinear")
    return TorchModel(name, network, setting, _hash(paths), device)


def _load_timm(name: str, paths: list[str], device: str) -> TorchModel:
    """Pooled features before the classifier; timm knows the layouts of its own models."""
    overlay = {"state_dict": read_weights(paths[0])} if paths else None
    try:
        # The classifier is dropped after loading: timm is strict only about whole models.
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        network.reset_classifier(0)
    except Exception as error:  # the hub client raises whatever its transport does
        source = paths[0] if paths else "the hub"
        said = " ".join(str(error).split())[:400]
        raise ModelError(
            f"no weights of {name!r} from {source}: {said}. Give `weights` the path of a "
            "file in timm's or the authors' layout, or connect to the hub"
        ) from error
    config = timm.data.resolve_model_data_config(network)
    how = config["interpolation"] if config["interpolation"] == "bilinear" else "bicubic"
    setting = Preprocessing(config["input_size"][1], config["mean"], config["std"], how)
    bytes_of = (v.numpy().tobytes() for v in network.state_dict().values())
    return TorchModel(name, network, setting, _hash(paths) if paths else _digest(bytes_of), device)


def _hash(paths: list[str]) -> str:
    return "+".join(sha256_of(path) for path in paths)


def _digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


@dataclass(frozen=True)
class Entry:
    """A model by name: how to load it from paths, how many files it needs, where they come from."""

    load: Callable[[str, list[str], str], TorchModel]
    advice: str


_ESVIT = (
    "The backbone is published as the full checkpoint of EsViT (Swin-B, W=14) in the README of "
    "github.com/microsoft/esvit"
)
#: Models by name, besides those that `timm.list_models()` names.
MODELS: dict[str, Entry] = {
    "imgfp": Entry(
        _load_copynet, "Leave weights empty for the shipped file, or train with notebook 21"
    ),
    "esvit-swin-b": Entry(
        _load_esvit,
        f"{_ESVIT}; the linear head (linear.weight (256,3072), linear.bias) comes in the same file or "
        f"in a second one, both paths joined by {os.pathsep!r}",
    ),
    "esvit-swin-b-features": Entry(_load_esvit, _ESVIT),
    "isc21-dt1": Entry(
        _load_isc,
        "isc_ft_v107.pth.tar is published in the releases of "
        "github.com/lyakaap/ISC21-Descriptor-Track-1st",
    ),
    "sscd": Entry(
        _load_sscd,
        "sscd_disc_mixup.torchscript.pt is linked in the README of "
        "github.com/facebookresearch/sscd-copy-detection",
    ),
}


def load(name: str, weights: str, device: str) -> TorchModel:
    """See `imgfp.descriptors.registry.load_model`."""
    paths = [path for path in weights.split(os.pathsep) if path]
    for path in paths:
        if not Path(path).is_file():
            advice = MODELS[name].advice if name in MODELS else "Check the path"
            raise ModelError(f"weights file {path} does not exist. {advice}")
    if name not in MODELS:
        if timm.is_model(name.split(".")[0]):
            return _load_timm(name, paths, device)
        raise ModelError(
            f"unknown descriptor model {name!r}; choose gist-grid, {', '.join(MODELS)}, phash, pdq "
            "or a name of timm.list_models()"
        )
    if name == "imgfp" and not paths:
        paths = [str(DESCRIPTOR_WEIGHTS)]
        if not DESCRIPTOR_WEIGHTS.is_file():
            raise ModelError(
                f"the shipped weights {DESCRIPTOR_WEIGHTS} are missing; install imgfp again"
            )
    if not paths:
        raise ModelError(f"model {name!r} needs a weights file. {MODELS[name].advice}")
    return MODELS[name].load(name, paths, device)
