# SPDX-License-Identifier: AGPL-3.0-or-later
"""Train the crop detector: an ultralytics network on generated images.

The network (`training.crops.network`) is trained with ultralytics' own loss (task-aligned assignment, CIoU,
distribution focal loss) and moving average, and exported to ONNX.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from imgfp import store
from imgfp.crops.boxes import letterbox, run_detector
from imgfp.datatypes import Boxes
from imgfp.training.checkpoints import Stateful, load_checkpoint, save_checkpoint
from imgfp.training.crops.network import build_network, load_weights, save_weights
from imgfp.training.crops.scenes import make_scene
from imgfp.training.onnx_export import onnx_bytes


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the weights, besides the photographs.

    The learning rate rises over `warmup_steps`, stays constant, and falls to almost zero over the last
    `decay_share` of `steps`; so only `steps` may be changed when a training is resumed.
    """

    steps: int = 6000
    batch_size: int = 16
    image_size: int = 224  # side in px; each step uses this size, or 32 px more or less
    final_image_size: int = 256  # side in px while the learning rate falls
    width: float = 0.1875  # channels, relative to YOLO11's widest
    learning_rate: float = 2e-3
    weight_decay: float = 5e-4
    warmup_steps: int = 300
    decay_share: float = 0.65
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = min(1.0, (self.steps - step) / max(1, self.decay_share * self.steps))
        return self.learning_rate * rise * max(0.01, fall)

    def size(self, step: int) -> int:
        """Side of the square images of a step, px, a multiple of 32."""
        if step >= self.steps * (1 - self.decay_share):
            return self.final_image_size
        rng = np.random.default_rng([self.seed, 2, step])
        return self.image_size + 32 * int(rng.integers(-1, 2))


# --------------------------------------------------------------------------------------- training


class _Scenes(torch.utils.data.Dataset):
    """Scene number i as (3,S,S) uint8 and its boxes, normalised centre x, y, width, height."""

    def __init__(self, photographs: Sequence[np.ndarray], recipe: Recipe):
        self.photographs, self.recipe = photographs, recipe

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        scene = make_scene(self.photographs, self.recipe.seed, index)
        size = self.recipe.size(index // self.recipe.batch_size)
        pixels, scale, _ = letterbox(scene.image, size, size, stretch=True)
        xyxy = scene.boxes / scale / size
        xywh = np.concatenate([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1)
        return pixels.transpose(2, 0, 1), xywh.astype(np.float32)


def _collate(items: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    counts = [len(boxes) for _, boxes in items]
    boxes = torch.from_numpy(np.concatenate([boxes for _, boxes in items]))
    return {
        "img": torch.from_numpy(np.stack([pixels for pixels, _ in items])),
        "bboxes": boxes,
        "cls": torch.zeros(len(boxes), 1),
        "batch_idx": torch.repeat_interleave(
            torch.arange(len(items)), torch.tensor(counts)
        ).float(),
    }


def train(
    photographs: Sequence[np.ndarray],
    folder: Path,
    recipe: Recipe,
    *,
    init_weights: str | Path = "",
    device: str = "cpu",
    workers: int = 1,
    bf16: bool = True,
    report_steps: int = 500,
    evaluate: Callable[[nn.Module], dict] | None = None,
) -> Iterator[dict]:
    """Train and yield a row of the history every `report_steps` steps.

    `folder` holds `checkpoint.pt` (resumed if it exists; refused under another recipe, except for
    `steps`) and, when the training is done, `weights.safetensors` (the moving average, which
    is the result) and `history.json`. `evaluate` gets the moving average in evaluation mode; what
    it returns is added to the row. `init_weights`: a `.safetensors` to start from; empty: random.
    A row: step, images, seconds (of this process), learning_rate, box_loss, cls_loss, dfl_loss.
    """
    model = build_network(recipe.width, recipe.seed)
    if init_weights:
        load_weights(model, store.project_path(init_weights))
    from ultralytics.utils.loss import v8DetectionLoss
    from ultralytics.utils.torch_utils import ModelEMA

    model = model.to(device).to(memory_format=torch.channels_last).train()
    average = ModelEMA(model, decay=0.999, tau=500)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1 and p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.0)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    parts: dict[str, Stateful] = {
        "model": model,
        "average": average.ema,
        "optimizer": optimizer,
    }
    settings = dataclasses.asdict(recipe)
    progress = load_checkpoint(checkpoint, parts, settings, adjustable=["steps"])
    start, history = progress.get("step", 0), progress.get("history", [])
    average.updates = progress.get("updates", 0)
    loss_of = v8DetectionLoss(model)
    batches: Iterable[dict[str, torch.Tensor]] = torch.utils.data.DataLoader(
        _Scenes(photographs, recipe),
        batch_size=recipe.batch_size,
        sampler=range(start * recipe.batch_size, recipe.steps * recipe.batch_size),
        num_workers=workers,
        collate_fn=_collate,
    )
    began, counted = time.monotonic(), 0
    sums: dict[str, float] = {}
    for step, batch in enumerate(batches, start):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        batch = {name: value.to(device) for name, value in batch.items()}
        pixels = batch["img"].float().div_(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            output = model(pixels)
        output = {**output, "boxes": output["boxes"].float(), "scores": output["scores"].float()}
        losses, components = loss_of(output, batch)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        average.update(model)
        sums = {name: sums.get(name, 0.0) + float(value) for name, value in components.items()}
        counted += 1
        report = (step + 1) % report_steps == 0 or step + 1 == recipe.steps
        if report:
            row: dict[str, Any] = {"step": step + 1, "images": (step + 1) * recipe.batch_size}
            row |= {"seconds": round(time.monotonic() - began), "learning_rate": recipe.rate(step)}
            row |= {name: value / counted for name, value in sums.items()}
            row |= evaluate(average.ema) if evaluate else {}
            history.append(row)
            sums, counted = {}, 0
        if report or (step + 1) % 100 == 0:
            progress = {"step": step + 1, "history": history, "updates": average.updates}
            save_checkpoint(checkpoint, parts, settings, **progress)
        if report:
            yield row
    about = dataclasses.asdict(recipe) | {"input_size": recipe.final_image_size}
    save_weights(average.ema, folder / "weights.safetensors", about)
    store.write_sealed(folder / "history.json", json.dumps(history, indent=1).encode())


# ----------------------------------------------------------------------------- the trained network


def predict(
    model: nn.Module, images: Sequence[np.ndarray], image_size: int, *, floor: float = 0.02
) -> list[Boxes]:
    """Boxes of each (H,W,3) uint8 RGB image by a network in evaluation mode, in image pixels."""
    device = next(model.parameters()).device

    def run(feed: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(feed).to(device))[0][0].cpu().numpy()

    size = (image_size, image_size)
    return [run_detector(run, image, size, stretch=True, floor=floor) for image in images]


def export_onnx(model: nn.Module, path: Path, image_size: int) -> None:
    """Write a network as ONNX, float32, batch 1, images stretched to `image_size`, batch norm
    folded into the convolutions: for `imgfp.crops.detectors.NetworkDetector`."""
    import copy

    import onnx

    fused: Any = copy.deepcopy(model).float().cpu().eval()
    fused = fused.fuse(verbose=False)
    fused.model[-1].export = True  # the exported network gives the decoded boxes alone
    example = torch.zeros(1, 3, image_size, image_size)
    graph = onnx.load_from_string(onnx_bytes(fused, example, ["image"], ["boxes"]))
    onnx.helper.set_model_props(graph, {"resize": "stretch", "classes": "pasted picture"})
    onnx.checker.check_model(graph)
    store.write_sealed(path, graph.SerializeToString())
