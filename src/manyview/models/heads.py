"""Heads of the reconstructors: from token maps to points, depths, descriptors and features per pixel.

Legend: N views, h x w patches, H x W pixels, C channels, p side of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.layers.block import Mlp
from manyview.layers.dpt import DPT
from manyview.models.vit import WithEncoder

Activation = Literal["exp", "unit", "depth", "signed"]


def points_from_raw(raw: Tensor) -> Tensor:
    """(..., C) -> (..., C): the direction stays, the length n becomes exp(n) - 1 (DUSt3R's mapping)."""
    length = raw.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
    return raw * (torch.expm1(length) / length)


def confidence_from_raw(raw: Tensor, floor: float = 1.0) -> Tensor:
    """floor + exp: always above the floor."""
    return floor + raw.exp()


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "exp": points_from_raw,
    "unit": lambda raw: F.normalize(raw, dim=-1),
    "depth": lambda raw: raw[..., 0].exp(),
    "signed": lambda raw: raw.sign() * raw.abs().expm1(),
}


class PatchMap(nn.Module):
    """Each patch's tokens to its pixels: a linear map, or an MLP as wide as `hidden`, then pixels out of channels.

    It reads the last of the token lists, or with `first_too` the first and the last, side by side.
    """

    def __init__(
        self,
        token_dims: Sequence[int],
        *,
        patch: int,
        channels: int,
        hidden: int | None = None,
        first_too: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.first_too = patch, first_too
        dim = token_dims[-1] + (token_dims[0] if first_too else 0)
        out = channels * patch**2
        self.map = nn.Linear(dim, out) if hidden is None else Mlp(dim, hidden, out)

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Lists of (N, h*w, D) -> (N, C, h*p, w*p)."""
        last = torch.cat([tokens[0], tokens[-1]], -1) if self.first_too else tokens[-1]
        return F.pixel_shuffle(self.map(last).transpose(1, 2).unflatten(2, grid), self.patch)

    @property
    def last(self) -> nn.Linear:
        """The layer that the output comes from."""
        return self.map.fc2 if isinstance(self.map, Mlp) else self.map


class FeatureMap(nn.Module):
    """Tokens of all depths, side by side, to features on a grid `finer` times as fine as the patches.

    An MLP patch by patch, pixels of `inner` channels out of its channels, one linear map to the space they are in.
    """

    def __init__(self, token_dims: Sequence[int], *, channels: int, hidden: int, inner: int, finer: int) -> None:
        super().__init__()
        self.finer = finer
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in token_dims)
        self.map = Mlp(sum(token_dims), hidden, inner * finer**2)
        self.space = nn.Linear(inner, channels)

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Lists of (N, h*w, D) -> (N, finer h, finer w, C)."""
        return self.space(self.pixels(tokens, grid).permute(0, 2, 3, 1)).float()

    def pixels(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """The same before the linear map, (N, inner, finer h, finer w): enough where few pixels are looked at."""
        joined = torch.cat([norm(level) for norm, level in zip(self.norms, tokens, strict=True)], -1)
        return F.pixel_shuffle(self.map(joined).transpose(1, 2).unflatten(2, grid), self.finer)


class Head(nn.Module):
    """A value per pixel and, with a `floor`, its confidence, always computed in float32.

    activation: exp (DUSt3R's points, and features), unit (length one), and VGGT's depth (exp) and signed points
    (sign(x) (exp|x| - 1)). `body` gives the channels, one more with a confidence, and keeps its weights under `name`;
    `norm`: a LayerNorm of the tokens before it.
    """

    def __init__(
        self,
        body: DPT | PatchMap,
        name: str = "body",
        *,
        activation: Activation,
        floor: float | None = None,
        norm: nn.LayerNorm | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.floor, self.norm, self.name = activation, floor, norm, name
        self.add_module(name, body)

    @property
    def inner(self) -> DPT | PatchMap:
        """What gives the raw output (N, C, H, W)."""
        return cast(DPT | PatchMap, self._modules[self.name])

    def init_parameters(self) -> None:
        if self.activation == "unit":  # directions have no scale to tame
            return
        # Exponentials grow fast: small weights keep a fresh head near zero, and one with a confidence near this
        # answer: one unit straight ahead, confidence two.
        last = self.inner.last
        nn.init.trunc_normal_(last.weight, std=0.1 * last.weight.shape[1] ** -0.5)
        if self.floor is not None and self.activation != "depth" and last.bias is not None:
            ahead = torch.tensor([0.0, 0.0, math.log(2.0), 0.0])
            with torch.no_grad():
                last.bias.copy_(ahead.repeat_interleave(len(last.bias) // 4))

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Four (N, h*w, D) -> (N, H, W, C), or (N, H, W) of depths, and (N, H, W) or None."""
        raw = self.inner(tokens if self.norm is None else [self.norm(level) for level in tokens], grid)
        with torch.autocast(raw.device.type, enabled=False):
            raw, confidence = raw.float().permute(0, 2, 3, 1), None
            if self.floor is not None:
                raw, confidence = raw[..., :-1], confidence_from_raw(raw[..., -1], self.floor)
            return ACTIVATIONS[self.activation](raw), confidence


@dataclass(frozen=True, kw_only=True)
class WithHeads(WithEncoder):
    """The configuration of a network whose heads are DPTs."""

    head_layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    """Channels of the four pyramid levels of a head."""
    head_dim: int = 256
    """Channels of a head's merging layers."""
    head_last_dim: int = 128
    """Channels of a head's full-resolution layers."""
    head_spare_unit: bool = True
    """Keep the unit of the published heads that their forward pass never calls."""

    def dpt(self, token_dims: Sequence[int], channels: int, **options: Any) -> DPT:
        """The body of a head for tokens of these widths."""
        return DPT(
            token_dims,
            patch=self.patch_size,
            layer_dims=self.head_layer_dims,
            dim=self.head_dim,
            last_dim=self.head_last_dim,
            channels=channels,
            spare_unit=self.head_spare_unit,
            **options,
        )
