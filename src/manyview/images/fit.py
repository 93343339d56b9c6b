"""How an image gets the network's size: one scale and one crop, never a squash, and the affine map of both.

Pixel coordinates span [0, W] x [0, H]: the first pixel's centre is (0.5, 0.5) on both sides of the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from manyview.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


MOST_PIXELS = 178_956_970
"""Of a picture that is decoded whole, or made: 0.7 GB."""


@dataclass(frozen=True)
class Fit:
    """Scale by `scale`, then keep `size` pixels from `offset` on: target = scale * source - offset."""

    source: tuple[int, int]  # (H, W) of the stored image
    size: tuple[int, int]  # (H, W) of the target
    scale: float
    offset: tuple[float, float]  # (y, x) in target pixels, what the crop takes off at the top and the left

    @property
    def affine(self) -> Tensor:
        """(3, 3) float64: homogeneous source pixel -> target pixel."""
        import torch  # here, so that scanning files does not wait for it

        y, x = self.offset
        rows = [[self.scale, 0.0, -x], [0.0, self.scale, -y], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, dtype=torch.float64)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The part of the source that is kept: (left, top, right, bottom) in source pixels."""
        y, x = self.offset
        (source_h, source_w), (h, w) = self.source, self.size
        left, top = max(0.0, x / self.scale), max(0.0, y / self.scale)
        right, bottom = min((x + w) / self.scale, source_w), min((y + h) / self.scale, source_h)
        return left, top, float(right), float(bottom)


def cover(source_hw: tuple[int, int], target_hw: tuple[int, int]) -> Fit:
    """The smallest scale that fills the target, and a centred crop (training, caches)."""
    (source_h, source_w), (h, w) = source_hw, target_hw
    if min(h, w) < 1:
        raise UserError(f"target size {h}x{w} has no pixels; give HxW with both at least 1")
    scale = max(h / source_h, w / source_w)
    return _centred(source_hw, target_hw, scale)


def longest(source_hw: tuple[int, int], *, long_side: int, multiple: int) -> Fit:
    """Bring the long side to `long_side`, then crop both sides, centred, to multiples of `multiple`.

    At most multiple-1 pixels per axis go (panoramas longer than multiple-1 to 1 may lose a part of one more).
    Small images are enlarged. Raises UserError when a side would be shorter than `multiple`.
    """
    long, short = max(source_hw), min(source_hw)
    # Whole numbers: a float quotient just below a multiple would cost a whole row of patches.
    target_long = long_side // multiple * multiple
    target_short = short * long_side // (long * multiple) * multiple
    scale = long_side / long
    grown = (target_short + multiple) / short  # the next multiple may be less than a pixel away ...
    if scale < grown and target_short + multiple - short * scale < 1 and grown * long - target_long <= multiple - 1:
        target_short, scale = target_short + multiple, grown  # ... then enlarging a little loses less
    if target_short < multiple or target_long < multiple:
        height, width = source_hw
        raise UserError(
            f"a {width}x{height} image at long side {long_side} has a side under {multiple} pixels; "
            "crop it to a less narrow shape or choose a larger size"
        )
    target = (target_long, target_short) if source_hw[0] >= source_hw[1] else (target_short, target_long)
    return _centred(source_hw, target, scale)


def same_pixels(target_hw: tuple[int, int], source_hw: tuple[int, int], *, multiple: int = 14) -> tuple[int, int]:
    """(H, W) with about as many pixels as the target in the source's aspect, in steps of `multiple`, at least one."""
    down = (target_hw[0] * target_hw[1] * source_hw[0] / source_hw[1]) ** 0.5
    height, width = (max(1, round(side / multiple)) * multiple for side in (down, down * source_hw[1] / source_hw[0]))
    return height, width


def _centred(source_hw: tuple[int, int], target_hw: tuple[int, int], scale: float) -> Fit:
    (source_h, source_w), (h, w) = source_hw, target_hw
    if h * w > MOST_PIXELS:
        raise UserError(f"{w}x{h} is too many pixels ({MOST_PIXELS // 10**6} million at most); choose a smaller size")
    offset = max(0.0, (source_h * scale - h) / 2), max(0.0, (source_w * scale - w) / 2)
    return Fit((source_h, source_w), (h, w), scale, offset)


def nearest_indices(fit: Fit, map_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (H,) and columns (W,) of a map (any size, same picture) under the target's pixel centres."""
    indices = []
    for axis in range(2):
        centres = (np.arange(fit.size[axis]) + 0.5 + fit.offset[axis]) / fit.scale
        # A centre on the edge of two pixels belongs to the later one, whatever the last bit says.
        positions = np.floor(centres * (map_hw[axis] / fit.source[axis]) + 1e-6).astype(np.int64)
        indices.append(positions.clip(0, map_hw[axis] - 1))
    return indices[0], indices[1]


def same_picture(map_hw: tuple[int, ...], image_hw: tuple[int, int]) -> bool:
    """Whether a map can show the same picture as an image: the same aspect, up to one pixel of rounding."""
    scale = map_hw[1] / image_hw[1]
    return abs(image_hw[0] * scale - map_hw[0]) <= max(1.0, scale)
