"""The surface under every pixel: its normal, its texture coordinates and its colour without light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyview.data.synthetic import textures
from manyview.data.synthetic.materials import TEXTURES
from manyview.data.synthetic.raycast import BOX, CONE
from manyview.data.synthetic.world import ROW


@dataclass
class Surface:
    """What N pixels see: world points, shading frame, and the spot's texture coordinates; vectors are (3, N)."""

    points: Tensor
    normal: Tensor  # unit, world, towards the camera
    s: Tensor
    t: Tensor
    half_s: Tensor
    half_t: Tensor
    metric: Tensor  # metres from the primitive's middle along its axes


def surface(table: Tensor, rows: Tensor, seen: Tensor, points: Tensor, view: Tensor) -> Surface:
    """Where N world points (3, N) lie on the primitives `seen` (N,); `rows` are their dense rows of the table."""
    transform, half = rows[ROW["transform"]].view(3, 4, -1), rows[ROW["half"]]
    local = torch.stack([_affine(transform[k], points) for k in range(3)])
    # Of a box: the face is where the coordinate is largest. Arithmetic again, see raycast.
    size = local.abs()
    along_x = (size[0] - torch.maximum(size[1], size[2])).mul_(1e30).clamp_(0, 1)
    along_y = (size[1] - size[2]).mul_(1e30).clamp_(0, 1).mul_(1 - along_x)
    along_z = 1 - along_x - along_y
    metric = local * half
    normal = transform[0, :3] * (along_x * local[0].sign())
    normal.addcmul_(transform[1, :3], along_y * local[1].sign())
    normal.addcmul_(transform[2, :3], along_z * local[2].sign())
    s, half_s = torch.lerp(metric[0], metric[1], along_x), torch.lerp(half[0], half[1], along_x)
    t, half_t = torch.lerp(metric[2], metric[1], along_z), torch.lerp(half[2], half[1], along_z)
    curved = (rows[ROW["kind"]][0] != BOX).nonzero()[:, 0]
    if len(curved):
        radii = table[ROW["radii"]].index_select(1, seen.index_select(0, curved))
        index = curved.to(torch.int32)
        turned, at, extent = (tensor.index_select(-1, index) for tensor in (transform, local, half))
        cone = rows[ROW["kind"]][0].index_select(0, index) == CONE
        bent, values = _curved(turned, at, extent, radii, cone)
        normal.index_copy_(1, curved, bent)
        for target, value in zip((s, t, half_s, half_t), values):
            target.index_copy_(0, curved, value)
    normal = normal * (normal.square().sum(0).clamp(min=1e-20)).rsqrt()
    towards = (normal * view).sum(0).sign_().neg_()
    return Surface(points, normal * towards, s, t, half_s, half_t, metric)


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


def albedo(
    table: Tensor, rows: Tensor, seen: Tensor, surface: Surface, blur: Tensor, photographs: Any = None
) -> Tensor:
    """Linear RGB (3, N) of the surfaces; `blur` (N,) is how many metres of them a pixel covers."""
    result = rows[ROW["a"]].clone()
    texture = rows[ROW["texture"]][0]
    for number in table[ROW["texture"]].unique().tolist():
        if number == 0:
            continue
        index = (texture == number).nonzero()[:, 0]
        if not len(index):
            continue
        short, owner = index.to(torch.int32), seen.index_select(0, index)
        metric = surface.metric.index_select(1, short)
        scale, phase, grain = table[ROW["scale"].start : ROW["grain"].stop].index_select(1, owner)
        along = torch.where(grain == 0, metric[0], torch.where(grain == 1, metric[1], metric[2]))
        places = (surface.s, surface.t, surface.half_s, surface.half_t)
        s, t, half_s, half_t = (values.index_select(0, short) for values in places)
        across, covered = metric.sum(0) - along, blur.index_select(0, short)
        if number == len(TEXTURES):
            result.index_copy_(1, index, photographs.colour(s, t, scale, phase, covered))
            continue
        a, b = result.index_select(1, short), table[ROW["b"]].index_select(1, owner)
        spot = textures.Spot(s, t, half_s, half_t, along, across, a, b, scale, phase, covered)
        result.index_copy_(1, index, textures.colour(int(number), spot))
    return result
