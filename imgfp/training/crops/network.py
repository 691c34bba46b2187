# SPDX-License-Identifier: AGPL-3.0-or-later
"""The crop detector's network: a small YOLO11 from ultralytics, and its weights as safetensors.

There are detection heads at strides 16 and 32 only: a pasted image is large, and the head at stride 8
costs a third of the time.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from imgfp import store
from imgfp.crops.ultralytics_models import import_ultralytics

_BACKBONE = [
    [-1, 1, "Conv", [64, 3, 2]],
    [-1, 1, "Conv", [128, 3, 2]],
    [-1, 2, "C3k2", [256, False, 0.25]],
    [-1, 1, "Conv", [256, 3, 2]],
    [-1, 2, "C3k2", [512, False, 0.25]],  # 4: stride 8
    [-1, 1, "Conv", [512, 3, 2]],
    [-1, 2, "C3k2", [512, True]],  # 6: stride 16
    [-1, 1, "Conv", [1024, 3, 2]],
    [-1, 2, "C3k2", [1024, True]],
    [-1, 1, "SPPF", [1024, 5]],
    [-1, 2, "C2PSA", [1024]],  # 10: stride 32
]
_NECK_AND_HEAD = [
    [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
    [[-1, 6], 1, "Concat", [1]],
    [-1, 2, "C3k2", [512, False]],  # 13
    [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
    [[-1, 4], 1, "Concat", [1]],
    [-1, 2, "C3k2", [256, False]],
    [-1, 1, "Conv", [256, 3, 2]],
    [[-1, 13], 1, "Concat", [1]],
    [-1, 2, "C3k2", [512, False]],  # 19
    [-1, 1, "Conv", [512, 3, 2]],
    [[-1, 10], 1, "Concat", [1]],
    [-1, 2, "C3k2", [1024, True]],  # 22
    [[19, 22], 1, "Detect", ["nc"]],
]


def build_network(width: float, seed: int = 0) -> nn.Module:
    """The untrained network, ultralytics' DetectionModel with one class; the same seed gives the
    same weights. (B,3,S,S) float32 RGB in 0..1 in; raw outputs while training, in evaluation mode
    (decoded (B,5,n), raw outputs) out."""
    import_ultralytics()
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(seed)
    plan = {
        "nc": 1,
        "scale": "n",
        "scales": {"n": [0.5, width, 1024]},
        "backbone": _BACKBONE,
        "head": _NECK_AND_HEAD,
    }
    network = DetectionModel(plan, ch=3, nc=1, verbose=False)
    network.args = get_cfg()  # type: ignore[assignment]  # the gains of ultralytics' loss
    return network


def save_weights(network: nn.Module, path: Path, about: dict) -> None:
    """The network's tensors as safetensors; `about` (numbers and words) and its plan as metadata."""
    from safetensors.torch import save

    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    about = {**about, "plan": json.dumps(network.yaml), "resize": "stretch"}
    store.write_sealed(path, save(tensors, {key: str(value) for key, value in about.items()}))


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Fill a network from `save_weights`. Raises ValueError if the file is of another network."""
    from safetensors.torch import load_file

    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path}: expected a .safetensors file of an earlier training")
    try:
        network.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(
            f"{path}: its tensors do not fit this network; was another width trained? "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
