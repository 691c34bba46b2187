"""The last linear map in closed form: learned whitening.

What differs between two views of one photograph is noise, what differs between photographs is signal:
the map scales the noise to one in every direction and keeps the directions of most signal (Mikolajczyk
& Matas 2007; Radenovic, Tolias & Chum 2018). After a short training it is far better than the last layer
that was trained with the rest, and takes a minute.
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
    """Of up to `count` photographs: squeezed as they are, and edited as in training up to a strength
    of 0.8; each (n,s,s,3) uint8."""
    rng = np.random.default_rng([seed, 5])
    rows = rng.permutation(len(photographs))[:count]
    calm, hard = [], []
    for row in rows:
        others = [photographs[i] for i in rng.integers(0, len(photographs), 2) if i != row]
        edited = families.apply(photographs[row], draw_chain(3, 0.8, rng), rng, others).image
        calm.append(resize_square(photographs[row], side_px))
        hard.append(resize_square(edited, side_px))
    return np.stack(calm), np.stack(hard)


def pooled(network: CopyNet, images: np.ndarray, device: str = "cpu") -> np.ndarray:
    """What the last layer sees (n,f) float32, of square images (n,s,s,3) uint8."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network.pooled(to_tensor(images[start : start + 64], device)).cpu().numpy()
            for start in range(0, len(images), 64)
        ]
    return np.concatenate(parts)


def principal(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (f,) and the `count` (or as many as there are) main directions (f,k) of rows (n,f)."""
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
    calm: np.ndarray, hard: np.ndarray, dim: int, shrinkage: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (dim,f) and bias (dim,) float32 from features (n,f) of two views each.

    shrinkage: share of the mean noise that is added to all directions, so that few photographs do not
    make one seem noiseless. Raises ValueError for fewer photographs or features than `dim`.
    """
    count, width = calm.shape
    if count < dim or width < dim:
        raise ValueError(
            f"{count} photographs and {width} features cannot make {dim} numbers; give more photographs "
            "or a smaller descriptor_dim"
        )
    mean = (calm.mean(axis=0) + hard.mean(axis=0)) / 2
    noise = np.asarray(calm - hard, np.float64)
    within = noise.T @ noise / count
    within += shrinkage * np.trace(within) / width * np.eye(width)
    root = np.linalg.inv(np.linalg.cholesky(within))
    white = (calm - mean) @ root.T
    strength, directions = np.linalg.eigh(white.T @ white / count)
    kept = directions[:, np.argsort(-strength, kind="stable")[:dim]]
    weight = kept.T @ root
    return weight.astype(np.float32), (-weight @ mean).astype(np.float32)


def refine(
    layer: nn.Linear,
    calm: np.ndarray,
    hard: np.ndarray,
    steps: int,
    *,
    batch: int = 512,
    learning_rate: float = 0.001,
    temperature: float = 0.07,
    spreading: float = 0.5,
    seed: int = 0,
) -> None:
    """Go on from a linear map with the losses of training, on features (n,f) that stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(layer.parameters(), lr=learning_rate)
    first, second = torch.from_numpy(calm), torch.from_numpy(hard)
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
    calm: np.ndarray,
    hard: np.ndarray,
    *,
    components: int = 1200,
    refine_steps: int = 400,
    seed: int = 0,
) -> None:
    """Replace the last layer of `network`, given two views (n,s,s,3) uint8 of photographs at the size
    that it will be used at: main components of the features, learned whitening, refinement."""
    device = str(network.project.weight.device)
    first, second = (pooled(network, views, device) for views in (calm, hard))
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
