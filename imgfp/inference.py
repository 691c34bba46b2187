# SPDX-License-Identifier: AGPL-3.0-or-later
"""Network weights: folder of the shipped files, hash of a file, ONNX sessions; optional packages."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

#: Folder of the weights that ship with the package.
SHIPPED = Path(__file__).parent / "weights"
_TORCH = ("torch", "timm", "torchvision", "safetensors")
#: Modules that each extra of imgfp installs.
EXTRAS = {
    "torch": _TORCH,
    "train": (*_TORCH, "ultralytics", "pytorch_metric_learning", "onnx"),
    "lab": ("jupyterlab", "voila"),
    "peers": ("imagehash", "pdqhash", "poselib"),
}


def onnx_session(path: Path) -> onnxruntime.InferenceSession:
    """A session on one CPU thread. Raises ValueError naming a file that is not a usable ONNX model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        providers = ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)
    except Exception as error:  # onnxruntime has no common base class for its errors
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not an ONNX model that can be run: {reason}") from error


def require(module: str, extra: str, feature: str) -> ModuleType:
    """Import a module that only an extra of imgfp installs. Raises ModuleNotFoundError, whose one line
    names the feature that needs it and the extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _absent(error.name or module, extra, feature) from error  # or one that it imports


def check_installed(module: str, extra: str, feature: str) -> None:
    """Raises what `require` raises for a module that is not installed, without importing it."""
    if importlib.util.find_spec(module) is None:
        raise _absent(module, extra, feature)


def _absent(module: str, extra: str, feature: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{feature} needs {module}, which is not installed: pip install 'imgfp[{extra}]'",
        name=module,
    )


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
