"""Training pictures of a dense probe seen anew at every step: random crops, small turns, flips and light.

As MuM prints for depth (its Table 7: cropping, rotation, flipping), with the numbers of the toolbox that DINOv2's
protocol names (Monocular-Depth-Estimation-Toolbox: NYU is cropped to 416x544 of 480x640, KITTI to 352x704 of 375x1242).
A crop is not resized, so that depth stays what it is; the frozen encoder runs at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.config import Share
from manyview.errors import UserError
from manyview.evaluation.dense_fit import Examples


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What changes a training picture."""

    crop: tuple[Share, Share] = (416 / 480, 544 / 640)
    """Height and width of a crop, as shares of the picture's; KITTI: (352 / 375, 704 / 1242)."""
    degrees: float = 2.5
    """Largest turn, of half of the pictures."""
    flip: float = 0.5
    """Share of the pictures that are mirrored."""
    light: float = 0.5
    """Share of the pictures whose gamma (0.9 to 1.1), brightness (0.75 to 1.25) and colours (0.9 to 1.1) change."""


@dataclass(frozen=True)
class SeenAnew(Examples):
    """Examples whose tokens are made when they are taken."""

    encode: Callable[[Tensor], Tensor] = field(default=lambda images: images)
    """Pictures (n, 3, H, W) -> tokens (n, P, D)."""
    changes: Changes = field(default_factory=Changes)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def cropped(self) -> tuple[int, int]:
        """(H, W) of a crop, in whole patches. Raises UserError for less than one."""
        sides = [
            int(side * share) // self.patch * self.patch
            for side, share in zip(self.part.framing.padded, self.changes.crop, strict=True)
        ]
        if min(sides) < self.patch:
            raise UserError(f"crop={self.changes.crop} leaves less than a patch of {self.patch} pixels; give more")
        return sides[0], sides[1]

    @property
    def grid(self) -> tuple[int, int]:
        height, width = self.cropped
        return height // self.patch, width // self.patch

    def take(self, crops: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        pixels, _ = self.part.read(crops)
        images = self.part.framing.pad(pixels.permute(0, 3, 1, 2).float().to(device) / 255)
        maps = self.stored(crops).to(device)
        nothing = 0 if self.part.kind == "depth" else -1
        changed = [self._changed(image, values, nothing) for image, values in zip(images, maps, strict=True)]
        seen, kept = (torch.stack(parts) for parts in zip(*changed, strict=True))
        with torch.inference_mode():
            tokens = self.encode(seen)
        return tokens.clone(), kept

    def _changed(self, image: Tensor, values: Tensor, nothing: int) -> tuple[Tensor, Tensor]:
        """One picture (3, H, W) and its map (H, W), moved alike."""
        rng, of = self.rng, self.changes
        if rng.random() < of.light:
            gamma, gain, colour = rng.uniform(0.9, 1.1), rng.uniform(0.75, 1.25), rng.uniform(0.9, 1.1, (3, 1, 1))
            tint = torch.from_numpy(colour * gain).to(image)
            image = (image.pow(gamma) * tint).clamp(0, 1)
        if of.degrees and rng.random() < 0.5:
            image, values = turned(image, values, float(np.radians(rng.uniform(-of.degrees, of.degrees))), nothing)
        if rng.random() < of.flip:
            image, values = image.flip(-1), values.flip(-1)
        height, width = self.cropped
        top, left = (
            int(rng.integers(0, have - want + 1)) for have, want in zip(values.shape, (height, width), strict=True)
        )
        part = (slice(top, top + height), slice(left, left + width))
        return image[:, *part], values[*part]


def turned(image: Tensor, values: Tensor, angle: float, nothing: int) -> tuple[Tensor, Tensor]:
    """A picture (3, H, W) and its map (H, W) turned about the middle by radians; what comes in holds nothing."""
    height, width = values.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=image.device) + 0.5 - height / 2,
        torch.arange(width, device=image.device) + 0.5 - width / 2,
        indexing="ij",
    )
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    where = torch.stack([(cosine * x - sine * y) / width * 2, (sine * x + cosine * y) / height * 2], -1)[None].to(image)
    picture = F.grid_sample(image[None], where, mode="bilinear", padding_mode="border", align_corners=False)[0]
    moved = F.grid_sample(values[None, None].double(), where.double(), mode="nearest", align_corners=False)[0, 0]
    outside = (where[0].abs() > 1).any(-1)
    return picture, torch.where(outside, nothing, moved).to(values.dtype)
