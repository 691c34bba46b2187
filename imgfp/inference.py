"""Network weights: folder of the shipped files, hash of a file, ONNX sessions on onnxruntime."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

#: Folder of the weights that ship with the package.
SHIPPED = Path(__file__).parent / "weights"


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


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
