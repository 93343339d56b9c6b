"""FeatUp's joint bilateral upsampler (Fu et al. 2024): coarse features to 16 times their size, led by the image.

Four stages double the size. Each weighs the neighbours of a pixel by how alike the image is there (range) and how
near they lie (space), then lets a small network correct the weights. Plain PyTorch, no compiled operator.

Legend: N images, C feature channels, h x w grid, H x W pixels, K key channels, S = (2 radius + 1)^2 neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.init import init_weights
from manyview.models.model import Model, UpsamplesFeatures
from manyview.models.vit import IMAGENET_MEAN, IMAGENET_STD

STAGES = 4
# How much the learned corrections of the weights, and of the upsampled features, count.
CORRECTION = 0.1


@dataclass(frozen=True, kw_only=True)
class FeatupConfig:
    """The published stack for MaskCLIP's features."""

    dim: int = 512
    """Channels of the features."""
    channel_norm: bool = False
    """A LayerNorm over the channels before the first stage (the stack published for DINOv2)."""
    key_dim: int = 32
    """Channels that pixels are compared in."""
    radius: int = 3
    """Neighbours on each side of a pixel."""
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean per channel that [0, 1] images are normalised with."""
    image_std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation per channel, likewise."""


def debug(config: FeatupConfig) -> FeatupConfig:
    """The same layout with a few thousand parameters, for tests."""
    return replace(config, dim=8, key_dim=4)


class Upsampler(Model, UpsamplesFeatures):
    """features (N, C, h, w), images (N, 3, H, W) -> (N, C, 16h, 16w).

    Images are in [0, 1] and of any size: each stage pools them to its own.
    """

    architecture = "featup"
    config: FeatupConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: FeatupConfig) -> None:
        super().__init__()
        self.config = config
        self.norm: nn.Module = nn.LayerNorm(config.dim) if config.channel_norm else nn.Identity()
        self.stages = nn.ModuleList(Stage(config.key_dim, config.radius) for _ in range(STAGES))
        self.correct = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(config.dim, config.dim, 1))
        self.register_buffer("mean", torch.empty(3), persistent=False)
        self.register_buffer("std", torch.empty(3), persistent=False)
        init_weights(self)

    def init_buffers(self) -> None:
        for buffer, values in ((self.mean, self.config.image_mean), (self.std, self.config.image_std)):
            buffer.copy_(torch.tensor(values))

    def forward(self, features: Tensor, images: Tensor) -> Tensor:
        """Raises UserError when the two do not belong together or the grid is too small to be upsampled."""
        self._check(features, images)
        guidance = (images - self.mean[:, None, None]) / self.std[:, None, None]
        features = self.normalise(features)
        for stage in self.stages:
            features = stage(features, guidance)
        return features + CORRECTION * self.correct(features)

    def normalise(self, features: Tensor) -> Tensor:
        """The channel norm on (N, C, h, w), where there is one."""
        return self.norm(features.movedim(1, -1)).movedim(-1, 1)

    def _check(self, features: Tensor, images: Tensor) -> None:
        shapes = f"features {tuple(features.shape)}, images {tuple(images.shape)}"
        if features.ndim != 4 or images.ndim != 4 or len(features) != len(images) or images.shape[1] != 3:
            raise UserError(f"{shapes}; the upsampler takes (N, C, h, w) and (N, 3, H, W) with the same N")
        if features.shape[1] != self.config.dim:
            raise UserError(
                f"{shapes}; this upsampler was made for {self.config.dim} channels, take the features of its model"
            )
        least = self.config.radius // 2 + 1  # doubled, more than the radius: as much as reflection can mirror
        if min(features.shape[2:]) < least:
            raise UserError(f"{shapes}; the grid needs at least {least} a side, take a larger image")


class Stage(nn.Module):
    """One doubling: (N, C, h, w) -> (N, C, 2h, 2w)."""

    def __init__(self, key_dim: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        neighbours = (2 * radius + 1) ** 2
        self.range_temp = nn.Parameter(torch.empty(()))
        self.sigma_spatial = nn.Parameter(torch.empty(()))
        self.range_proj = _pointwise(3, key_dim)
        self.fixup_proj = _pointwise(neighbours + 3, neighbours)

    def init_parameters(self) -> None:
        nn.init.zeros_(self.range_temp)
        nn.init.ones_(self.sigma_spatial)

    def forward(self, features: Tensor, guidance: Tensor) -> Tensor:
        height, width = (2 * side for side in features.shape[2:])
        guidance = F.adaptive_avg_pool2d(guidance, (height, width))
        source = F.interpolate(features, size=(height, width), mode="bicubic", align_corners=False)
        return weigh(source, self.kernel(guidance), self.radius)

    def kernel(self, guidance: Tensor) -> Tensor:
        """The weights of every pixel's neighbours, row-major: (N, 3, H, W) -> (N, S, H, W).

        The correction comes after the normalisation: a pixel's weights need not sum to one.
        """
        kernel = self.range_kernel(guidance) * self.spatial_kernel()[:, None, None]
        kernel = kernel / kernel.sum(1, keepdim=True).clamp(min=1e-7)
        return kernel + CORRECTION * self.fixup_proj(torch.cat([kernel, guidance], dim=1))

    def range_kernel(self, guidance: Tensor) -> Tensor:
        """How alike neighbours look, as a softmax over them: (N, 3, H, W) -> (N, S, H, W)."""
        keys = self.range_proj(guidance)
        alike = torch.stack([(keys * near).sum(1) for near in neighbours(keys, self.radius)], dim=1)
        return (self.range_temp.exp().clamp(1e-4, 1e4) * alike).softmax(dim=1)

    def spatial_kernel(self) -> Tensor:
        """A Gaussian over the window, whose border is at distance one: (S,)."""
        axis = torch.linspace(-1, 1, 2 * self.radius + 1).to(self.sigma_spatial)
        squared = axis[:, None] ** 2 + axis[None, :] ** 2
        return (-squared / (2 * self.sigma_spatial**2)).exp().flatten()


def _pointwise(channels: int, out: int) -> nn.Sequential:
    """Two linear maps per pixel."""
    return nn.Sequential(nn.Conv2d(channels, out, 1), nn.GELU(), nn.Dropout2d(0.1), nn.Conv2d(out, out, 1))


def neighbours(maps: Tensor, radius: int) -> Iterator[Tensor]:
    """The map (N, C, H, W) as seen from each place of the window, row-major, mirrored at the border."""
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (radius,) * 4, mode="reflect")
    for i in range(2 * radius + 1):
        for j in range(2 * radius + 1):
            yield padded[..., i : i + height, j : j + width]


def weigh(source: Tensor, kernel: Tensor, radius: int) -> Tensor:
    """Sum of the neighbours times a pixel's own weights: (N, C, H, W), (N, S, H, W) -> (N, C, H, W).

    One neighbour after the other, so that memory does not grow with S as it would by unfolding.
    """
    out = torch.zeros_like(source)
    for index, near in enumerate(neighbours(source, radius)):
        out.addcmul_(near, kernel[:, index : index + 1])
    return out
