"""Rigid transforms as 4x4 matrices whose names read like fractions that cancel.

`cam2world` maps camera coordinates to world coordinates; `world2cam = invert(cam2world)`. OpenCV camera axes:
x right, y down, z forward. Every function takes any leading batch dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pose(rotation: Tensor, translation: Tensor) -> Tensor:
    """Join (..., 3, 3) and (..., 3) into (..., 4, 4)."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 0, 3] = 1
    return torch.cat([top, bottom], dim=-2)


def invert(transform: Tensor) -> Tensor:
    """Inverse of rigid transforms (..., 4, 4), by transposition."""
    rotation = transform[..., :3, :3].transpose(-1, -2)
    return pose(rotation, -(rotation @ transform[..., :3, 3:])[..., 0])


def apply(transform: Tensor, points: Tensor) -> Tensor:
    """Move points (..., N, 3) by transforms (..., 4, 4): b_points = apply(b_from_a, a_points)."""
    return points @ transform[..., :3, :3].transpose(-1, -2) + transform[..., None, :3, 3]


def rotation_angle(rotation: Tensor) -> Tensor:
    """Angle in radians of rotations (..., 3, 3), exact near 0 and near pi: (...,)."""
    skew = rotation - rotation.transpose(-1, -2)
    sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1).norm(dim=-1)
    cosine = rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1
    return torch.atan2(sine, cosine)


def quaternion_from_matrix(rotation: Tensor) -> Tensor:
    """Unit quaternions wxyz with w >= 0 of rotations (..., 3, 3): (..., 4)."""
    m00, m11, m22 = rotation.diagonal(dim1=-2, dim2=-1).unbind(-1)
    m01, m02, m12 = rotation[..., 0, 1], rotation[..., 0, 2], rotation[..., 1, 2]
    m10, m20, m21 = rotation[..., 1, 0], rotation[..., 2, 0], rotation[..., 2, 1]
    # Four ways to write the same quaternion (times 4|q_i|); the one with the largest pivot is stable.
    rows = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m01 + m10, m02 + m20], -1),
            torch.stack([m02 - m20, m01 + m10, 1 - m00 + m11 - m22, m12 + m21], -1),
            torch.stack([m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22], -1),
        ],
        -2,
    )
    pivot = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quaternion = torch.take_along_dim(rows, pivot[..., None, None], dim=-2)[..., 0, :]
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def matrix_from_quaternion(quaternion: Tensor) -> Tensor:
    """Rotations (..., 3, 3) of quaternions wxyz (..., 4), normalised first."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def look_at(eye: Tensor, target: Tensor, up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Tensor:
    """cam2world (..., 4, 4) of a camera at `eye` (..., 3) looking at `target`, the image's top to `up`."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    upward = torch.tensor(up, dtype=eye.dtype, device=eye.device).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, upward), dim=-1)
    down = torch.linalg.cross(forward, right)
    return pose(torch.stack([right, down, forward], -1), eye)


def opengl_from_opencv(cam2world: Tensor) -> Tensor:
    """The same cameras with OpenGL/Blender axes (x right, y up, z backward)."""
    flip = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=cam2world.dtype, device=cam2world.device)
    return cam2world * flip
