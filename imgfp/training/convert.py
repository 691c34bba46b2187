# SPDX-License-Identifier: AGPL-3.0-or-later
"""Network weights of PyTorch as ONNX or safetensors, which hold no code: `imgfp convert`.

The file is read in a process of its own (`imgfp.confinement`), which can write to a private folder only. What can run
code there, TorchScript and pickled classes that are not of ultralytics, is refused unless it is trusted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from imgfp import store
from imgfp.confinement import Bounds, ConfinedError, Handler, Process
from imgfp.crops.detectors import NetworkDetector
from imgfp.crops.ultralytics_models import build, import_ultralytics
from imgfp.descriptors.base import Preprocessing
from imgfp.descriptors.onnx_models import OnnxModel
from imgfp.inference import MAX_MODEL_MB, check_installed, check_model_file, open_onnx

#: Bounds of a conversion: processor time, and memory beyond that of an empty process.
SECONDS, MEMORY_MB = 900, 32_768
#: Cosine, at least, between the vectors of a TorchScript network and those of its ONNX file.
MIN_COSINE = 0.9999
#: Difference, at most, between the numbers of a detector and those of its ONNX file, over the largest of them.
MAX_DIFFERENCE = 1e-3


def convert(source: Path, target: Path, *, trust: bool, preprocessing: Preprocessing) -> str:
    """Write the weights of a PyTorch file to `target`, and return the parameters that take it.

    TorchScript of an image descriptor becomes `.onnx`, which records `preprocessing`; a detector of ultralytics becomes
    `.onnx`, or `.safetensors` for torch; a file of tensors becomes `.safetensors`. trust: a file that can run code is
    read all the same. Raises ValueError, FileNotFoundError, ModuleNotFoundError, StoreError in one line.
    """
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}; check the path")
    if source.suffix.lower() in (".onnx", ".safetensors"):
        raise ValueError(f"{source}: holds no code and needs no conversion")
    if target.suffix.lower() not in (".onnx", ".safetensors"):
        raise ValueError(f"{target}: expected a file .onnx or .safetensors to write")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent}; make it first")
    check_installed("torch", "train", "imgfp convert")
    if target.suffix.lower() == ".onnx":
        check_installed("onnx", "train", "imgfp convert")
    header = {
        "source": str(source.absolute()),
        "suffix": target.suffix.lower(),
        "trust": trust,
        "preprocessing": asdict(preprocessing),
    }
    try:
        process = Process("imgfp.training.convert:handler", Bounds(MEMORY_MB, MAX_MODEL_MB))
        answer, (data,) = process.ask(header, [], SECONDS)
        process.close()
    except ConfinedError as error:
        raise ValueError(f"{source}: its conversion was ended: {error}") from None
    except RuntimeError as error:
        raise ValueError(f"{source}: not converted: {error}") from None
    kind = answer.get("kind")
    with tempfile.TemporaryDirectory(prefix="imgfp-convert-") as folder:
        trial = Path(folder) / f"trial{target.suffix.lower()}"
        store.write_bytes(trial, data)
        try:
            _check(str(kind), trial)
        except ValueError as error:
            raise ValueError(f"{source}: not converted: {error}") from None
        store.write_sealed(target, data)
    if kind == "detector":
        return f"crop_detector: {target}"
    model = "descriptor_model: onnx\n" if kind == "descriptor" else ""
    return f"{model}descriptor_weights: {target}"


def _check(kind: str, path: Path) -> None:
    """The product can load what came back. Raises ValueError."""
    check_model_file(path)
    if kind == "descriptor":
        OnnxModel("onnx", path)
    elif kind == "detector":
        NetworkDetector(path)
    else:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except SafetensorError as error:
            raise ValueError(f"not a file of safetensors: {error}") from None


# ---------------------------------------------------------------------------------------- in the process


def handler() -> Handler:
    """Converts one file; see `convert`."""

    def answer(header: dict[str, Any], buffers: list[bytes]) -> tuple[dict, list[Any]]:
        kind, data = _converted(
            Path(header["source"]),
            header["suffix"],
            header["trust"],
            Preprocessing(**header["preprocessing"]),
        )
        return {"kind": kind}, [data]

    return answer


def _converted(source: Path, suffix: str, trust: bool, steps: Preprocessing) -> tuple[str, bytes]:
    if _is_torchscript(source):
        if not trust:
            raise ValueError(
                "TorchScript is a program, which runs when it is loaded; if you trust its author, add --trust"
            )
        if suffix != ".onnx":
            raise ValueError("TorchScript becomes .onnx, not .safetensors")
        return "descriptor", _descriptor(source, steps)
    if suffix == ".safetensors":
        try:
            return "tensors", _safetensors(read_tensors(source))
        except Exception:  # torch passes every error of its readers on
            return "detector", _planned_detector(*_network(source, trust))
    return "detector", _detector(*_network(source, trust))


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def read_tensors(path: Path) -> dict[str, Any]:
    """Tensors by name of a PyTorch file; no code of it runs. Of nested dictionaries the one named teacher, state_dict
    or model is taken; the prefix "module." of training wrappers is removed. Raises for any other content."""
    import torch

    # Published checkpoints carry their command line, an argparse.Namespace of plain values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("teacher", "state_dict", "model"):
        if isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    tensors = {k: v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise ValueError("holds no tensors by name")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _safetensors(tensors: dict[str, Any], about: dict[str, str] | None = None) -> bytes:
    from safetensors.torch import save

    return save(
        {name: value.detach().clone().contiguous() for name, value in tensors.items()}, about
    )


def _descriptor(source: Path, steps: Preprocessing) -> bytes:
    """ONNX of a TorchScript network (n,3,side_px,side_px) -> (n,d)."""
    import torch

    from imgfp.descriptors.checkpoints import Normalised
    from imgfp.training.onnx_export import descriptor_bytes

    network = torch.jit.load(str(source), map_location="cpu").eval()
    whole = torch.jit.freeze(torch.jit.script(Normalised(network, steps).eval()))
    data = descriptor_bytes(whole, steps)
    pixels = torch.randint(0, 256, (2, steps.side_px, steps.side_px, 3), dtype=torch.uint8)
    expected = whole(pixels).detach().numpy()
    (found,) = _opened(data).run(None, {"pixels": pixels.numpy()})
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosine = float(((expected * found).sum(axis=1) / norms).min())
    if not cosine > MIN_COSINE:
        raise ValueError(f"the vectors of its ONNX file differ, with a cosine of {cosine:.5f}")
    return data


def _opened(data: bytes) -> Any:
    path = Path("converted.onnx")
    path.write_bytes(data)
    return open_onnx(path)


def _network(source: Path, trust: bool) -> tuple[Any, int]:
    """The network of a checkpoint of ultralytics, built anew from its plan, and the side of its images in pixels."""
    import_ultralytics()
    from ultralytics.nn.tasks import torch_safe_load

    named = Path("checkpoint.pt")  # the ending that ultralytics asks for
    named.symlink_to(source)
    try:
        checkpoint = torch_safe_load(named, safe_only=True)[0]
    except Exception as error:  # a damaged file may raise anything
        if not trust:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(
                "it holds more than tensors and layers of ultralytics 8 or later, so it can run code when "
                f"it is loaded; if you trust its author, add --trust ({reason})"
            ) from None
        checkpoint = torch_safe_load(named, safe_only=False)[0]
    trained = checkpoint.get("ema") or checkpoint.get("model")
    if not hasattr(trained, "yaml"):
        raise ValueError("it holds no detector; what holds tensors only becomes .safetensors")
    network = build(trained.yaml)
    network.load_state_dict(trained.float().state_dict())
    size = (checkpoint.get("train_args") or {}).get("imgsz", 640)
    return network.eval(), size if isinstance(size, int) else max(size)


def _planned_detector(network: Any, size: int) -> bytes:
    about = {"plan": json.dumps(network.yaml), "input_size": str(size)}
    return _safetensors(network.state_dict(), about)


def _detector(network: Any, size: int) -> bytes:
    import torch

    from imgfp.training.onnx_export import onnx_bytes

    network.model[
        -1
    ].end2end = False  # every box is wanted: `run_detector` does its own suppression
    network.model[-1].export = True  # the decoded boxes alone
    image = torch.rand(1, 3, size, size)
    data = onnx_bytes(network.fuse(verbose=False), image, ["images"], ["boxes"])
    expected = network(image).detach().numpy()
    (found,) = _opened(data).run(None, {"images": image.numpy()})
    difference = float(np.abs(expected - found).max() / np.abs(expected).max())
    if not difference < MAX_DIFFERENCE:
        raise ValueError(f"the numbers of its ONNX file differ, by {difference:.1e} of the largest")
    return data
