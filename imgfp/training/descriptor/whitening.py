"""The last linear layer in closed form: learned whitening.

The difference between two views of one photograph is noise, the difference between photographs is signal:
the layer scales the noise to one in every direction and keeps the directions with most signal (Mikolajczyk
& Matas 2007; Radenovic, Tolias & Chum 2018). After a short training it is far better than a last layer that
was trained with the rest of the network, and takes a minute.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from imgfp.descriptors.base import resize_square
from imgfp.descriptors.networks import CopyNet
from imgfp.edits import families
from imgfp.training.descriptor.augmentation import draw_chain
from imgfp.training.descriptor.trainer import contrastive_loss, spreading_loss, to_tensor


def view_pairs(
    photographs: Sequence[np.ndarray], count: int, side_px: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Two views of up to `count` photographs: unedited, and edited as in training with a strength up to
    0.8; each (n,s,s,3) uint8."""
    rng = np.random.default_rng([seed, 5])
    rows = rng.permutation(len(photographs))[:count]
    mild, hard = [], []
    for row in rows:
        others = [photographs[i] for i in rng.integers(0, len(photographs), 2) if i != row]
        edited = families.apply(photographs[row], draw_chain(3, 0.8, rng), rng, others).image
        mild.append(resize_square(photographs[row], side_px))
        hard.append(resize_square(edited, side_px))
    return np.stack(mild), np.stack(hard)


def pooled(network: CopyNet, images: np.ndarray, device: str = "cpu") -> np.ndarray:
    """The input of the last layer (n,f) float32, for square images (n,s,s,3) uint8."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network.pooled(to_tensor(images[start : start + 64], device)).cpu().numpy()
            for start in range(0, len(images), 64)
        ]
    return np.concatenate(parts)


def principal(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (f,) and the principal directions (f,k) of rows (n,f), at most `count` of them."""
    mean = features.mean(axis=0)
    centred = (features - mean).astype(np.float64)
    # The smaller of the two Gram matrices.
    if len(centred) < centred.shape[1]:
        strength, rows = np.linalg.eigh(centred @ centred.T)
        directions = centred.T @ rows / np.sqrt(np.maximum(strength, 1e-12))
    else:
        strength, directions = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-strength, kind="stable")[:count]
    return mean, directions[:, order[strength[order] > 1e-9 * strength.max()]]


def learn_whitening(
    mild: np.ndarray, hard: np.ndarray, dim: int, shrinkage: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (dim,f) and bias (dim,) float32 from features (n,f) of two views each.

    shrinkage: share of the mean noise that is added to all directions, so that none has no noise by chance
    when there are few photographs. Raises ValueError for fewer photographs or features than `dim`.
    """
    count, width = mild.shape
    if count < dim or width < dim:
        raise ValueError(
            f"{count} photographs and {width} features cannot make {dim} numbers; give more photographs "
            "or a smaller descriptor_dim"
        )
    mean = (mild.mean(axis=0) + hard.mean(axis=0)) / 2
    noise = np.asarray(mild - hard, np.float64)
    within = noise.T @ noise / count
    within += shrinkage * np.trace(within) / width * np.eye(width)
    root = np.linalg.inv(np.linalg.cholesky(within))
    white = (mild - mean) @ root.T
    strength, directions = np.linalg.eigh(white.T @ white / count)
    kept = directions[:, np.argsort(-strength, kind="stable")[:dim]]
    weight = kept.T @ root
    return weight.astype(np.float32), (-weight @ mean).astype(np.float32)


def refine(
    layer: nn.Linear,
    mild: np.ndarray,
    hard: np.ndarray,
    steps: int,
    *,
    batch: int = 512,
    learning_rate: float = 0.001,
    temperature: float = 0.07,
    spreading: float = 0.5,
    seed: int = 0,
) -> None:
    """Train a linear layer further with the losses of training, on fixed features (n,f)."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(layer.parameters(), lr=learning_rate)
    first, second = torch.from_numpy(mild), torch.from_numpy(hard)
    for _ in range(steps):
        rows = torch.randperm(len(first), generator=generator)[:batch]
        vectors = F.normalize(layer(torch.cat([first[rows], second[rows]])), dim=1)
        labels = rows.repeat(2)
        loss = contrastive_loss(vectors, labels, None, temperature)
        loss = loss + spreading * spreading_loss(vectors, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def whiten(
    network: CopyNet,
    mild: np.ndarray,
    hard: np.ndarray,
    *,
    components: int = 1200,
    refine_steps: int = 400,
    seed: int = 0,
) -> None:
    """Replace the last layer of `network`, given two views (n,s,s,3) uint8 of photographs at the size of
    inference: principal components of the features, learned whitening, refinement."""
    device = str(network.project.weight.device)
    first, second = (pooled(network, views, device) for views in (mild, hard))
    mean, directions = principal(first, components)
    first, second = (((x - mean) @ directions).astype(np.float32) for x in (first, second))
    weight, bias = learn_whitening(first, second, network.project.out_features)
    scale = float(np.linalg.norm(first @ weight.T + bias, axis=1).mean())
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight / scale))
        layer.bias.copy_(torch.from_numpy(bias / scale))
    refine(layer, first, second, refine_steps, seed=seed)
    whole = layer.weight.detach().numpy() @ directions.T
    with torch.no_grad():
        network.project.weight.copy_(torch.from_numpy(whole))
        network.project.bias.copy_(layer.bias.detach() - torch.from_numpy(whole @ mean))
