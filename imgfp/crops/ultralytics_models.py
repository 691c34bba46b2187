"""A user's own detector, trained with ultralytics: `.safetensors` always, `.pt` only where it is trusted.

A `.pt` is a pickle: loading it runs what its author put in. `convert` reads one without running
anything and leaves the tensors and the plan of the network as `.safetensors`.
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
from typing import TYPE_CHECKING

import numpy as np

from imgfp.crops.boxes import run_detector
from imgfp.datatypes import Boxes
from imgfp.inference import sha256_of

if TYPE_CHECKING:
    from torch import nn


def import_ultralytics() -> ModuleType:
    """ultralytics, kept from installing packages, going online, writing settings into the home
    folder, and replacing `PIL.Image.open` for the whole process, which it does when imported."""
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
        import ultralytics
        import ultralytics.utils.patches
    finally:
        PIL.Image.open = pillow_open
    return ultralytics


def convert(source: str | Path, target: str | Path) -> None:
    """Write the detector of an ultralytics checkpoint (`.pt`) as `.safetensors`, its plan and image
    size in the metadata; no code of the checkpoint runs.

    Only tensors and layers that ultralytics knows are read. Raises ValueError for a file with
    anything else in it, FileNotFoundError for one that is absent.
    """
    from safetensors.torch import save

    source, target = Path(source), Path(target)
    if source.suffix.lower() != ".pt" or target.suffix.lower() != ".safetensors":
        raise ValueError(f"expected a .pt and a .safetensors, got {source} and {target}")
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    import_ultralytics()
    from ultralytics.nn.tasks import torch_safe_load

    try:
        checkpoint, _ = torch_safe_load(source.absolute(), safe_only=True)
        network = checkpoint.get("ema") or checkpoint["model"]
        plan, state = network.yaml, network.float().state_dict()
        build(plan).load_state_dict(state)  # raises when plan and tensors are not of one network
        size = (checkpoint.get("train_args") or {}).get("imgsz", 640)
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"{source}: not converted, because it is not, or not only, a detector of ultralytics 8 "
            f"or later ({' '.join(str(error).split())[:200]}); export it to ONNX where it was trained"
        ) from error
    about = {
        "plan": json.dumps(plan),
        "input_size": str(size if isinstance(size, int) else max(size)),
    }
    # Not `save_file`: it makes files that nobody else may read.
    target.write_bytes(save({name: value.contiguous() for name, value in state.items()}, about))


def build(plan: dict) -> nn.Module:
    """An ultralytics DetectionModel from its plan, the weights at random. Raises ValueError for a
    plan that names anything but layers: plans come out of files, and ultralytics evaluates them."""
    import_ultralytics()
    from torch import nn
    from ultralytics.nn import tasks

    for *_, name, _ in [*plan["backbone"], *plan["head"]]:
        layer = getattr(nn, name[3:], None) if name.startswith("nn.") else vars(tasks).get(name)
        is_layer = isinstance(layer, type) and issubclass(layer, nn.Module)
        if not is_layer or name == "TorchVision":  # which downloads
            raise ValueError(f"a plan with {name!r}, which is no layer that may be used")
    activation = plan.get("activation") or "nn.SiLU()"
    if not re.fullmatch(r"(torch\.)?nn\.[A-Z]\w*\([\w.=, -]*\)", activation):
        raise ValueError(f"a plan with the activation {activation!r}, which is none of torch's")
    return tasks.DetectionModel(plan, ch=plan.get("channels", 3), verbose=False)


class SafetensorsDetector:
    """A detector that `convert` wrote, or `weights.safetensors` of notebook 20 on its own."""

    def __init__(self, path: str | Path):
        from safetensors import safe_open

        path = Path(path)
        self.weights_hash = sha256_of(path)
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if not {"plan", "input_size"} <= set(about):
                raise ValueError(
                    f"{path}: no detector with its plan; make one with "
                    "`python -m imgfp convert-detector own.pt own.safetensors`"
                )
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self._network = build(json.loads(about["plan"]))
        self._network.load_state_dict(state)
        self._network.eval().model[-1].end2end = False  # all boxes leave; ours are sorted out here
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
            return self._network(torch.from_numpy(feed))[0][0].numpy()


class PtDetector:
    """A `.pt` whose author the user trusts: loading it runs what is in it."""

    def __init__(self, path: Path):
        self.weights_hash = sha256_of(path)
        self._model = import_ultralytics().YOLO(str(path), task="detect")

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """Boxes of each (H,W,3) uint8 RGB image; `image_ids` are not needed."""
        found = []
        for image in images:
            result = self._model.predict(image[..., ::-1], conf=0.02, verbose=False)[0].boxes
            found.append(Boxes(result.xyxy.cpu().numpy(), result.conf.cpu().numpy()))
        return found
