"""The pointmap head: DPT, then a point and a confidence per pixel (DUSt3R's mapping, kept by Fast3R and
Distill3R).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manyview.layers.dpt import DPT


def points_from_raw(raw: Tensor) -> Tensor:
    """(..., 3) -> (..., 3): the direction stays, the length n becomes exp(n) - 1."""
    length = raw.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
    return raw * (torch.expm1(length) / length)


def confidence_from_raw(raw: Tensor) -> Tensor:
    """1 + exp: always above one."""
    return 1 + raw.exp()


class PointmapHead(nn.Module):
    """Four token maps to points (N, H, W, 3) and confidences (N, H, W), always computed in float32."""

    def __init__(
        self,
        token_dims: Sequence[int],
        *,
        patch: int,
        layer_dims: Sequence[int],
        dim: int,
        last_dim: int,
        spare_unit: bool = False,
    ) -> None:
        super().__init__()
        self.dpt = DPT(
            token_dims,
            patch=patch,
            layer_dims=layer_dims,
            dim=dim,
            last_dim=last_dim,
            channels=4,
            spare_unit=spare_unit,
        )

    def init_parameters(self) -> None:
        # A fresh head says: one unit straight ahead, confidence two; small weights keep it near that.
        nn.init.trunc_normal_(self.dpt.predict.weight, std=0.1 * self.dpt.predict.in_channels**-0.5)
        bias = self.dpt.predict.bias
        if bias is not None:
            with torch.no_grad():
                bias.copy_(torch.tensor([0.0, 0.0, math.log(2.0), 0.0]))

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Four (N, h*w, D) -> (N, H, W, 3), (N, H, W)."""
        raw = self.dpt(tokens, grid)
        with torch.autocast(raw.device.type, enabled=False):
            raw = raw.float().permute(0, 2, 3, 1)
            return points_from_raw(raw[..., :3]), confidence_from_raw(raw[..., 3])
