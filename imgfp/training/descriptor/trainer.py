# SPDX-License-Identifier: AGPL-3.0-or-later
"""Train the copy-detection descriptor from unlabelled photographs.

Contrastive loss over two views of a photograph (normalised temperature-scaled cross entropy, Chen et
al. 2020) against the batch and a memory of earlier batches (Wang et al. 2020), plus the spreading
term of SSCD (Pizzi et al. 2022; KoLeo, Sablayrolles et al. 2019), which pushes each vector away from its
nearest neighbour, so that a distance has the same meaning in every part of the space.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices
from timm.utils import ModelEmaV3
from torch import nn

from imgfp.descriptors.base import IMAGENET
from imgfp.descriptors.networks import CopyNet
from imgfp.training.checkpoints import Stateful, load_checkpoint, save_checkpoint
from imgfp.training.descriptor.augmentation import Steps, step_loader
from imgfp.training.descriptor.validation import Validation, micro_ap


@dataclass(frozen=True)
class Settings:
    """How to train. Two runs of equal settings, photographs and machine give equal weights."""

    backbone: str = "regnetx_002"
    dim: int = 256
    levels: int = 4  # how many of the backbone's last levels are pooled
    grid: int = 3  # cells per side of the last level that are pooled apart, 0: none
    steps: int = 6000
    learning_rate: float = 0.0015
    weight_decay: float = 0.05
    warmup_steps: int = 100
    cooldown_share: float = 0.3  # the last part of the steps, over which the rate falls to zero
    temperature: float = 0.05
    spreading: float = 2.0  # weight of the spreading term, 0: off
    memory: int = 256  # earlier vectors kept as negatives, 0: off; more would be out of date
    averaging: float = 0.998  # decay of the averaged weights, which are the result
    bf16: bool = True  # halves the time on a GPU or a CPU with avx512_bf16
    device: str = "cpu"


#: Settings that may change when a training is resumed.
ADJUSTABLE = frozenset({"steps", "learning_rate", "cooldown_share", "device", "bf16"})


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, a plateau, then a cosine to zero.

    The plateau lets a training that is stopped early be resumed with fewer `steps` and still cool down.
    """
    cooldown = max(1, round(settings.steps * settings.cooldown_share))
    rest = min(1.0, max(0.0, (settings.steps - step) / cooldown))
    rise = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    return settings.learning_rate * rise * 0.5 * (1 - float(np.cos(np.pi * rest)))


