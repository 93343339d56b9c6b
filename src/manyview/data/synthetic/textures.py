"""Procedural textures: from a place on a surface to a colour, each softened to the size of a pixel.

The textures themselves are formulas in catalogue/textures.yaml; here are the functions that they are made of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from random import Random
from typing import Any

import torch
from torch import Tensor

from manyview.data.synthetic.formulas import formula, read_catalogue
from manyview.data.synthetic.materials import TEXTURES

_NOISE = 256  # texels of one period of the noise
_NO_DRAWS = Random(0)


@dataclass
class Spot:
    """N places on surfaces of one texture; every field is (N,) but the colours (3, N)."""

    s: Tensor  # metres along the surface
    t: Tensor  # metres across it (upwards on upright faces)
    half_s: Tensor  # half the surface's extent
    half_t: Tensor
    along: Tensor  # metres along the part's longest side
    across: Tensor  # metres across it
    a: Tensor
    b: Tensor
    scale: Tensor  # metres per period
    phase: Tensor
    blur: Tensor  # metres that a pixel covers


@lru_cache(maxsize=4)
def noise_table(device: str) -> Tensor:
    """A periodic cloud-like image, mean 0.5, mostly within [0, 1]: (1, 1, n + 1, n + 1)."""
    generator = torch.Generator().manual_seed(20240)
    white = torch.fft.fft2(torch.randn(_NOISE, _NOISE, generator=generator, dtype=torch.float64))
    frequency = torch.fft.fftfreq(_NOISE, 1 / _NOISE, dtype=torch.float64)
    radius = (frequency[:, None].square() + frequency[None].square()).sqrt().clamp(min=4)
    cloud = torch.fft.ifft2(white / radius**1.35).real
    cloud = (cloud - cloud.mean()) / cloud.std() * 0.22 + 0.5
    cloud = torch.cat([cloud, cloud[:1]], 0)
    return torch.cat([cloud, cloud[:, :1]], 1).float()[None, None].to(device)


def noise(x: Tensor, y: Tensor) -> Tensor:
    """Smooth noise (N,) with period 1 in both coordinates; its broadest clouds are a quarter of that."""
    table = noise_table(str(x.device))
    grid = torch.stack([x - x.floor(), y - y.floor()], -1) * 2 - 1
    return torch.nn.functional.grid_sample(table, grid[None, None], align_corners=True)[0, 0, 0]


def chance(x: Tensor, y: Tensor | float = 0.0) -> Tensor:
    """A number in [0, 1) that looks random, for whole numbers x (and y)."""
    mixed = torch.sin(x * 12.9898 + y * 78.233) * 43758.5453
    return mixed - mixed.floor()


def wave(x: Tensor) -> Tensor:
    """A triangle wave of period 1 from 1 (at 0) to -1."""
    return ((x - x.floor()) - 0.5).abs() * 4 - 1


def bands(x: Tensor, blur: Tensor) -> Tensor:
    """A square wave of period 1, its edges `blur` periods wide, fading to 0 where a pixel covers several."""
    return (wave(x) / (2 * blur.clamp(min=0.01))).clamp(-1, 1)


def lines(x: Tensor, width: Tensor | float, blur: Tensor) -> Tensor:
    """1 on lines `width` periods wide at the whole numbers, else 0, softened by `blur` periods."""
    distance = 0.5 - ((x - x.floor()) - 0.5).abs()
    soft = blur.clamp(min=0.01)
    return ((width / 2 - distance) / soft + 0.5).clamp(0, 1) * (width / soft).clamp(max=1)


def fade(blur: Tensor) -> Tensor:
    """Contrast left of details one period long when a pixel covers `blur` periods."""
    return (1.2 - 1.6 * blur).clamp(0, 1)


def hues(value: Tensor) -> Tensor:
    """Saturated colours (3, N) for numbers in [0, 1)."""
    offsets = torch.tensor([0.0, 0.33, 0.67], device=value.device, dtype=value.dtype)[:, None]
    return (0.45 + 0.4 * torch.cos(2 * math.pi * (value + offsets))).square()


def clip(x: Tensor, low: float = 0, high: float = 1) -> Tensor:
    return x.clamp(low, high)


def at_least(x: Tensor, low: float) -> Tensor:
    return x.clamp(min=low)


def brightness(colour: Tensor) -> Tensor:
    return colour.mean(0)


def number(truth: Tensor) -> Tensor:
    """1 where something is so, else 0."""
    return truth.to(torch.float32)


_OWN = (noise, chance, wave, bands, lines, fade, hues, clip, at_least, brightness, number)
_OF_TORCH = (torch.sin, torch.cos, torch.atan2, torch.hypot, torch.floor, torch.abs, torch.round, torch.where)
_FUNCTIONS: dict[str, Any] = {function.__name__: function for function in _OWN + _OF_TORCH}
_FUNCTIONS |= {"most": torch.maximum, "least": torch.minimum}


@cache
def _textures() -> dict[str, dict[str, str]]:
    content = read_catalogue("textures.yaml")
    return {name: {"mix": entry} if isinstance(entry, str) else entry for name, entry in content.items()}


def colour(texture: int, spot: Spot) -> Tensor:
    """Linear RGB (3, N) of a texture (an index into TEXTURES) at N places."""
    names = _names(TEXTURES[texture], spot)
    if "colour" in names:
        return names["colour"]
    blended = torch.lerp(spot.a, spot.b, names["mix"][None])
    return blended * names["shade"] if "shade" in names else blended


def _names(texture: str, spot: Spot) -> dict[str, Any]:
    """What the formulas of a texture give names to."""

    def same(other: str) -> Tensor:
        names = _names(other, spot)
        return names["colour"] if "colour" in names else names["mix"]

    names = {**_FUNCTIONS, **vars(spot), "same": same}
    for target, text in _textures()[texture].items():
        names[target] = formula(text)(names, _NO_DRAWS)
    return names
