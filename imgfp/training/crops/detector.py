"""Train the crop detector: an ultralytics network, our own pictures, one plain loop.

The network (`crop_network`) is trained with ultralytics' own loss (task-aligned assignment, CIoU,
distribution focal loss) and moving average, and leaves as ONNX.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from imgfp import store
from imgfp.crops.boxes import letterbox, run_detector
from imgfp.datatypes import Boxes
from imgfp.training.crops.network import build_network, load_weights, save_weights
from imgfp.training.crops.scenes import make_scene


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the weights, besides the photographs.

    The learning rate rises over `warmup_steps`, stays, and falls to nothing over the last
    `decay_share` of `steps`; so `steps` alone may be changed when a training is taken up again.
    """

    steps: int = 6000
    batch_size: int = 16
    image_size: int = 224  # px, a side; a step is made at this size or 32 px more or less
    final_image_size: int = 256  # px, a side, while the learning rate falls
    width: float = 0.1875  # of YOLO11's widest channels
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
        """Side of the square pictures of a step, px, a multiple of 32."""
        if step >= self.steps * (1 - self.decay_share):
            return self.final_image_size
        rng = np.random.default_rng([self.seed, 2, step])
        return self.image_size + 32 * int(rng.integers(-1, 2))


# --------------------------------------------------------------------------------------- training


class _Scenes:
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
    judge: Callable[[nn.Module], dict] | None = None,
) -> Iterator[dict]:
    """Train, giving a row of the history every `report_steps` steps.

    `folder` holds `checkpoint.pt` (taken up again when it is there; refused under another recipe,
    `steps` apart) and, when the training is done, `weights.safetensors` (the moving average, which
    is the result) and `history.json`. `judge` gets the moving average in evaluation mode; what it
    returns joins the row. `init_weights`: a `.safetensors` to start from; empty: random.
    A row: step, images, seconds (of this process), learning_rate, box_loss, cls_loss, dfl_loss.
    """
    model = build_network(recipe.width, recipe.seed)
    if init_weights:
        load_weights(model, init_weights)
    from ultralytics.utils.loss import v8DetectionLoss
    from ultralytics.utils.torch_utils import ModelEMA

    model = model.to(device, memory_format=torch.channels_last).train()
    average = ModelEMA(model, decay=0.999, tau=500)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1 and p.requires_grad]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.0)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    start, history = 0, []
    if checkpoint.exists():
        start, history = _take_up(checkpoint, recipe, model, average, optimizer)
    loss_of = v8DetectionLoss(model)
    batches = torch.utils.data.DataLoader(
        _Scenes(photographs, recipe),
        batch_size=recipe.batch_size,
        sampler=range(start * recipe.batch_size, recipe.steps * recipe.batch_size),
        num_workers=workers,
        collate_fn=_collate,
    )
    began, sums, counted = time.monotonic(), {}, 0
    for step, batch in enumerate(batches, start):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        batch = {name: value.to(device) for name, value in batch.items()}
        pixels = batch["img"].float().div_(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            output = model(pixels)
        output = {**output, "boxes": output["boxes"].float(), "scores": output["scores"].float()}
        losses, parts = loss_of(output, batch)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        average.update(model)
        sums = {name: sums.get(name, 0.0) + float(value) for name, value in parts.items()}
        counted += 1
        report = (step + 1) % report_steps == 0 or step + 1 == recipe.steps
        if report:
            row = {"step": step + 1, "images": (step + 1) * recipe.batch_size}
            row |= {"seconds": round(time.monotonic() - began), "learning_rate": recipe.rate(step)}
            row |= {name: value / counted for name, value in sums.items()}
            row |= judge(average.ema) if judge else {}
            history.append(row)
            sums, counted = {}, 0
        if report or (step + 1) % 100 == 0:
            _keep(checkpoint, recipe, step + 1, history, model, average, optimizer)
        if report:
            yield row
    about = dataclasses.asdict(recipe) | {"input_size": recipe.final_image_size}
    save_weights(average.ema, folder / "weights.safetensors", about)
    (folder / "history.json").write_text(json.dumps(history, indent=1))


def _keep(path, recipe, step, history, model, average, optimizer) -> None:
    state = {
        "recipe": dataclasses.asdict(recipe),
        "step": step,
        "history": history,
        "model": model.state_dict(),
        "average": average.ema.state_dict(),
        "updates": average.updates,
        "optimizer": optimizer.state_dict(),
    }
    data = io.BytesIO()
    torch.save(state, data)
    store.write_bytes(path, data.getvalue())


def _take_up(path, recipe, model, average, optimizer) -> tuple[int, list[dict]]:
    """Load a checkpoint into place; returns the steps done and the history."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    now = dataclasses.asdict(recipe)
    other = {
        key: (state["recipe"].get(key), now[key])
        for key in now
        if key != "steps" and state["recipe"].get(key) != now[key]
    }
    if other:
        told = ", ".join(
            f"{key}: {was!r} there, {asked!r} asked" for key, (was, asked) in other.items()
        )
        raise ValueError(f"{path} was trained with other settings ({told}); choose another folder")
    model.load_state_dict(state["model"])
    average.ema.load_state_dict(state["average"])
    average.updates = state["updates"]
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["history"]


# ------------------------------------------------------------------------------- using what is learnt


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
    """Write a network as ONNX, float32, batch 1, pictures stretched to `image_size`, batch norm
    folded into the convolutions: what `imgfp.crops.detectors.OnnxDetector` reads."""
    import copy

    import onnx

    model = copy.deepcopy(model).float().cpu().eval().fuse(verbose=False)
    model.model[-1].export = True  # only the decoded boxes leave the network
    data = io.BytesIO()
    example = torch.zeros(1, 3, image_size, image_size)
    torch.onnx.export(
        model, (example,), data, input_names=["image"], output_names=["boxes"], dynamo=False
    )
    graph = onnx.load_from_string(data.getvalue())
    onnx.helper.set_model_props(graph, {"resize": "stretch", "classes": "pasted picture"})
    onnx.checker.check_model(graph)
    store.write_bytes(path, graph.SerializeToString())
