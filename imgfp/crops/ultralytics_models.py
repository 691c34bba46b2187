# SPDX-License-Identifier: AGPL-3.0-or-later
"""Detectors trained with ultralytics: `.safetensors` files always, `.pt` files only if trusted.

A `.pt` is a pickle, and loading it runs any code inside it. `convert` reads one without running code
and writes its tensors and the plan of its network as `.safetensors`.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from imgfp.crops.boxes import run_detector
from imgfp.datatypes import Boxes
from imgfp.inference import require, sha256_of, torch_device

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


def convert(source: str | Path, target: str | Path) -> None:
    """Write the detector of an ultralytics checkpoint (`.pt`) as `.safetensors`, with its plan and image
    size in the metadata; no code of the checkpoint runs.

    Only tensors and layers of ultralytics are read. Raises ValueError for a file with anything else in
    it, FileNotFoundError for a missing file.
    """
    source, target = Path(source), Path(target)
    if source.suffix.lower() != ".pt" or target.suffix.lower() != ".safetensors":
        raise ValueError(f"expected a .pt and a .safetensors file, got {source} and {target}")
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}; check the path")
    import_ultralytics()
    from safetensors.torch import save
    from ultralytics.nn.tasks import torch_safe_load

    try:
        checkpoint, _ = torch_safe_load(source.absolute(), safe_only=True)
        network = checkpoint.get("ema") or checkpoint["model"]
        plan, state = network.yaml, network.float().state_dict()
        build(plan).load_state_dict(state)  # raises unless plan and tensors are of the same network
        size = (checkpoint.get("train_args") or {}).get("imgsz", 640)
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"{source}: not converted, because it is not a plain detector of ultralytics 8 or later "
            f"({' '.join(str(error).split())[:200]}); export it to ONNX where it was trained"
        ) from error
    about = {
        "plan": json.dumps(plan),
        "input_size": str(size if isinstance(size, int) else max(size)),
    }
    # Not `save_file`, whose files are readable by their owner only.
    target.write_bytes(save({name: value.contiguous() for name, value in state.items()}, about))


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


class SafetensorsDetector:
    """A detector that `convert` wrote, or the `weights.safetensors` of notebook 20."""

    def __init__(self, path: str | Path, device: str = "cpu"):
        import_ultralytics()
        from safetensors import safe_open

        path = Path(path)
        self._torch_device = torch_device(device, path.name)
        self.device = self._torch_device.partition(":")[0]
        self.weights_hash = sha256_of(path)
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if not {"plan", "input_size"} <= set(about):
                raise ValueError(
                    f"{path}: not a detector with its plan; write one with "
                    "`python -m imgfp convert-detector own.pt own.safetensors`"
                )
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self._network = build(json.loads(about["plan"])).eval()
        self._network.load_state_dict(state)
        self._network.to(self._torch_device)
        # Every box is wanted: `run_detector` does its own suppression.
        cast(Any, self._network).model[-1].end2end = False
        self._size = (int(about["input_size"]),) * 2
        self._stretch = about.get("resize") == "stretch"

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """Boxes of each (H,W,3) uint8 RGB image, in its pixels; `image_ids` are not needed."""
        return [
            run_detector(self._run, image, self._size, stretch=self._stretch) for image in images
        ]

    def _run(self, feed: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self._network(torch.from_numpy(feed).to(self._torch_device))[0][0].cpu().numpy()


class PtDetector:
    """A `.pt` file that the user trusts: loading it runs the code inside it."""

    def __init__(self, path: Path, device: str = "cpu"):
        self.weights_hash = sha256_of(path)
        self._model = import_ultralytics().YOLO(str(path), task="detect")
        self._torch_device = torch_device(device, path.name)
        self.device = self._torch_device.partition(":")[0]

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """Boxes of each (H,W,3) uint8 RGB image; `image_ids` are not needed."""
        boxes = []
        for image in images:
            result = self._model.predict(
                image[..., ::-1], conf=0.02, verbose=False, device=self._torch_device
            )[0].boxes
            boxes.append(Boxes(result.xyxy.cpu().numpy(), result.conf.cpu().numpy()))
        return boxes
