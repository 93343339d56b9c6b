"""Between a picture as it is stored and what a model sees of it: read for the model, and its maps put back.

Legend: H x W pixels of the stored picture, h x w of the model's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.images.fit import Fit, cover, longest
from manyview.images.reading import read_fitted


def fit_for(model: Any, size: tuple[int, int]) -> Fit:
    """How a model's view of a picture of `size` (H, W) lies in it: its own long side, whole patches, no squashing."""
    wanted, patch = model.config.image_size, int(model.config.patch_size)
    if not isinstance(wanted, int):
        return cover(size, (int(wanted[0]), int(wanted[1])))
    return longest(size, long_side=wanted, multiple=patch)


def read_for(model: Any, path: Path) -> tuple[Tensor, Fit]:
    """A picture (3, h, w) in [0, 1] as the model sees it, and how that lies in the file's. Raises ImageProblem."""
    image, fit = read_fitted(path, lambda size: fit_for(model, size))
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255, fit


def at_source(
    values: Tensor, fit: Fit, *, mode: Literal["bilinear", "nearest"] = "bilinear"
) -> tuple[np.ndarray, np.ndarray]:
    """A model's map (h, w) or (h, w, C) at the stored picture's pixels, and which of these it saw (H, W).

    The map may be coarser than the model's picture; it covers the same view. Pixels outside get the nearest value.
    """
    (height, width), (rows, columns) = fit.source, fit.size
    affine = np.asarray(fit.affine, np.float64)
    u = affine[0, 0] * (np.arange(width) + 0.5) + affine[0, 2]
    v = affine[1, 1] * (np.arange(height) + 0.5) + affine[1, 2]
    seen = ((v > 0) & (v < rows))[:, None] & ((u > 0) & (u < columns))[None]
    where = torch.from_numpy(
        np.stack(np.broadcast_arrays((2 * u / columns - 1)[None], (2 * v / rows - 1)[:, None]), -1)
    )
    maps = values[None, None] if values.ndim == 2 else values.permute(2, 0, 1)[None]
    sampled = F.grid_sample(maps.double(), where[None], mode=mode, padding_mode="border", align_corners=False)[0]
    return (sampled[0] if values.ndim == 2 else sampled.permute(1, 2, 0)).numpy(), seen
