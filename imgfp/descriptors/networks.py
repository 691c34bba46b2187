"""Descriptor networks: the trainable one, and published ones.

Each takes (n,3,h,w) normalised float32 and returns (n,d). `imgfp.descriptors.checkpoints` loads their
weights and wraps them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import timm
import torch
from torch import nn
from torch.nn import functional as F


class GeM(nn.Module):
    """Generalised-mean pooling (n,c,h,w) -> (n,c), in float32 (Radenovic, Tolias & Chum 2018).

    power: 1 is the mean, a large one approaches the maximum.
    """

    def __init__(self, power: float = 3.0, trained: bool = True):
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * power) if trained else power

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        lifted = maps.float().clamp(min=1e-6) ** self.p
        return lifted.mean(dim=(2, 3)) ** (1 / self.p)


class ToneFree(nn.Module):
    """Removes colour and tone from images: (n,3,h,w) normalised RGB -> (n,3,h,w) float32.

    Recolouring is the cheapest edit, and a network that is given colours relies on them. The output
    channels are the luminance, standardised over the whole image; the same over the surroundings of
    each pixel (local contrast normalisation, Jarrett et al. 2009); and the absolute value of the
    latter, which is invariant to contrast reversal, of the whole image or of a part. Each image is
    processed on its own.
    """

    luma: torch.Tensor

    def __init__(self):
        super().__init__()
        # Rec. 601 luma of channels that were divided by the standard deviations of ImageNet.
        luma = torch.tensor([0.299 * 0.229, 0.587 * 0.224, 0.114 * 0.225]).reshape(1, 3, 1, 1)
        self.register_buffer("luma", luma)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grey = (images.float() * self.luma).sum(dim=1, keepdim=True)
        whole = grey - grey.mean(dim=(2, 3), keepdim=True)
        whole = whole / (whole.square().mean(dim=(2, 3), keepdim=True).sqrt() + 0.004)
        reach = max(1, min(grey.shape[2:]) // 16)
        local = whole - _box_mean(whole, reach)
        # The constant keeps flat regions flat; without it their noise would be amplified.
        local = local / (_box_mean(local.square(), reach).sqrt() + 0.15)
        local = local.clamp(-3, 3)
        return torch.cat([whole.clamp(-3, 3), local, 1.5 * local.abs() - 1], dim=1)


def _box_mean(maps: torch.Tensor, reach: int) -> torch.Tensor:
    """Mean over the square of side 2 reach + 1 around each pixel, clipped to the image."""
    side = 2 * reach + 1
    maps = F.avg_pool2d(maps, (side, 1), 1, (reach, 0), count_include_pad=False)
    return F.avg_pool2d(maps, (1, side), 1, (0, reach), count_include_pad=False)


def _channels(backbone: nn.Module) -> list[int]:
    """Channels of each level of a timm backbone of features."""
    return cast(Any, backbone).feature_info.channels()


class CopyNet(nn.Module):
    """The trainable model: `ToneFree`, a timm backbone, pooling of its last levels, a linear layer.

    GeM pooling of each of the last `levels` levels, because texture and small parts identify a copy as
    much as content does; and the means of `grid` x `grid` cells of the last level (0: none), because
    most copies keep the layout. Each of these blocks is scaled to unit norm. Input (n,3,h,w) normalised
    float32; output (n,dim) float32 of unit norm.
    """

    def __init__(
        self,
        backbone: str,
        dim: int = 256,
        levels: int = 4,
        grid: int = 3,
        pretrained: bool = False,
    ):
        super().__init__()
        self.shape = {"backbone": backbone, "dim": dim, "levels": levels, "grid": grid}
        self.grid = grid
        self.front = ToneFree()
        self.backbone = timm.create_model(backbone, features_only=True, pretrained=pretrained)
        channels = _channels(self.backbone)[-levels:]
        self.pools = nn.ModuleList(GeM() for _ in channels)
        self.project = nn.Linear(sum(channels) + grid**2 * channels[-1], dim)

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """The input of the linear layer, (n,f) float32."""
        toneless = self.front(images).contiguous(memory_format=torch.channels_last)
        maps = self.backbone(toneless)[-len(self.pools) :]
        blocks = [pool(level) for pool, level in zip(self.pools, maps, strict=True)]
        if self.grid:
            blocks.append(F.adaptive_avg_pool2d(maps[-1].float(), self.grid).flatten(1))
        return torch.cat([F.normalize(block, dim=1) for block in blocks], dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.project(self.pooled(images)).float(), dim=1)


class EsViT(nn.Module):
    """Swin with a linear layer over the mean tokens of its last four blocks (Li et al. 2022, EsViT).

    The final norm is applied to blocks of the last stage only. The default sizes are those of Swin-B;
    dim 0: no linear layer. Input (n,3,224,224).
    """

    blocks = 4

    def __init__(
        self,
        dim: int = 256,
        width: int = 128,
        depths: tuple[int, ...] = (2, 2, 18, 2),
        heads: tuple[int, ...] = (4, 8, 16, 32),
        window: int = 14,
    ):
        super().__init__()
        self.swin = timm.models.SwinTransformer(
            img_size=224,
            num_classes=0,
            embed_dim=width,
            depths=depths,
            num_heads=heads,
            window_size=window,
            norm_layer=cast(type[nn.Module], partial(nn.LayerNorm, eps=1e-6)),
        )
        widths = [width * 2**stage for stage, depth in enumerate(depths) for _ in range(depth)]
        features = sum(widths[-self.blocks :])
        self.linear = nn.Linear(features, dim) if dim else nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.swin.patch_embed(images)
        pooled = []
        stages: list[Any] = list(self.swin.layers)
        for stage in stages:
            tokens = stage.downsample(tokens)
            for block in stage.blocks:
                tokens = block(tokens)
                normed = self.swin.norm(tokens) if stage is stages[-1] else tokens
                pooled.append(normed.mean(dim=(1, 2)))
        return self.linear(torch.cat(pooled[-self.blocks :], dim=1))


class IscNet(nn.Module):
    """The winner of the ISC2021 descriptor track (Yokoo 2021): EfficientNetV2-M, mean of the positive
    part of its last feature maps, linear layer, batch norm. Input (n,3,512,512)."""

    def __init__(self, backbone: str = "tf_efficientnetv2_m", dim: int = 256):
        super().__init__()
        self.backbone = timm.create_model(backbone, features_only=True)
        self.pool = GeM(1.0, trained=False)
        self.fc = nn.Linear(_channels(self.backbone)[-1], dim, bias=False)
        self.bn = nn.BatchNorm1d(dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.bn(self.fc(self.pool(self.backbone(images)[-1])))
