"""The surface under every pixel: its normal, its texture coordinates and its colour without light."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.data.synthetic import textures
from manyview.data.synthetic.raycast import BOX, CONE


@dataclass
class Surface:
    """What N pixels see: world points, shading frame, and the spot's texture coordinates; vectors are (3, N)."""

    points: Tensor
    normal: Tensor  # unit, world, towards the camera
    s: Tensor
    t: Tensor
    half_s: Tensor
    half_t: Tensor
    object: Tensor  # object coordinates


def surface(rows: Tensor, points: Tensor, view: Tensor) -> Surface:
    """Where N world points (3, N) lie on their primitives, given their columns of the appearance table."""
    transform = rows[:12].view(3, 4, -1)
    local = torch.stack([_affine(transform[k], points) for k in range(3)])
    half, kind = rows[12:15], rows[17]
    size = local.abs()
    along_x = (size[0] >= size[1]) & (size[0] >= size[2])
    along_y = ~along_x & (size[1] >= size[2])
    face = torch.where(along_x, 0, torch.where(along_y, 1, 2))
    metric = local * half
    sign = torch.where(local.gather(0, face[None])[0] < 0, -1.0, 1.0)
    normal = torch.stack([transform[:, axis].gather(0, face[None])[0] for axis in range(3)]) * sign
    s, half_s = torch.where(along_x, metric[1], metric[0]), torch.where(along_x, half[1], half[0])
    upright = along_x | along_y
    t, half_t = torch.where(upright, metric[2], metric[1]), torch.where(upright, half[2], half[1])
    curved = (kind != BOX).nonzero()[:, 0]
    if len(curved):
        patch = [tensor.index_select(-1, curved) for tensor in (transform, local, half, rows[15:17])]
        bent, values = _curved(*patch, kind[curved] == CONE)
        normal.index_copy_(1, curved, bent)
        for target, value in zip((s, t, half_s, half_t), values):
            target.index_copy_(0, curved, value)
    normal = normal * (normal.square().sum(0).clamp(min=1e-20)).rsqrt()
    towards = (normal * view).sum(0) > 0
    return Surface(points, torch.where(towards, -normal, normal), s, t, half_s, half_t, local)


def _affine(row: Tensor, points: Tensor) -> Tensor:
    return torch.addcmul(torch.addcmul(torch.addcmul(row[3], row[0], points[0]), row[1], points[1]), row[2], points[2])


def _curved(
    transform: Tensor, local: Tensor, half: Tensor, radii: Tensor, cone: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Normals (3, N) in the world, not of unit length, and s, t and their extents on balls and cones."""
    x, y, z = local
    slope = (radii[1] - radii[0]) / 2
    radius = (radii[1] + radii[0]) / 2 + slope * z
    flat = torch.hypot(x, y)
    # A point of a cone's cap is on its side only at the rim: compare how far it is from either.
    cap = cone & ((z.abs() - 1).abs() < (flat - radius).abs())
    nz = torch.where(cap, torch.where(z < 0, -1.0, 1.0), torch.where(cone, -slope * radius, z))
    nx, ny = torch.where(cap, 0.0, x), torch.where(cap, 0.0, y)
    normal = transform[0, :3] * nx + transform[1, :3] * ny + transform[2, :3] * nz
    angle = torch.atan2(y, x)
    s = torch.where(cap, x, angle) * half[0]
    half_s = torch.where(cap, 1.0, torch.pi) * half[0]
    t, half_t = torch.where(cap, y * half[1], z * half[2]), torch.where(cap, half[1], half[2])
    return normal, (s, t, half_s, half_t)


def albedo(rows: Tensor, surface: Surface, blur: Tensor) -> Tensor:
    """Linear RGB (3, N) of the surfaces."""
    result = rows[18:21].clone()
    texture = rows[24].to(torch.uint8)
    present = torch.bincount(texture.flatten().long(), minlength=len(textures.TEXTURES)).nonzero()[:, 0].tolist()
    for number in present:
        if number == 0:
            continue
        index = (texture == number).nonzero()[:, 0]
        part = rows.index_select(1, index)
        metric = surface.object.index_select(1, index) * part[12:15]
        grain = part[29]
        along = torch.where(grain == 0, metric[0], torch.where(grain == 1, metric[1], metric[2]))
        across = torch.where(grain == 0, metric[1], metric[0]) + torch.where(grain == 2, metric[1], metric[2])
        spot = textures.Spot(
            s=surface.s[index], t=surface.t[index], half_s=surface.half_s[index], half_t=surface.half_t[index],
            along=along, across=across, a=part[18:21], b=part[21:24], scale=part[25], phase=part[28],
            blur=blur[index],
        )  # fmt: skip
        result.index_copy_(1, index, textures.colour(number, spot))
    return result
