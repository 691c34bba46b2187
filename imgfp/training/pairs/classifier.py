"""Train the pair classifier (`imgfp.verify.classifier`) on aligned pairs and export it to ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from imgfp.runner.cluster import progress
from imgfp.training.checkpoints import Stateful, load_checkpoint, save_checkpoint
from imgfp.training.onnx_export import export_onnx
from imgfp.verify.classifier import SIDE_PX, network_input, tta_variants

#: Share of the training pairs of each kind of `dataset.KINDS`.
SHARES = {"copy": 0.5, "scene": 0.25, "synthetic": 0.15, "other": 0.1}

#: Labels are smoothed: the probability that the network is trained to give for the right one.
_SMOOTHED_LABEL = 0.99


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on, other than the pairs."""

    epochs: int = 8
    batch_size: int = 64
    width: int = 16
    learning_rate: float = 0.003
    seed: int = 0


class PairNet(nn.Module):
    """(n,5,h,w) of `classifier.network_input` to (n,) log-odds that each pair is a copy.

    Both images pass the same first layers; the products and differences of their feature maps show at
    every position what agrees and what differs. Further layers read its shape; means and maxima over the
    overlap give the result.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        self.first = nn.Sequential(_block(2, width, 5, 2), *_block(width, width)[:2])
        widths = [4 * width + 1, 2 * width, 3 * width, 4 * width, 6 * width, 6 * width]
        strides = (1, 2, 2, 2, 1)
        levels = zip(widths, widths[1:], strides, strict=False)
        self.then = nn.Sequential(*(_block(i, o, 3, stride) for i, o, stride in levels))
        self.last = nn.Sequential(nn.Dropout(0.3), nn.Linear(12 * width, 1))

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Log-odds (n,), higher: more likely a copy."""
        query, reference = self.first(planes[:, :2]), self.first(planes[:, 2:4])
        mask = F.avg_pool2d(planes[:, 4:], 2)
        both = [query * reference, (query - reference).abs(), query.relu(), reference.relu(), mask]
        maps = self.then(torch.cat(both, dim=1))
        inside = F.avg_pool2d(mask, 8)
        mean = (maps * inside).sum((2, 3)) / inside.sum((2, 3)).clamp_min(0.5)
        most = (maps * (inside > 0.3)).amax((2, 3))
        return self.last(torch.cat([mean, most], dim=1))[:, 0]


def _block(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def augment(planes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pair (3,h,h) uint8 with the same label: turned and mirrored as a whole, the query contrast-reversed
    or shifted by one pixel, part of the overlap masked."""
    planes = planes[:, :: rng.choice([1, -1]), :: rng.choice([1, -1])]
    if rng.random() < 0.5:
        planes = planes.transpose(0, 2, 1)
    query, reference, mask = planes
    if rng.random() < 0.1:
        query = 255 - query
    if rng.random() < 0.3:
        query = np.roll(query, rng.integers(-1, 2, 2), (0, 1))
    if rng.random() < 0.3:
        side = len(mask)
        low, high = np.sort(rng.integers(0, side + 1, 2))
        if high - low > side // 3:
            mask = mask.copy()
            mask[:low] = mask[high:] = 0
    return np.stack([query, reference, mask])


def train(
    planes: np.ndarray, kinds: np.ndarray, network: PairNet, recipe: Recipe, checkpoint: Path
) -> Iterator[dict]:
    """Train `network` in place; after each epoch its state is saved and a row is given: epoch, loss.

    planes (n,3,h,h) uint8; kinds (n,) of `dataset.KINDS`. Resumes from `checkpoint` if it exists; raises
    ValueError if that was trained with another recipe or number of pairs. An epoch draws n pairs, kinds
    according to SHARES.
    """
    label = torch.from_numpy((kinds == "copy").astype(np.float32)) * (2 * _SMOOTHED_LABEL - 1)
    label += 1 - _SMOOTHED_LABEL
    share = np.sum(
        [np.where(kinds == k, s / max(1, (kinds == k).sum()), 0) for k, s in SHARES.items()], axis=0
    )
    per_epoch = max(1, len(planes) // recipe.batch_size)
    total = recipe.epochs * per_epoch
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=total
    )
    parts: dict[str, Stateful] = {
        "network": network,
        "optimiser": optimiser,
        "schedule": schedule,
    }
    settings = asdict(recipe) | {"pairs": len(planes)}
    done = load_checkpoint(checkpoint, parts, settings).get("epoch", 0)
    network.train()
    with progress(
        "training", "pair", (recipe.epochs - done) * per_epoch * recipe.batch_size
    ) as bar:
        for epoch in range(done, recipe.epochs):
            rng = np.random.default_rng([recipe.seed, epoch])
            torch.manual_seed(int(rng.integers(2**31)))
            losses = []
            for _ in range(per_epoch):
                rows = rng.choice(len(planes), recipe.batch_size, p=share / share.sum())
                batch = np.stack([network_input(augment(planes[row], rng)) for row in rows])
                logit = network(torch.from_numpy(batch))
                loss = F.binary_cross_entropy_with_logits(logit, label[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                losses.append(float(loss.detach()))
                bar.update(recipe.batch_size)
            save_checkpoint(checkpoint, parts, settings, epoch=epoch + 1)
            yield {"epoch": epoch + 1, "loss": float(np.mean(losses))}


def predict_pairs(network: PairNet, planes: np.ndarray) -> np.ndarray:
    """Log-odds (n,) of aligned pairs (n,3,h,h) uint8, the mean over `tta_variants` as in verification."""
    network.eval()
    with torch.inference_mode():
        log_odds = [
            network(torch.from_numpy(tta_variants(network_input(pair)))).mean() for pair in planes
        ]
    return torch.stack(log_odds).numpy()


def roc_auc_by_kind(
    log_odds: np.ndarray, kinds: np.ndarray, false_alarms: float = 0.02
) -> pd.DataFrame:
    """How well copies are separated from each other kind: kind, pairs, roc_auc, and `recall`, the share of
    copies that score above all but a share `false_alarms` of that kind."""
    from sklearn.metrics import roc_auc_score

    copies = log_odds[kinds == "copy"]
    rows = []
    for kind in sorted(set(kinds) - {"copy"}):
        others = log_odds[kinds == kind]
        label = np.repeat([True, False], [len(copies), len(others)])
        auc = roc_auc_score(label, np.concatenate([copies, others]))
        cut = np.quantile(others, 1 - false_alarms)
        rows.append((kind, len(others), auc, float((copies > cut).mean())))
    return pd.DataFrame(rows, columns=["kind", "pairs", "roc_auc", "recall"])


def export(network: PairNet, path: Path) -> None:
    """Write the network as ONNX, float32, any number of pairs, for `verify.classifier.PairClassifier`."""
    planes = torch.zeros(2, 5, SIDE_PX, SIDE_PX)
    export_onnx(network.eval(), path, planes, "planes", "log_odds")
