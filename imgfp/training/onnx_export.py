# SPDX-License-Identifier: AGPL-3.0-or-later
"""Export of torch networks to ONNX."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from imgfp import store
from imgfp.descriptors.base import Preprocessing
from imgfp.descriptors.checkpoints import Normalised, unpack_copynet
from imgfp.inference import sha256_of


def export_onnx(
    network: nn.Module, path: Path, example: torch.Tensor, input_name: str, output_name: str
) -> None:
    """Write a network as ONNX, float32, for any number of rows like those of `example`."""
    rows = {name: {0: "n"} for name in (input_name, output_name)}
    store.write_sealed(path, onnx_bytes(network, example, [input_name], [output_name], rows))


def export_descriptor(weights: Path, path: Path) -> None:
    """Write the descriptor network of a `.safetensors` file of notebook 21 as ONNX, for
    `imgfp.descriptors.onnx_models.OnnxModel`. Raises ModelError for a file of another layout."""
    network, preprocessing = unpack_copynet(weights)
    whole = Normalised(network, preprocessing).eval()
    about = {"weights_sha256": sha256_of(weights)}
    store.write_sealed(path, descriptor_bytes(whole, preprocessing, about))


def descriptor_bytes(
    whole: nn.Module, preprocessing: Preprocessing, about: dict[str, str] | None = None
) -> bytes:
    """The bytes of an ONNX file of a descriptor network with the arithmetic of its preprocessing (`Normalised`), whose
    metadata are the preprocessing and `about`."""
    import onnx

    side = preprocessing.side_px
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    rows = {name: {0: "n"} for name in ("pixels", "vectors")}
    with warnings.catch_warnings():
        # The sizes of an image become constants of the graph, as they are meant to.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        graph = onnx.load_from_string(onnx_bytes(whole, example, ["pixels"], ["vectors"], rows))
    metadata = {"preprocessing": json.dumps(asdict(preprocessing)), **(about or {})}
    onnx.helper.set_model_props(graph, metadata)
    onnx.checker.check_model(graph)
    return graph.SerializeToString()


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
        opset_version=20,  # what onnxruntime 1.17 and later run
        dynamo=False,
    )
    return data.getvalue()
