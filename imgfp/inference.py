# SPDX-License-Identifier: AGPL-3.0-or-later
"""Network weights: folder of the shipped files, hash of a file, ONNX sessions; devices; optional packages.

A device is "auto", "cpu", "cuda" or "cuda:<number>". Each library answers for itself whether it can use one:
"auto" and "cuda" both mean the CPU where it cannot, and "cuda" then warns. What a model has taken is its
attribute `device`, "cpu" or "cuda", and that is what artefacts are recorded with.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

#: Folder of the weights that ship with the package.
SHIPPED = Path(__file__).parent / "weights"
#: What onnxruntime calls a GPU.
CUDA_PROVIDER = "CUDAExecutionProvider"
_TORCH = ("torch", "timm", "torchvision", "safetensors")
#: What a file of Protocol Buffers can hold.
MAX_ONNX_BYTES = 2**31 - 1
#: Modules that each extra of imgfp installs.
EXTRAS = {
    "torch": _TORCH,
    "train": (*_TORCH, "ultralytics", "pytorch_metric_learning", "onnx"),
    "lab": ("jupyterlab", "voila"),
    "peers": ("imagehash", "pdqhash", "poselib"),
}


def onnx_session(path: Path, device: str = "cpu") -> onnxruntime.InferenceSession:
    """A session on one CPU thread, or on a GPU where onnxruntime is built for one (`session_device`). Raises
    ValueError naming a file that is not a usable ONNX model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A model is one file: weights that it names elsewhere could be any file of this machine.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    providers: list = ["CPUExecutionProvider"]
    if device != "cpu" and CUDA_PROVIDER in onnxruntime.get_available_providers():
        providers.insert(0, (CUDA_PROVIDER, {"device_id": device_number(device)}))
    if path.is_file() and path.stat().st_size > MAX_ONNX_BYTES:
        raise ValueError(
            f"{path}: larger than {MAX_ONNX_BYTES:,} bytes, which ONNX files never are"
        )
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)
    except Exception as error:  # onnxruntime has no common base class for its errors
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not an ONNX model that can be run: {reason}") from error
    # A provider that finds no GPU, or not its libraries, leaves the session on the CPU.
    if device.startswith("cuda") and session_device(session) == "cpu":
        warn_of_cpu(device, path.name, "this onnxruntime uses no GPU; onnxruntime-gpu may")
    return session


def session_device(session: onnxruntime.InferenceSession) -> str:
    """What a session runs on: "cpu" or "cuda"."""
    return "cuda" if CUDA_PROVIDER in session.get_providers() else "cpu"


def torch_gpus() -> int:
    """CUDA devices that torch can use; 0 where it is not installed or does not load."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError):  # the latter for a CUDA library that is missing
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def torch_sees(device: str) -> bool:
    """True where torch can use the GPU that `device` means."""
    # Importing torch takes seconds; without NVIDIA's driver "auto" has its answer before.
    if device == "cpu" or (device == "auto" and not has_driver()):
        return False
    return device_number(device) < torch_gpus()


def torch_device(device: str, user: str) -> str:
    """The device that torch takes: "cpu", "cuda" or "cuda:<number>". Warns, naming the `user`, where a demanded
    one is not there."""
    if torch_sees(device):
        return "cuda" if device == "auto" else device
    if device.startswith("cuda"):
        warn_of_cpu(device, user, f"torch sees {torch_gpus()} CUDA devices")
    return "cpu"


def has_driver() -> bool:
    """True where NVIDIA's driver can be loaded; it may still have no device."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def device_number(device: str) -> int:
    """Number of a device; that of "auto" and "cuda" is 0."""
    return int(device.partition(":")[2] or 0)


def check_device(taken: str, wanted: str) -> None:
    """Raises ValueError where a worker has not taken the kind of device that its results are recorded with."""
    if taken != wanted:
        raise ValueError(
            f"device: this worker has no {wanted} for this model and the run is recorded with it; "
            "set device: cpu, or take workers that are alike"
        )


def warn_of_cpu(device: str, user: str, reason: str) -> None:
    """Warn in one line that `user` runs on the CPU though a GPU was demanded."""
    warnings.warn(f"device {device}: {user} runs on the CPU: {reason}", stacklevel=3)


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
