"""Heads of the reconstructors: from token maps to points, descriptors and features per pixel.

Points use DUSt3R's mapping, kept by Fast3R, Distill3R and MASt3R. Legend: N views, h x w patches, H x W pixels,
C channels, p side of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.layers.block import Mlp
from manyview.layers.dpt import DPT


def points_from_raw(raw: Tensor) -> Tensor:
    """(..., C) -> (..., C): the direction stays, the length n becomes exp(n) - 1."""
    length = raw.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
    return raw * (torch.expm1(length) / length)


def confidence_from_raw(raw: Tensor, floor: float = 1.0) -> Tensor:
    """floor + exp: always above the floor."""
    return floor + raw.exp()


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


class PointmapHead(nn.Module):
    """Token maps to points (N, H, W, 3) and confidences (N, H, W), always computed in float32.

    kind "linear" is one linear map per patch of the last tokens; the sizes of the DPT then mean nothing.
    """

    def __init__(
        self,
        token_dims: Sequence[int],
        *,
        patch: int,
        layer_dims: Sequence[int],
        dim: int,
        last_dim: int,
        spare_unit: bool = False,
        kind: Literal["dpt", "linear"] = "dpt",
    ) -> None:
        super().__init__()
        self.kind = kind
        if kind == "linear":
            self.linear = PatchMap(token_dims, patch=patch, channels=4)
        else:
            self.dpt = DPT(
                token_dims,
                patch=patch,
                layer_dims=layer_dims,
                dim=dim,
                last_dim=last_dim,
                channels=4,
                spare_unit=spare_unit,
            )

    @property
    def body(self) -> DPT | PatchMap:
        """What gives the raw output (N, 4, H, W)."""
        return self.linear if self.kind == "linear" else self.dpt

    def init_parameters(self) -> None:
        # A fresh head says: one unit straight ahead, confidence two; small weights keep it near that.
        last = _last(self.body)
        nn.init.trunc_normal_(last.weight, std=0.1 * last.weight.shape[1] ** -0.5)
        if last.bias is not None:
            ahead = torch.tensor([0.0, 0.0, math.log(2.0), 0.0])
            with torch.no_grad():
                last.bias.copy_(ahead.repeat_interleave(len(last.bias) // 4))

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Four (N, h*w, D) -> (N, H, W, 3), (N, H, W)."""
        raw = self.body(tokens, grid)
        with torch.autocast(raw.device.type, enabled=False):
            raw = raw.float().permute(0, 2, 3, 1)
            return points_from_raw(raw[..., :3]), confidence_from_raw(raw[..., 3])


class DenseHead(nn.Module):
    """A vector per pixel and, with a `floor`, its confidence: MASt3R's descriptors and SAB3R's features.

    `activation`: unit (length one) or exp (as points); `body` gives the channels, one more with a confidence.
    """

    def __init__(
        self,
        body: DPT | PatchMap,
        *,
        activation: Literal["unit", "exp"],
        floor: float | None = None,
    ) -> None:
        super().__init__()
        self.body, self.activation, self.floor = body, activation, floor

    def init_parameters(self) -> None:
        # The exponential grows fast: a fresh head stays near zero. Directions have no scale to tame.
        if self.activation == "exp":
            last = _last(self.body)
            nn.init.trunc_normal_(last.weight, std=0.1 * last.weight.shape[1] ** -0.5)

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Token maps -> (N, H, W, C) and (N, H, W) or None."""
        raw = self.body(tokens, grid)
        with torch.autocast(raw.device.type, enabled=False):
            raw, confidence = raw.float().permute(0, 2, 3, 1), None
            if self.floor is not None:
                raw, confidence = raw[..., :-1], confidence_from_raw(raw[..., -1], self.floor)
            values = points_from_raw(raw) if self.activation == "exp" else F.normalize(raw, dim=-1)
            return values, confidence


def _last(body: DPT | PatchMap) -> nn.Linear | nn.Conv2d:
    """The layer that a head's raw output comes from."""
    if isinstance(body, DPT):
        return body.predict
    return body.map.fc2 if isinstance(body.map, Mlp) else body.map
