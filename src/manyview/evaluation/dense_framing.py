"""How pictures of any shape become crops of one size: the middle, the whole one squashed, or window by window.

Windows are how the field looks at pictures larger than a crop (mmsegmentation's `slide`): the shorter side is brought
to the crop, windows overlap by a third, the last one ends at the border.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from manyview.errors import UserError
from manyview.images.fit import Fit, cover
from manyview.images.reading import ImageProblem, read_fitted, read_image, resample_nearest
from manyview.models.vit import IMAGENET_MEAN

How = Literal["whole", "squash", "slide"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Framing:
    """Crops of `size` (H, W), and what they show of a picture."""

    size: Size
    how: How = "whole"
    stride: int = 0
    """Pixels from window to window; 0 for two thirds of the crop."""
    patch: int = 1
    """An encoder sees crops padded all around to multiples of this (DINOv2: 512 pixels become 518)."""

    def __post_init__(self) -> None:
        if not 0 <= self.stride <= min(self.size):
            raise UserError(
                f"stride={self.stride} leaves pixels out; give 1 to {min(self.size)}, or 0 for two thirds of the crop"
            )

    @property
    def padded(self) -> Size:
        """(H, W) that an encoder sees."""
        height, width = (-(-side // self.patch) * self.patch for side in self.size)
        return height, width

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the crop in what an encoder sees."""
        top, left = ((seen - side) // 2 for seen, side in zip(self.padded, self.size, strict=True))
        return slice(top, top + self.size[0]), slice(left, left + self.size[1])

    def pad(self, images: Tensor) -> Tensor:
        """Crops (n, 3, H, W) in [0, 1] as an encoder sees them, on a ground of ImageNet's mean."""
        ground = torch.tensor(IMAGENET_MEAN, device=images.device)[:, None, None]
        seen = ground.repeat(len(images), 1, *self.padded)
        seen[:, :, *self.inside] = images
        return seen

    def full(self, source: Size) -> Size:
        """(h, w) of the scaled picture that crops are cut from."""
        return self._fit(source).size if self.how == "slide" else self.size

    def corners(self, source: Size) -> list[tuple[int, int]]:
        """(top, left) of the crops in the scaled picture; together they cover it."""
        tops, lefts = (
            [*range(0, side - crop, self.stride or max(1, crop * 2 // 3)), side - crop]
            for side, crop in zip(self.full(source), self.size, strict=True)
        )
        return [(top, left) for top in tops for left in lefts]

    def picture(self, path: Path, source: Size) -> np.ndarray:
        """The scaled picture, uint8 (h, w, 3). Raises ImageProblem, also for another size than `source`."""
        if self.how == "squash":
            image = read_image(path)
            height, width = image.shape[:2]
        else:
            image, fit = read_fitted(path, self._fit)
            height, width = fit.source
        if (height, width) != source:
            raise ImageProblem(path, f"is {width}x{height}, the manifest says {source[1]}x{source[0]}; scan it again")
        if self.how == "squash":
            return np.array(Image.fromarray(image).resize(self.size[::-1], Image.Resampling.BICUBIC))
        return image

    def map(self, values: np.ndarray, source: Size) -> np.ndarray:
        """A map of the picture at the scaled picture's pixels (h, w), nearest neighbour."""
        if self.how != "squash":
            return np.asarray(resample_nearest(values, self._fit(source)))
        rows, columns = (
            ((np.arange(side) + 0.5) * (have / side)).astype(np.int64)
            for side, have in zip(self.size, values.shape, strict=True)
        )
        return values[rows[:, None], columns[None]]

    def _fit(self, source: Size) -> Fit:
        if self.how == "whole":
            return cover(source, self.size)
        scale = max(crop / side for crop, side in zip(self.size, source, strict=True))
        height, width = (max(crop, round(side * scale)) for crop, side in zip(self.size, source, strict=True))
        return Fit(source, (height, width), scale, (0.0, 0.0))
