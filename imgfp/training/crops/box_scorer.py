"""Box scorer of the crop detector: a tiny network that computes the confidence of a proposed box.

It learns from generated scenes, as the detector network does, how well a box with given features
(`imgfp.crops.box_features`) covers a paste. Its input are numbers and no pixels, so training takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn

from imgfp.crops.box_features import N_FEATURES
from imgfp.crops.detectors import Detector, propose
from imgfp.geometry import iou
from imgfp.training.crops.scenes import make_scene
from imgfp.training.onnx_export import export_onnx


def collect(
    photographs: Sequence[np.ndarray], network: Detector, *, scenes: int, untouched: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, N_FEATURES) of all boxes proposed in `scenes` generated images and in `untouched`
    photographs, and how well each covers a paste: (n,) float32, 0 up to an IoU of 0.5, 1 from 0.95 on.
    The photographs add real windows, frames and posters."""
    features, covers = [], []
    whole = np.random.default_rng(seed).permutation(len(photographs))[:untouched]
    nothing = np.empty((0, 4), np.float32)
    generated = (make_scene(photographs, seed, number) for number in range(scenes))
    images = chain(
        ((scene.image, scene.boxes) for scene in generated),
        ((photographs[int(number)], nothing) for number in whole),
    )
    for image, truth in images:
        xyxy, found = propose(image, network.detect([image])[0])
        features.append(found)
        covers.append(iou(xyxy[:, None], truth).max(1, initial=0))
    cover = (np.concatenate(covers) - 0.5) / 0.45
    return np.concatenate(features), cover.clip(0, 1).astype(np.float32)


class BoxScorer(nn.Module):
    """(n, N_FEATURES) features to (n,) confidence in 0..1."""

    def __init__(self, hidden: int = 96):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(N_FEATURES, affine=False),
            nn.Linear(N_FEATURES, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Higher: covers a paste better."""
        return self.layers(features.clamp(-8, 8))[:, 0].sigmoid()


def fit_box_scorer(
    features: np.ndarray, cover: np.ndarray, *, epochs: int = 16, seed: int = 0
) -> tuple[BoxScorer, list[float]]:
    """Train a scorer on the arrays of `collect`; also the mean loss of each epoch (cross entropy)."""
    torch.manual_seed(seed)
    scorer = BoxScorer().train()
    x, y = torch.from_numpy(features), torch.from_numpy(cover)
    batch = min(512, len(x))
    steps = len(x) // batch
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * steps)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(x))[: steps * batch].split(batch):
            loss = nn.functional.binary_cross_entropy(scorer(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        losses.append(total / steps)
    return scorer.eval(), losses


def export_box_scorer(scorer: BoxScorer, path: Path) -> None:
    """Write a scorer as ONNX, float32, any number of boxes."""
    export_onnx(scorer, path, torch.zeros(2, N_FEATURES), "features", "confidence")
