# SPDX-License-Identifier: AGPL-3.0-or-later
"""Detectors trained with ultralytics, as `.safetensors` files with the plan of their network.

`imgfp convert` makes one of a `.pt`, which is a pickle and can run any code when it is loaded.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from imgfp.confinement import Handler
from imgfp.inference import (
    CUDA_PROVIDER,
    ConfinedSession,
    require,
    session_handler,
    torch_device,
)

if TYPE_CHECKING:
    from torch import nn


def import_ultralytics() -> ModuleType:
    """Import ultralytics without its side effects: installing packages, going online, writing settings
    into the home folder, and replacing `PIL.Image.open` for the whole process. Raises
    ModuleNotFoundError where it is not installed."""
    import PIL.Image

    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ.setdefault("YOLO_VERBOSE", "false")
    if "YOLO_CONFIG_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="imgfp-ultralytics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["YOLO_CONFIG_DIR"] = folder
    pillow_open = PIL.Image.open
    try:
        ultralytics = require("ultralytics", "train", "a detector of ultralytics")
        require("ultralytics.utils.patches", "train", "a detector of ultralytics")
    finally:
        PIL.Image.open = pillow_open
    return ultralytics


def build(plan: dict) -> nn.Module:
    """An ultralytics DetectionModel from its plan, with random weights. Raises ValueError for a plan that
    names anything but layers, because ultralytics evaluates the names, and plans come from files."""
    import_ultralytics()
    from torch import nn
    from ultralytics.nn import tasks

    for *_, name, _ in [*plan["backbone"], *plan["head"]]:
        layer = getattr(nn, name[3:], None) if name.startswith("nn.") else vars(tasks).get(name)
        is_layer = isinstance(layer, type) and issubclass(layer, nn.Module)
        if not is_layer or name == "TorchVision":  # the latter downloads weights
            raise ValueError(f"network plan refused: {name!r} is not an allowed layer")
    activation = plan.get("activation") or "nn.SiLU()"
    if not re.fullmatch(r"(torch\.)?nn\.[A-Z]\w*\([\w.=, -]*\)", activation):
        raise ValueError(f"network plan refused: activation {activation!r} is not one of torch")
    return tasks.DetectionModel(plan, ch=plan.get("channels", 3), verbose=False)


def planned_session(path: Path, device: str = "cpu") -> ConfinedSession:
    """The session of a detector that `imgfp convert` wrote, or of the `weights.safetensors` of notebook 20, on torch.
    Raises ValueError naming a file that is not one."""
    taken = torch_device(device, path.name)
    return ConfinedSession("imgfp.crops.ultralytics_models:handler", path, taken, scratch_mb=64)


def handler() -> Handler:
    """Runs the network of one file, in a process of its own."""
    return session_handler(PlannedNetwork)


class PlannedNetwork:
    """The network of a `.safetensors` file with its plan, as a session of (1,3,side,side) float32 RGB in 0..1. Raises
    ValueError for a file without plan, and for one whose plan is not that of its tensors."""

    def __init__(self, path: Path, device: str):
        from safetensors import safe_open

        self._device = device
        with safe_open(path, "pt") as file:
            self._about = file.metadata() or {}
            if not {"plan", "input_size"} <= set(self._about):
                raise ValueError(
                    "a detector comes with its plan; write one with `imgfp convert own.pt own.safetensors`"
                )
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network: Any = build(json.loads(self._about["plan"])).eval()
        network.load_state_dict(state)
        network.model[-1].end2end = False  # `run_detector` does its own suppression
        self._network = network.to(device)

    def get_inputs(self) -> list[SimpleNamespace]:
        """The one input."""
        side = int(self._about["input_size"])
        return [SimpleNamespace(name="images", shape=[1, 3, side, side])]

    def get_modelmeta(self) -> SimpleNamespace:
        """Metadata of the file: how images get the size of the input."""
        resize = {name: self._about[name] for name in ("resize",) if name in self._about}
        return SimpleNamespace(custom_metadata_map=resize)

    def get_providers(self) -> list[str]:
        """What it runs on."""
        return [] if self._device == "cpu" else [CUDA_PROVIDER]

    def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Boxes (1, 4 + classes, n)."""
        import torch

        with torch.inference_mode():
            images = torch.from_numpy(feed["images"]).to(self._device)
            return [self._network(images)[0].cpu().numpy()]
