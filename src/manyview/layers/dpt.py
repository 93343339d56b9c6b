"""Dense prediction transformer (DPT): tokens of four depths to a dense map, for any patch grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from manyview.layers.positions import plane_table

# Weight of the positions that VGGT adds to its maps.
POSITION_GAIN = 0.1


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))); `rectified`: relu(x) + ..., which is what VGGT's weights were trained with."""

    def __init__(self, dim: int, *, rectified: bool = False) -> None:
        super().__init__()
        self.rectified = rectified
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        start = F.relu(maps)
        return (start if self.rectified else maps) + self.conv2(F.relu(self.conv1(start)))


class Merge(nn.Module):
    """Add a finer map to a coarser one, refine, double the resolution. `skip=False` has no unit for the finer
    map; `rectified` as in ResidualUnit.
    """

    def __init__(self, dim: int, *, skip: bool, rectified: bool = False) -> None:
        super().__init__()
        self.skip = ResidualUnit(dim, rectified=rectified) if skip else None
        self.refine = ResidualUnit(dim, rectified=rectified)
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(self, coarse: Tensor | None, fine: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(N, C, h, w) twice -> (N, C, 2h, 2w), or of `size`; the first merge has only one map."""
        if coarse is not None and self.skip is not None:
            # An odd grid was rounded up when it was halved: cut the surplus row or column.
            fine = coarse[..., : fine.shape[-2], : fine.shape[-1]] + self.skip(fine)
        size = size or (2 * fine.shape[-2], 2 * fine.shape[-1])
        # The 1x1 convolution and the resampling commute; four times fewer pixels this way round.
        return F.interpolate(self.out(self.refine(fine)), size=size, mode="bilinear", align_corners=True)


class DPT(nn.Module):
    """Four token maps -> (N, channels, h*patch, w*patch).

    token_dims: channels of the four token lists; layer_dims: of the four pyramid levels (4x, 2x, 1x, 1/2x the
    grid); dim: of the merging; last_dim: of the last convolutions. `spare_unit` keeps the unit of the published
    layout that its forward pass never calls.
    convention: DUSt3R's, or VGGT's, which adds sine positions, resamples a coarse map to the size of the finer one
    where DUSt3R cuts, rectifies its shortcuts, and narrows in two steps, first to dim / 2.
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
        convention: Literal["dust3r", "vggt"] = "dust3r",
    ) -> None:
        super().__init__()
        self.patch, self.vggt = patch, convention == "vggt"
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
        self.merge = nn.ModuleList(Merge(dim, skip=level < 3 or spare_unit, rectified=self.vggt) for level in range(4))
        narrow = dim // 2 if self.vggt else last_dim
        self.narrow = nn.Conv2d(dim, narrow, 3, padding=1)
        self.smooth = nn.Conv2d(narrow, last_dim, 3, padding=1)
        self.predict = nn.Conv2d(last_dim, channels, 1)

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Four (N, h*w, D), shallow to deep -> (N, channels, h*patch, w*patch)."""
        maps = [level.transpose(1, 2).unflatten(2, grid) for level in tokens]
        stages = zip(maps, self.project, self.resize, self.reduce, strict=True)
        levels = [reduce(resize(self._placed(project(m), grid))) for m, project, resize, reduce in stages]
        out = None
        for index in (3, 2, 1, 0):
            size = levels[index - 1].shape[-2:] if self.vggt and index else None
            out = self.merge[index](out, levels[index], size)
        size = (grid[0] * self.patch, grid[1] * self.patch)
        full = F.interpolate(self.narrow(out), size=size, mode="bilinear", align_corners=True)
        return self.predict(F.relu(self.smooth(self._placed(full, grid))))

    @property
    def last(self) -> nn.Conv2d:
        """The layer that the output comes from."""
        return self.predict

    def _placed(self, maps: Tensor, grid: tuple[int, int]) -> Tensor:
        """VGGT's maps know where they are: (N, C, h, w) plus sine positions in the image's proportions."""
        if not self.vggt:
            return maps
        size = (maps.shape[-2], maps.shape[-1])
        table = plane_table(size, maps.shape[1], aspect=grid[1] / grid[0], device=maps.device)
        return maps + POSITION_GAIN * table.to(maps.dtype)
