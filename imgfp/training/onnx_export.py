"""Networks out of torch, into ONNX files."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import nn

from imgfp import store


def export_onnx(
    network: nn.Module, path: Path, example: torch.Tensor, given: str, gives: str
) -> None:
    """Write a network as ONNX, float32, for any number of rows like those of `example`; given, gives:
    names of what goes in and what comes out."""
    data = io.BytesIO()
    names = {"input_names": [given], "output_names": [gives]}
    rows = {name: {0: "n"} for name in (given, gives)}
    torch.onnx.export(network, (example,), data, **names, dynamic_axes=rows, dynamo=False)
    store.write_bytes(path, data.getvalue())
