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
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from imgfp.confinement import Bounds, ConfinedError, Handler, Process

if TYPE_CHECKING:
    import onnxruntime

# Before it is imported: it would report the models that are run to its makers, keep a mark of the machine in ~/.cache,
# and leave a file in the folder for temporary ones.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

#: Folder of the weights that ship with the package.
SHIPPED = Path(__file__).parent / "weights"
#: What onnxruntime calls a GPU.
CUDA_PROVIDER = "CUDAExecutionProvider"
_TORCH = ("torch", "timm", "torchvision", "safetensors")
#: Bounds of a model that is given: size of its file; memory of its process beyond that of an empty one; processor time
#: to load it, and for each row of a batch.
MAX_MODEL_MB, MAX_RUN_MB = 2047, 16_384
LOAD_SECONDS, RUN_SECONDS = 120, 60
#: Sides of its input above this are refused: one image would take 200 MB.
MAX_SIDE_PX = 4096
#: Modules that each extra of imgfp installs.
EXTRAS = {
    "torch": _TORCH,
    "train": (*_TORCH, "ultralytics", "pytorch_metric_learning", "onnx"),
    "lab": ("jupyterlab", "voila"),
    "peers": ("imagehash", "pdqhash", "poselib"),
}


def check_model_file(path: Path, target: str = ".onnx") -> None:
    """Raises ValueError for a file of a kind that can run code when it is loaded, by its name, and for one larger than
    MAX_MODEL_MB, in one line that names the file and the remedy. target: ending of the file that `imgfp convert` is to
    make of it."""
    if path.suffix.lower() not in (".onnx", ".safetensors"):
        converted = path.with_name(path.name.split(".")[0] + target)
        raise ValueError(
            f"{path}: neither .onnx nor .safetensors, so it can run code when it is loaded; convert it "
            f"first: imgfp convert {path} {converted} [--trust]"
        )
    if path.is_file() and path.stat().st_size > MAX_MODEL_MB * 2**20:
        raise ValueError(
            f"{path}: larger than {MAX_MODEL_MB:,} MB, the limit of a model file; store its numbers in half "
            "precision"
        )


def onnx_session(path: Path, device: str = "cpu") -> onnxruntime.InferenceSession | ConfinedSession:
    """A session on one CPU thread, or on a GPU where onnxruntime is built for one (`session_device`). A file that does
    not ship with imgfp is run by a process of its own, see `ConfinedSession`. Raises ValueError naming a file that is
    not a usable ONNX model, FileNotFoundError."""
    import onnxruntime

    gpu = device != "cpu" and CUDA_PROVIDER in onnxruntime.get_available_providers()
    session = (
        open_onnx(path, device if gpu else "cpu")
        if path.parent == SHIPPED
        else ConfinedSession("imgfp.inference:onnx_handler", path, device if gpu else "cpu")
    )
    # A provider that finds no GPU, or not its libraries, leaves the session on the CPU.
    if device.startswith("cuda") and session_device(session) == "cpu":
        warn_of_cpu(device, path.name, "this onnxruntime uses no GPU; onnxruntime-gpu may")
    return session


