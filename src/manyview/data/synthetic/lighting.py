"""Light and camera: how bright every pixel is, and the picture that a camera makes of it.

Light comes from a hanging lamp and a window (soft shadows from variance shadow maps), a patch of sun behind the
window, and from everywhere, less in corners and under things. Then exposure, tone, vignette, noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import torch
from torch import Tensor

from manyview.data.synthetic.raycast import Solids, cast
from manyview.data.synthetic.world import Corner, Lighting, Window
from manyview.geometry.poses import look_at


@dataclass
class Shadow:
    """What a light sees: first and second moments of depth, sharp and blurred widely: maps (1, 4, S, S)."""

    light_from_world: Tensor  # (3, 4)
    focal: float  # pixels per unit slope, over the half size: slope * focal is in [-1, 1]
    maps: Tensor


def shadow(solids: Solids, eye: Tensor, towards: Tensor, *, half_slope: float, side: int) -> Shadow:
    """Render a shadow map from a light at `eye` (3,) looking along `towards` (3,)."""
    up = (0.0, 1.0, 0.0) if towards[2].abs() > 0.9 else (0.0, 0.0, 1.0)
    light2world = look_at(eye, eye + towards, up)
    focal = side / 2 / half_slope
    intrinsics = eye.new_tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
    depth, _ = cast(solids, light2world[None], intrinsics[None], (side, side))
    moments = torch.stack([depth, depth.square()], 1)
    sharp = _blur(moments, max(1, side // 128))
    wide = _blur(_blur(moments, max(2, side // 12)), max(2, side // 12))
    turn = light2world[:3, :3].T
    return Shadow(torch.cat([turn, -turn @ eye[:, None]], 1), 1 / half_slope, torch.cat([sharp, wide], 1))


def _blur(maps: Tensor, radius: int) -> Tensor:
    """Box filter of maps (1, C, S, S) by running sums; the border repeats."""
    for dim in (2, 3):
        size, width = maps.shape[dim], 2 * radius + 1
        index = torch.arange(-radius - 1, size + radius, device=maps.device).clamp(0, size - 1)
        sums = maps.index_select(dim, index).cumsum(dim, dtype=torch.float64)
        maps = ((sums.narrow(dim, width, size) - sums.narrow(dim, 0, size)) / width).to(maps.dtype)
    return maps


def lit(shadow: Shadow, points: Tensor) -> tuple[Tensor, Tensor]:
    """How much of a light reaches points (3, N), and how open their surroundings are: two (N,) in [0, 1]."""
    local = shadow.light_from_world[:, :3] @ points + shadow.light_from_world[:, 3:]
    z = local[2].clamp(min=1e-3)
    grid = (local[:2] / z * shadow.focal).T[None, None]
    maps = torch.nn.functional.grid_sample(shadow.maps, grid, padding_mode="border", align_corners=False)[0, :, 0]
    seen = (local[2] > 0.02) & (grid[0, 0].abs().amax(1) < 1)
    answers = []
    for mean, square, floor, bias in ((maps[0], maps[1], 2e-4, 0.25), (maps[2], maps[3], 2e-2, 0.1)):
        variance = (square - mean.square()).clamp(min=floor)
        beyond = (z - mean - 0.02).clamp(min=0)
        share = variance / (variance + beyond.square())
        share = ((share - bias) / (1 - bias)).clamp(0, 1)
        answers.append(torch.where(seen, share, 1.0))
    return answers[0], answers[1]


def shadows(solids: Solids, lighting: Lighting, *, side: int) -> list[Shadow]:
    """Of the lamp and, if there is one, the window."""
    device = solids.room.device
    lamp = torch.tensor(lighting.lamp, device=device)
    maps = [shadow(solids, lamp, lamp.new_tensor([0.0, 0.0, -1.0]), half_slope=2.6, side=side)]
    if lighting.window:
        inwards = lamp.new_tensor(lighting.window.inwards)
        eye = lamp.new_tensor(lighting.window.middle) + 0.12 * inwards
        towards = inwards + lamp.new_tensor([0.0, 0.0, -0.3])
        maps.append(shadow(solids, eye, towards, half_slope=2.2, side=side))
    return maps


@dataclass
class Light:
    """All lights of a world on one device."""

    lighting: Lighting
    shadows: list[Shadow]
    room: Tensor  # (3,) its size

    def radiance(self, points: Tensor, normal: Tensor, view: Tensor, albedo: Tensor, shine: Tensor) -> Tensor:
        """Linear RGB (3, N) that leaves points towards the camera.

        points, normal, view (unit, from the camera), albedo: (3, N); shine (2, N): gloss and glow.
        """
        lamp_share, openness = lit(self.shadows[0], points)
        everywhere = openness.mul_(0.45).add_(0.55).mul_(self._corners(points, normal))
        everywhere = everywhere * (0.8 + 0.2 * normal[2])
        light = everywhere * points.new_tensor(self.lighting.ambient)[:, None]
        sources = [(self.lighting.lamp, lamp_share, self.lighting.lamp_colour)]
        window = self.lighting.window
        if window:
            share, _ = lit(self.shadows[1], points)
            way = points - points.new_tensor(window.middle)[:, None]
            facing = (way * points.new_tensor(window.inwards)[:, None]).sum(0)
            sources.append((window.middle, share * (facing * 1.5).clamp(0, 1), self.lighting.window_colour))
        mirror = view - 2 * (view * normal).sum(0) * normal
        glint = torch.zeros_like(light)
        for position, reaching, colour in sources:
            diffuse, highlight = _lamp(points, normal, mirror, points.new_tensor(position)[:, None], reaching)
            tint = points.new_tensor(colour)[:, None]
            light, glint = torch.addcmul(light, diffuse, tint), glint.addcmul_(highlight, tint)
        if window and self.lighting.sun:
            light = light + self._sun(points, normal, share, window, self.lighting.sun)
        return albedo * (light + shine[1]) + glint * (shine[0] * 0.5)

    def _corners(self, points: Tensor, normal: Tensor) -> Tensor:
        """Less light reaches the corners of the room."""
        share = torch.ones_like(points[0])
        for axis in range(3):
            distance = torch.minimum(points[axis], self.room[axis] - points[axis])
            share *= 1 - 0.42 * (1 - normal[axis].abs()) * torch.exp(distance * -4.5)
        return share

    def _sun(self, points: Tensor, normal: Tensor, share: Tensor, window: Window, way: Corner) -> Tensor:
        """Sunlight (3, N) where the way back to the sun goes through the window."""
        middle, inwards, width, height = window
        length = math.sqrt(sum(c * c for c in way))
        axis = 0 if abs(inwards[0]) > 0.5 else 1
        back = (points[axis] - middle[axis]) / way[axis]
        across = points[1 - axis] - back * way[1 - axis] - middle[1 - axis]
        up = points[2] - back * way[2] - middle[2]
        soft = 0.015 + 0.012 * back.abs()
        inside = torch.minimum(width / 2 - 0.05 - across.abs(), height / 2 - 0.05 - up.abs())
        bar = across.abs() - 0.02
        reach = ((torch.minimum(inside, bar) / soft) + 0.5).clamp(0, 1) * (back > 0)
        facing = -(normal * points.new_tensor(way)[:, None]).sum(0) / length
        sun = points.new_tensor((2.6, 2.3, 1.8))[:, None]
        return sun * (reach * facing.clamp(min=0) * (share * 1.4 - 0.2).clamp(0, 1))


def _lamp(points: Tensor, normal: Tensor, mirror: Tensor, position: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Strengths (N,) of diffuse light and highlight of a lamp at `position` (3, 1), `share` (N,) of which arrives."""
    towards = position - points
    square = towards.square().sum(0)
    towards = towards * square.clamp(min=1e-6).rsqrt()
    falloff = share * (2.2 / (1 + 0.45 * square))
    diffuse = (normal * towards).sum(0).mul(0.85).add_(0.15).clamp_(min=0).mul_(falloff)
    highlight = (mirror * towards).sum(0).clamp_(min=0)
    for _ in range(5):  # to the 32nd power
        highlight.square_()
    return diffuse, highlight.mul_(falloff)


