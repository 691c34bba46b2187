# SPDX-License-Identifier: AGPL-3.0-or-later
"""Descriptor models by name."""

from __future__ import annotations

from imgfp.descriptors import hashes
from imgfp.descriptors.base import PUBLISHED, Model, ModelError
from imgfp.descriptors.gist import GistGrid
from imgfp.descriptors.onnx_models import DESCRIPTOR_ONNX, OnnxModel
from imgfp.inference import check_installed


def load_model(name: str = "imgfp", weights: str = "", device: str = "cpu") -> Model:
    """A model by name; `weights`: path of its weights file, "" for the model's own.

    Names: "imgfp" (shipped), "gist-grid", "phash" and "pdq" (no weights), the published models of
    `imgfp.descriptors.base.PUBLISHED`, and all of `timm.list_models()`. "imgfp" runs on onnxruntime
    where its weights are the shipped ones or an `.onnx` file of notebook 21 and the device is "cpu"; the
    other learned models run on torch. Raises ModelError for an unknown name, a missing file, a file of
    another layout, or a package that is not installed.
    """
    check_model(name, weights, device)
    if name == GistGrid.name:
        return GistGrid()
    if name in hashes.NAMES:
        return hashes.load(name)
    if _runs_on_onnx(name, weights, device):
        return OnnxModel(name, weights or DESCRIPTOR_ONNX)
    from imgfp.descriptors import checkpoints

    return checkpoints.load(name, weights, device)


def check_model(name: str = "imgfp", weights: str = "", device: str = "cpu") -> None:
    """Raises what `load_model` raises for weights that the model does not take or lacks, and for a package
    that is not installed; reads no file and imports nothing."""
    if weights and name in (GistGrid.name, *hashes.NAMES):
        raise ModelError(f"model {name!r} takes no weights, got {weights!r}; leave weights empty")
    if weights.endswith(".onnx") and not _runs_on_onnx(name, weights, device):
        raise ModelError(
            f"{weights}: only model 'imgfp' on device 'cpu' takes an .onnx file, not {name!r} on "
            f"{device!r}; set weights to a file for torch"
        )
    if name == GistGrid.name or _runs_on_onnx(name, weights, device):
        return
    is_hash = name in hashes.NAMES
    modules = (hashes.PACKAGES[name],) if is_hash else ("torch", "timm", "safetensors")
    try:
        for module in modules:
            check_installed(module, "peers" if is_hash else "torch", f"descriptor model {name!r}")
    except ModuleNotFoundError as error:
        raise ModelError(str(error)) from error
    if not weights and name in PUBLISHED and name != "imgfp":
        raise ModelError(f"model {name!r} needs a weights file. {PUBLISHED[name]}")


def _runs_on_onnx(name: str, weights: str, device: str) -> bool:
    return name == "imgfp" and device == "cpu" and (not weights or weights.endswith(".onnx"))