def open_onnx(path: Path, device: str = "cpu") -> onnxruntime.InferenceSession:
    """The session of an ONNX file in this process. Raises what onnxruntime raises, which has no common base class."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A model is one file: weights that it names elsewhere could be any file of this machine.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    providers: list = ["CPUExecutionProvider"]
    if device != "cpu":
        providers.insert(0, (CUDA_PROVIDER, {"device_id": device_number(device)}))
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)


class ConfinedSession:
    """What is used of `onnxruntime.InferenceSession`, for a network in a file that is not trusted: a process that can
    write no file (`imgfp.confinement`) loads and runs it, in bounded time, and on a CPU in bounded memory.

    handler: "module:function" of a `session_handler`; scratch_mb: size of the files that its library must write, to a
    private folder. Raises ValueError naming a file of another kind, and one that
    takes longer or more. A process that ends otherwise is replaced once, since somebody may have killed it.
    """

    def __init__(self, handler: str, path: Path, device: str = "cpu", scratch_mb: int = 0):
        check_model_file(path)
        self._handler, self._path, self._device = handler, path, device
        # A GPU is memory of the process, and files of /dev.
        bounds = (MAX_RUN_MB, scratch_mb) if device == "cpu" else (0, scratch_mb, ("/dev",))
        self._bounds = Bounds(*bounds)
        self._process: Process | None = None
        self._about, _ = self._ask({}, [], LOAD_SECONDS)

    def get_inputs(self) -> list[SimpleNamespace]:
        """Inputs, with name and shape."""
        return [SimpleNamespace(**side) for side in self._about["inputs"]]

    def get_modelmeta(self) -> SimpleNamespace:
        """The metadata of the file, as `custom_metadata_map`."""
        return SimpleNamespace(custom_metadata_map=self._about["metadata"])

    def get_providers(self) -> list[str]:
        """What it runs on."""
        return self._about["providers"]

    def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Every output for inputs by name."""
        header = {"feed": [[name, *_layout(array)] for name, array in feed.items()]}
        buffers = [np.ascontiguousarray(array).tobytes() for array in feed.values()]
        rows = max(len(array) for array in feed.values())
        answer, outputs = self._ask(header, buffers, RUN_SECONDS * max(1, rows))
        return _arrays(answer["outputs"], outputs)

    def _ask(self, header: dict, buffers: list[bytes], seconds: float) -> tuple[dict, list[bytes]]:
        for is_last in (False, True):
            try:
                if self._process is None:
                    self._process = Process(self._handler, self._bounds)
                    wanted = {"path": str(self._path.absolute()), "device": self._device}
                    self._process.ask(wanted, [], LOAD_SECONDS)
                return self._process.ask(header, buffers, seconds)
            except ConfinedError as error:
                self._process = None
                if is_last or error.took_too_long:
                    raise ValueError(f"{self._path}: this model was ended: {error}") from None
            except RuntimeError as error:
                kind = "an ONNX model" if self._path.suffix == ".onnx" else "a network"
                raise ValueError(f"{self._path}: not {kind} that can be run: {error}") from None
        raise AssertionError


def session_handler(opened: Callable[[Path, str], Any]) -> Handler:
    """Runs one network, in the process of a `ConfinedSession`. opened: (path, device) -> the session."""
    session: Any = None

    def answer(header: dict[str, Any], buffers: list[bytes]) -> tuple[dict, list[Any]]:
        nonlocal session
        if "path" in header:
            session = opened(Path(header["path"]), header["device"])
        if "feed" not in header:
            inputs = [{"name": side.name, "shape": side.shape} for side in session.get_inputs()]
            metadata = session.get_modelmeta().custom_metadata_map
            providers = session.get_providers()
            return {"inputs": inputs, "metadata": metadata, "providers": providers}, []
        names = [name for name, *_ in header["feed"]]
        arrays = _arrays([layout for _, *layout in header["feed"]], buffers)
        outputs = session.run(None, dict(zip(names, arrays, strict=True)))
        layouts = [_layout(array) for array in outputs]
        return {"outputs": layouts}, [np.ascontiguousarray(array).tobytes() for array in outputs]

    return answer


def onnx_handler() -> Handler:
    """Runs one ONNX file."""
    return session_handler(open_onnx)


def _layout(array: np.ndarray) -> tuple[str, tuple[int, ...]]:
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        raise ValueError("its inputs and outputs are not arrays of numbers")
    return array.dtype.str, array.shape


def _arrays(layouts: Sequence, buffers: Sequence[bytes]) -> list[np.ndarray]:
    pairs = zip(layouts, buffers, strict=True)
    return [np.frombuffer(data, dtype).reshape(shape).copy() for (dtype, shape), data in pairs]


def session_device(session: onnxruntime.InferenceSession | ConfinedSession) -> str:
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


def same_model(one: str, other: str) -> bool:
    """Whether two texts can name one model: "name weights" or, where the weights are not known, "name"."""
    return all(a == b for a, b in zip(one.split(), other.split(), strict=False))


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
