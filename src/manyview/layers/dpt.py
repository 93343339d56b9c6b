"""Dense prediction transformer (DPT): tokens of four depths to a dense map, for any patch grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.conv2(F.relu(self.conv1(F.relu(maps))))


class Merge(nn.Module):
    """Add a finer map to a coarser one, refine, double the resolution. `skip=False` has no unit for the finer
    map.
    """

    def __init__(self, dim: int, *, skip: bool) -> None:
        super().__init__()
        self.skip = ResidualUnit(dim) if skip else None
        self.refine = ResidualUnit(dim)
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(self, coarse: Tensor | None, fine: Tensor) -> Tensor:
        """(N, C, h, w) twice -> (N, C, 2h, 2w); the first merge has only one map."""
        if coarse is not None and self.skip is not None:
            # An odd grid was rounded up when it was halved: cut the surplus row or column.
            fine = coarse[..., : fine.shape[-2], : fine.shape[-1]] + self.skip(fine)
        # The 1x1 convolution and the resampling commute; four times fewer pixels this way round.
        return F.interpolate(self.out(self.refine(fine)), scale_factor=2, mode="bilinear", align_corners=True)


class DPT(nn.Module):
    """Four token maps -> (N, channels, h*patch, w*patch).

    token_dims: channels of the four token lists; layer_dims: of the four pyramid levels (4x, 2x, 1x, 1/2x the
    grid); dim: of the merging; last_dim: of the full-resolution layers. `spare_unit` keeps the unit of the
    published layout that its forward pass never calls.
    """

    def __init__(
        self,
        token_dims: Sequence[int],
        *,
        patch: int,
        layer_dims: Sequence[int],
        dim: int,
        last_dim: int,
        channels: int,
        spare_unit: bool = False,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.project = nn.ModuleList(nn.Conv2d(d, c, 1) for d, c in zip(token_dims, layer_dims, strict=True))
        first, second, _, fourth = layer_dims
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, 3, stride=2, padding=1),
            ]
        )
        self.reduce = nn.ModuleList(nn.Conv2d(c, dim, 3, padding=1, bias=False) for c in layer_dims)
        self.merge = nn.ModuleList(Merge(dim, skip=level < 3 or spare_unit) for level in range(4))
        self.narrow = nn.Conv2d(dim, last_dim, 3, padding=1)
        self.smooth = nn.Conv2d(last_dim, last_dim, 3, padding=1)
        self.predict = nn.Conv2d(last_dim, channels, 1)

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Four (N, h*w, D), shallow to deep -> (N, channels, h*patch, w*patch)."""
        maps = [level.transpose(1, 2).unflatten(2, grid) for level in tokens]
        stages = zip(maps, self.project, self.resize, self.reduce, strict=True)
        levels = [reduce(resize(project(m))) for m, project, resize, reduce in stages]
        out = None
        for level, merge in reversed(list(zip(levels, self.merge, strict=True))):
            out = merge(out, level)
        size = (grid[0] * self.patch, grid[1] * self.patch)
        full = F.interpolate(self.narrow(out), size=size, mode="bilinear", align_corners=True)
        return self.predict(F.relu(self.smooth(full)))
