"""Crops, bicubic and antialiased by Pillow's rule: on a GPU all together, on a CPU block by block.

On a GPU one product with all source pixels is quick; on a CPU that is ten times the work, and each block of the result
is made of the source pixels that it needs. Both say the same.

Legend: N pictures, H x W pixels of the result, h x w of the source.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

BLOCK = 16
"""Pixels of the result whose source pixels are looked at together."""


def cropped_together(pictures: Tensor, sides: Tensor, first: Tensor, step: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w, 3) uint8, of which `sides` (N, 2) pixels count -> (N, 3, H, W) float.

    first, step (N, 2): row and column from which the crop goes how far, in source pixels; a negative way is mirrored.
    """
    rows, columns = (
        _bicubic(pictures.shape[1 + axis], size[axis], sides[:, axis], first[:, axis], step[:, axis])
        for axis in range(2)
    )
    squeezed = (rows @ pictures.flatten(2).float()).unflatten(2, pictures.shape[2:])  # (N, H, w, 3)
    images = squeezed.permute(0, 3, 1, 2).flatten(1, 2) @ columns.transpose(1, 2)  # (N, 3 * H, W)
    return images.div_(255).clamp_(0, 1).unflatten(1, (3, size[0]))


def _bicubic(length: int, count: int, sides: Tensor, first: Tensor, step: Tensor) -> Tensor:
    """(N, count, length) weights of source pixels, those past `sides` (N,) zero, at `count` centres from `first` on.

    `step` (N,) is the whole way in source pixels; a negative one walks backwards.
    """
    scale = step / count
    centres = first[:, None] + (torch.arange(count, device=sides.device) + 0.5) * scale[:, None]
    wide = scale.abs().clamp(min=1)[:, None, None]
    places = torch.arange(length, device=sides.device) + 0.5
    away = ((places - centres[..., None]) / wide).abs()
    near = (1.5 * away - 2.5) * away * away + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = torch.where(away < 1, near, torch.where(away < 2, far, 0.0))
    weights = weights * (places < sides[:, None, None])
    return weights / weights.sum(-1, keepdim=True)


def cropped_one(
    picture: Tensor, first: tuple[float, float], step: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """The same of one picture (h, w, 3), all of whose pixels count: (3, H, W)."""
    (starts, rows), (lefts, columns) = (
        _weights(picture.shape[axis], size[axis], first[axis], step[axis]) for axis in range(2)
    )
    # Columns that no pixel of the crop looks at are left alone.
    low, high = int(lefts.min()), int(lefts.max()) + columns.shape[-1]
    values = picture[int(starts.min()) : int(starts.max()) + rows.shape[-1], low:high].float()
    starts, lefts = starts - starts.min(), lefts - low
    width = values.shape[1]
    values = values.flatten(1)
    squeezed = torch.cat([block @ values[at : at + block.shape[1]] for at, block in zip(starts.tolist(), rows)])
    lines = squeezed[: size[0]].unflatten(1, (width, 3)).permute(2, 0, 1).reshape(3 * size[0], width)
    parts = [lines[:, at : at + block.shape[1]] @ block.T for at, block in zip(lefts.tolist(), columns)]
    return torch.cat(parts, 1)[:, : size[1]].div_(255).clamp_(0, 1).unflatten(0, (3, size[0]))


def _weights(length: int, count: int, first: float, step: float) -> tuple[np.ndarray, Tensor]:
    """Of every block of `count` pixels where its source pixels begin, and their weights (blocks, BLOCK, span)."""
    blocks = -(-count // BLOCK)
    scale = step / count
    wide = max(1.0, abs(scale))
    centres = first + (np.minimum(np.arange(blocks * BLOCK), count - 1) + 0.5) * scale
    centres = centres.reshape(blocks, BLOCK)
    span = min(length, math.ceil(float(np.ptp(centres, axis=1).max()) + 4 * wide) + 2)
    starts = np.clip(np.floor(centres.min(1) - 2 * wide).astype(np.int64), 0, length - span)
    places = starts[:, None] + np.arange(span) + 0.5
    away = np.abs((places[:, None] - centres[..., None]) / wide).astype(np.float32)
    near = (1.5 * away - 2.5) * away * away + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = np.where(away < 1, near, np.where(away < 2, far, 0))
    return starts, torch.from_numpy((weights / weights.sum(-1, keepdims=True)).astype(np.float32))
