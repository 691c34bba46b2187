"""Networks in ONNX files, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime


def onnx_session(path: Path) -> onnxruntime.InferenceSession:
    """A session on one thread. Raises ValueError naming a file that is no model."""
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