def spreading_loss(vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Minus the mean log distance to the nearest vector of another label; vectors (n,d) unit norm."""
    similarity = vectors @ vectors.T
    similarity = similarity.masked_fill(labels[:, None] == labels[None, :], -1.0)
    squared = (2 - 2 * similarity.max(dim=1).values).clamp(min=1e-6)
    return -0.5 * squared.log().mean()


def to_tensor(views: np.ndarray | torch.Tensor, device: str) -> torch.Tensor:
    """Views (n,h,w,3) uint8 -> normalised (n,3,h,w) float32, channels last in memory."""
    pixels = torch.as_tensor(views).to(device).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in IMAGENET)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


class Memory:
    """The vectors of the latest views and their labels, as negatives; label -1: not filled yet.

    Vectors of photographs in the present batch are ignored, neither negative nor positive: they were
    computed with older weights.
    """

    def __init__(self, size: int, dim: int, device: str):
        self.vectors = torch.zeros(size, dim, device=device)
        self.labels = torch.full((size,), -1, dtype=torch.int64, device=device)
        self.next = 0

    def others(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors and labels of photographs other than `labels`."""
        keep = (self.labels >= 0) & ~torch.isin(self.labels, labels)
        return self.vectors[keep], self.labels[keep]

    def push(self, vectors: torch.Tensor, labels: torch.Tensor) -> None:
        """Overwrite the oldest."""
        rows = (self.next + torch.arange(len(labels), device=labels.device)) % len(self.labels)
        self.vectors[rows], self.labels[rows] = vectors.detach(), labels
        self.next = (self.next + len(labels)) % len(self.labels)

    def state_dict(self) -> dict[str, Any]:
        """Complete for `load_state_dict`."""
        return {"vectors": self.vectors, "labels": self.labels, "next": self.next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of a memory of the same size."""
        self.vectors.copy_(state["vectors"])
        self.labels.copy_(state["labels"])
        self.next = state["next"]


def contrastive_loss(
    vectors: torch.Tensor, labels: torch.Tensor, memory: Memory | None, temperature: float
) -> torch.Tensor:
    """Cross entropy of finding the other view of a photograph among all photographs of the batch and the
    memory; vectors (n,d) of unit norm."""
    known, known_labels = vectors, labels
    if memory is not None:
        old, old_labels = memory.others(labels)
        known, known_labels = torch.cat([vectors, old]), torch.cat([labels, old_labels])
    anchor, positive, other, negative = get_all_pairs_indices(labels, known_labels)
    apart = anchor != positive  # the first rows of `known` are the anchors themselves
    pairs = anchor[apart], positive[apart], other, negative
    # With one positive per anchor this is NT-Xent; NTXentLoss itself builds (pairs x pairs) arrays.
    return SupConLoss(temperature=temperature)(vectors, labels, pairs, known, known_labels)


class Trainer:
    """Everything that changes during training; `save` and `resume` carry it over a restart."""

    def __init__(self, settings: Settings, seed: int):
        torch.manual_seed(seed)
        self.settings = settings
        self.step = 0
        self.history: list[dict] = []
        self.model = CopyNet(settings.backbone, settings.dim, settings.levels, settings.grid)
        self.model.to(settings.device).to(memory_format=torch.channels_last)
        self.average = ModelEmaV3(self.model, decay=settings.averaging, use_warmup=True)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ]
        )
        self.memory = None
        if settings.memory:
            self.memory = Memory(settings.memory, settings.dim, settings.device)

    def begin_from(self, network: CopyNet) -> None:
        """Start from the weights of an earlier training. Raises ValueError for another architecture."""
        if network.shape != self.model.shape:
            raise ValueError(f"the weights are of {network.shape}, not of {self.model.shape}")
        for ours in (self.model, self.average.module):
            ours.load_state_dict(network.state_dict())

    def update(self, rows: torch.Tensor, views: torch.Tensor) -> dict[str, float]:
        """One step on views (2b,s,s,3) uint8 of the photographs `rows` (b,); its losses by name."""
        settings = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, settings)
        labels = torch.as_tensor(rows).repeat(2).to(settings.device)
        self.model.train()
        with torch.autocast(
            torch.device(settings.device).type, torch.bfloat16, enabled=settings.bf16
        ):
            vectors = self.model(to_tensor(views, settings.device))
        vectors = vectors.float()
        contrast = contrastive_loss(vectors, labels, self.memory, settings.temperature)
        spread = spreading_loss(vectors, labels)
        loss = contrast + settings.spreading * spread
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.step}; lower the rate"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        if self.memory is not None:
            self.memory.push(vectors, labels)
        self.step += 1
        self.average.update(self.model, self.step)
        return {"loss": loss.item(), "contrast": contrast.item(), "spread": spread.item()}

    def save(self, path: Path) -> None:
        """Write the whole state to a checkpoint, atomically."""
        save_checkpoint(
            path, self._parts(), asdict(self.settings), step=self.step, history=self.history
        )

    def resume(self, path: Path) -> bool:
        """Continue from a checkpoint; False if there is none. Raises ValueError if any setting other than
        those of ADJUSTABLE differs."""
        progress = load_checkpoint(path, self._parts(), asdict(self.settings), ADJUSTABLE)
        if progress:
            self.step, self.history = progress["step"], progress["history"]
        return bool(progress)

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {
            "model": self.model,
            "average": self.average.module,
            "optimiser": self.optimiser,
        }
        return parts | ({"memory": self.memory} if self.memory is not None else {})


def embed(model: nn.Module, images: np.ndarray, device: str, batch_size: int = 64) -> np.ndarray:
    """Vectors (n,d) float32 of square images (n,s,s,3) uint8, in float32 arithmetic."""
    model.eval()
    with torch.inference_mode():
        parts = [
            model(to_tensor(images[start : start + batch_size], device)).cpu().numpy()
            for start in range(0, len(images), batch_size)
        ]
    return np.concatenate(parts)


def train(
    steps: Steps,
    validation: Validation,
    settings: Settings,
    checkpoint: Path,
    *,
    start: CopyNet | None = None,
    workers: int = 1,
    validate_seconds: float = 600,
    report: Callable[[dict], None] = lambda row: None,
) -> tuple[CopyNet, pd.DataFrame]:
    """Train to `settings.steps`, resuming from `checkpoint` if it exists, else from the weights of
    `start`, else from random ones.

    Every validate_seconds the averaged weights are evaluated on `validation` and the state is saved.
    Returns the averaged network and the history: a row per 20 steps with step, epoch, loss, contrast,
    spread, rate, views_per_second and, where it was measured, micro_ap.
    """
    trainer = Trainer(settings, steps.curriculum.seed)
    if not trainer.resume(checkpoint) and start is not None:
        trainer.begin_from(start)
    per_epoch = max(1, len(steps.photographs) // steps.curriculum.batch_images)
    losses: list[dict[str, float]] = []
    began, saved = time.monotonic(), time.monotonic()
    for rows, views in step_loader(steps, trainer.step, settings.steps, workers):
        losses.append(trainer.update(rows, views))
        last = trainer.step == settings.steps
        due = last or time.monotonic() - saved > validate_seconds
        if not due and trainer.step % 20:
            continue
        row: dict[str, Any] = {
            "step": trainer.step,
            "epoch": trainer.step / per_epoch,
            **{name: float(np.mean([loss[name] for loss in losses])) for name in losses[0]},
            "rate": learning_rate(trainer.step, settings),
            "views_per_second": len(views) * len(losses) / (time.monotonic() - began),
        }
        if due:
            row["micro_ap"] = micro_ap(
                validation, partial(embed, trainer.average.module, device=settings.device)
            )
        trainer.history.append(row)
        report(row)
        if due:
            trainer.save(checkpoint)
            saved = time.monotonic()
        losses, began = [], time.monotonic()
    return trainer.average.module, pd.DataFrame(trainer.history)
