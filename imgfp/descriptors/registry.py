# SPDX-License-Identifier: AGPL-3.0-or-later
"""Descriptor models by name."""

from __future__ import annotations

from imgfp.descriptors import hashes
from imgfp.descriptors.base import Model, ModelError
from imgfp.descriptors.gist import GistGrid
from imgfp.descriptors.onnx_models import DESCRIPTOR_ONNX, OnnxModel
from imgfp.inference import require


def load_model(name: str = "imgfp", weights: str = "", device: str = "cpu") -> Model:
    """A model by name; `weights`: path of its weights file, "" for the model's own.

    Names: "imgfp" (shipped), "gist-grid", "phash" and "pdq" (no weights), the published models of
    `imgfp.descriptors.checkpoints.MODELS`, and all of `timm.list_models()`. "imgfp" runs on onnxruntime
    where its weights are the shipped ones or an `.onnx` file of notebook 21 and the device is "cpu"; the
    other learned models run on torch. Raises ModelError for an unknown name, a missing file, a file of
    another layout, or a package that is not installed.
    """
    if weights and name in (GistGrid.name, *hashes.NAMES):
        raise ModelError(f"model {name!r} takes no weights, got {weights!r}; leave weights empty")
    if name == GistGrid.name:
        return GistGrid()
    is_onnx = weights.endswith(".onnx")
    if is_onnx and (name != "imgfp" or device != "cpu"):
        raise ModelError(
            f"{weights}: only model 'imgfp' on device 'cpu' takes an .onnx file, not {name!r} on "
            f"{device!r}; set weights to a file for torch"
        )
    if is_onnx or (name == "imgfp" and not weights and device == "cpu"):
        return OnnxModel(name, weights or DESCRIPTOR_ONNX)
    try:
        if name in hashes.NAMES:
            return hashes.load(name)
        for module in ("torch", "timm", "safetensors"):
            require(module, "torch", f"descriptor model {name!r}")
    except ModuleNotFoundError as error:
        raise ModelError(str(error)) from error
    from imgfp.descriptors import checkpoints

    return checkpoints.load(name, weights, device)
