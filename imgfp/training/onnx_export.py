"""Export of torch networks to ONNX."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from imgfp import store


def export_onnx(
    network: nn.Module, path: Path, example: torch.Tensor, input_name: str, output_name: str
) -> None:
    """Write a network as ONNX, float32, for any number of rows like those of `example`."""
    rows = {name: {0: "n"} for name in (input_name, output_name)}
    store.write_bytes(path, onnx_bytes(network, example, [input_name], [output_name], rows))


def onnx_bytes(
    network: nn.Module,
    example: torch.Tensor,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: dict[str, dict[int, str]] | None = None,
) -> bytes:
    """The bytes of an ONNX file of a network with inputs shaped like `example`, but for `dynamic_axes`."""
    data: Any = io.BytesIO()  # torch.onnx.export writes to a stream as well, which its stub omits
    torch.onnx.export(
        network,
        (example,),
        data,
        input_names=input_names,
        output_names=output_names,
        dynamic_axes=dynamic_axes,
        dynamo=False,
    )
    return data.getvalue()
