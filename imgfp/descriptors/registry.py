# SPDX-License-Identifier: AGPL-3.0-or-later
"""Descriptor models by name."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from imgfp.descriptors import hashes
from imgfp.descriptors.base import PUBLISHED, Model, ModelError
from imgfp.descriptors.gist import GistGrid
from imgfp.descriptors.onnx_models import (
    DESCRIPTOR_ONNX,
    PACKAGED,
    OnnxModel,
    load_packaged,
    packaged_file,
)
from imgfp.inference import check_installed, check_model_file, torch_sees

#: Models that an ONNX file holds whole, with its preprocessing.
ONNX_ONLY = ("sscd", "onnx")
#: What "auto" means where its package is installed.
PREFERRED = "sscd-student"


def resolved(name: str, weights: str = "") -> tuple[str, str]:
    """The model that a name means, and for "auto" the reason why it is not `PREFERRED`, in one line, or "".

    "auto" with weights of one's own is "imgfp", whose layout notebook 21 writes.
    """
    if name != "auto":
        return name, ""
    if weights:
        return "imgfp", "descriptor_weights are given"
    try:
        packaged_file(PREFERRED)
    except ModelError as error:
        return "imgfp", str(error)
    return PREFERRED, ""


def load_model(name: str = "imgfp", weights: str = "", device: str = "cpu") -> Model:
    """A model by name; `weights`: path of its weights file, "" for the model's own.

    Names: "auto" (see `resolved`), "imgfp" (shipped), "gist-grid", "phash" and "pdq" (no weights), "sscd-student" and "sscd-int8" (of the extra
    `sscd`), the published models of `imgfp.descriptors.base.PUBLISHED`, all of `timm.list_models()`, and "onnx", any
    file that `imgfp convert` made.
    "imgfp" runs on onnxruntime where its weights are an `.onnx` file of notebook 21, or the shipped ones and torch has
    no GPU to use, "sscd", "onnx" and those of the extra always do; the other learned models run on torch. device: see
    `imgfp.inference`.
    Raises ModelError for an unknown name, a missing file, a file of another layout or one that can run code, or a
    package that is not installed.
    """
    name, _ = resolved(name, weights)
    check_model(name, weights)
    if name == GistGrid.name:
        return GistGrid()
    if name in hashes.NAMES:
        return hashes.load(name)
    if name in PACKAGED:
        return load_packaged(name, device)
    # The shipped weights are there for both libraries; only torch's wheels hold what a GPU needs.
    on_torch = find_spec("timm") is not None and torch_sees(device)
    if weights.endswith(".onnx") or (_is_shipped(name, weights) and not on_torch):
        return OnnxModel(name, weights or DESCRIPTOR_ONNX, device)
    from imgfp.descriptors import checkpoints

    return checkpoints.load(name, weights, device)


def check_model(name: str = "imgfp", weights: str = "") -> None:
    """Raises what `load_model` raises for weights that the model does not take or lacks, for a package
    that is not installed, and for a file of one that has changed; reads no other file."""
    name, _ = resolved(name, weights)
    if weights and name in (GistGrid.name, *hashes.NAMES, *PACKAGED):
        raise ModelError(f"model {name!r} takes no weights, got {weights!r}; leave weights empty")
    if not weights and name in PUBLISHED and name != "imgfp":
        raise ModelError(f"model {name!r} needs a weights file. {PUBLISHED[name]}")
    for path in filter(None, weights.split(os.pathsep)):
        try:
            check_model_file(Path(path), ".onnx" if name in ONNX_ONLY else ".safetensors")
        except ValueError as error:
            raise ModelError(str(error)) from None
    if name in PACKAGED:
        packaged_file(name)
        return
    is_onnx = weights.endswith(".onnx")
    if is_onnx != (name in ONNX_ONLY) and name != "imgfp":
        kind = ".onnx" if name in ONNX_ONLY else ".safetensors"
        raise ModelError(f"{weights}: model {name!r} takes a file {kind}")
    if name == GistGrid.name or is_onnx or _is_shipped(name, weights):
        return
    is_hash = name in hashes.NAMES
    modules = (hashes.PACKAGES[name],) if is_hash else ("torch", "timm", "safetensors")
    try:
        for module in modules:
            check_installed(module, "peers" if is_hash else "torch", f"descriptor model {name!r}")
    except ModuleNotFoundError as error:
        raise ModelError(str(error)) from error


def _is_shipped(name: str, weights: str) -> bool:
    return name == "imgfp" and not weights