@lru_cache(maxsize=2)
def _grain(height: int, width: int, device: str) -> Tensor:
    """A fixed sheet of sensor noise, unit variance, at least 512 pixels larger than a picture: (3, ...)."""
    noise = torch.randn(3, 1024, 1024, generator=torch.Generator().manual_seed(77))
    return noise.repeat(1, 1 + (height + 511) // 1024, 1 + (width + 511) // 1024).to(device)


def _soften(images: Tensor, share: float) -> Tensor:
    """What a lens does to sharp edges: every pixel gives `share` of its light to its neighbours, along both axes."""
    for dim in (2, 3):
        size = images.shape[dim]
        before = torch.cat([images.narrow(dim, 0, 1), images.narrow(dim, 0, size - 1)], dim)
        after = torch.cat([images.narrow(dim, 1, size - 1), images.narrow(dim, size - 1, 1)], dim)
        images = torch.lerp(images, before.add_(after).mul_(0.5), share)
    return images


def develop(linear: Tensor, lighting: Lighting, rng: Random) -> Tensor:
    """Photographs (V, 3, H, W) in [0, 1] of linear radiance: one exposure for the scene, noise of its own per view."""
    views, _, height, width = linear.shape
    brightness = linear.mean((0, 2, 3)).mean().clamp(min=1e-3)
    warm = linear.new_tensor([1 + lighting.warmth, 1.0, 1 - lighting.warmth])[:, None, None]
    # A filmic shoulder; the mean lands near the square of the wanted exposure.
    gain = -math.log(1 - min(lighting.exposure, 0.9) ** 2) * 1.25 / brightness
    y = torch.linspace(-1, 1, height, device=linear.device)[:, None]
    x = torch.linspace(-1, 1, width, device=linear.device)[None]
    vignette = 1 - rng.uniform(0.02, 0.2) * (x.square() + y.square()) / 2
    tone = (linear * (gain * warm * -vignette)).exp_().neg_().add_(1).clamp_(min=0).sqrt_()
    tone = _soften((tone - 0.5).mul_(lighting.contrast).add_(0.5), rng.uniform(0.05, 0.2))
    strength, grain = rng.uniform(0.002, 0.014), _grain(height, width, str(linear.device))
    for view in range(views):
        top, left = rng.randrange(512), rng.randrange(512)
        tone[view].add_(grain[:, top : top + height, left : left + width], alpha=strength)
    return tone.clamp_(0, 1)
