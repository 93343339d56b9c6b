"""Random rigid transforms for the geometry tests."""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.geometry import poses


def random_pose(*batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """(..., 4, 4) with rotations uniform over all orientations."""
    generator = torch.Generator().manual_seed(seed)
    quaternion = torch.randn(*batch, 4, generator=generator, dtype=torch.float64)
    translation = 3 * torch.randn(*batch, 3, generator=generator, dtype=torch.float64)
    return poses.pose(poses.matrix_from_quaternion(quaternion), translation).to(dtype)


def random_points(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """(..., 3)."""
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
