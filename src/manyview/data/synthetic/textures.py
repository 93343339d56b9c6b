"""Procedural textures: from a place on a surface to a colour, each softened to the size of a pixel.

A texture answers how far a pixel lies between its material's two colours, and how much lighter or darker it is; the
pictorial ones (paintings, book spines, screens, windows) answer a colour. Coordinates are metres on the surface.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from manyview.data.synthetic.materials import TEXTURES

_NOISE = 256  # texels of one period of the noise


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

    def unit(self) -> tuple[Tensor, Tensor]:
        """s and t from -1 to 1 over the surface."""
        return self.s / self.half_s, self.t / self.half_t


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


def _fade(blur: Tensor) -> Tensor:
    """Contrast left of details one period long when a pixel covers `blur` periods."""
    return (1.2 - 1.6 * blur).clamp(0, 1)


def _hues(value: Tensor) -> Tensor:
    """Saturated colours (3, N) for numbers in [0, 1)."""
    offsets = torch.tensor([0.0, 0.33, 0.67], device=value.device, dtype=value.dtype)[:, None]
    return (0.45 + 0.4 * torch.cos(2 * math.pi * (value + offsets))).square()


def _checks(p: Spot) -> Tensor:
    blur = p.blur / (2 * p.scale)
    return 0.5 + 0.5 * bands(p.s / (2 * p.scale) + 0.25, blur) * bands(p.t / (2 * p.scale) + 0.25, blur)


def _stripes(p: Spot) -> Tensor:
    return 0.5 + 0.5 * bands(p.s / p.scale + p.phase, p.blur / p.scale)


def _grain(p: Spot) -> Tensor:
    warp = noise(p.along * 0.22 + p.phase, p.across * 0.9 + p.phase * 7)
    rings = 0.5 + 0.5 * torch.sin((p.across / p.scale + 5 * warp) * 2 * math.pi) * _fade(p.blur / p.scale)
    fibres = 0.5 + (noise(p.along * 0.6, p.across * 6 + p.phase * 3) - 0.5) * _fade(p.blur * 40)
    return (0.55 * rings + 1.3 * fibres - 0.45).clamp(0, 1)


def _marble(p: Spot) -> Tensor:
    return (
        (noise(p.s / p.scale * 0.25 + p.phase, p.t / p.scale * 0.25 + 3 * p.phase) - 0.5) * 1.6 + 0.5
    ).clamp(0, 1)


def _bricks(p: Spot) -> tuple[Tensor, Tensor]:
    row = p.t / (p.scale * 0.33)
    column = p.s / p.scale + 0.5 * (row.floor() % 2)
    blur = p.blur / p.scale
    mortar = torch.maximum(lines(row, 0.13, 3 * blur), lines(column, 0.045, blur))
    shade = (
        0.78
        + 0.35 * chance(column.floor(), row.floor()) * _fade(blur)
        + 0.25 * (noise(p.s * 0.8, p.t * 0.8) - 0.5)
    )
    return mortar, torch.where(mortar > 0.5, 1.0, shade)


def _tiles(p: Spot) -> tuple[Tensor, Tensor]:
    x, y, blur = p.s / p.scale, p.t / p.scale, p.blur / p.scale
    grout = torch.maximum(lines(x, 0.03, blur), lines(y, 0.03, blur))
    shade = 0.95 + 0.1 * chance(x.floor() + 17 * p.phase, y.floor()) * _fade(blur)
    return grout, shade + 0.12 * (noise(p.s * 0.4, p.t * 0.4) - 0.5)


def _planks(p: Spot) -> tuple[Tensor, Tensor]:
    x, blur = p.across / p.scale, p.blur / p.scale
    board = x.floor()
    y = p.along / 1.3 + chance(board, p.phase)
    gap = torch.maximum(lines(x, 0.035, blur), lines(y, 0.004, p.blur / 1.3))
    identity = chance(board, y.floor() + p.phase)
    fibres = noise(p.along * 0.25 + identity, p.across * 2.5 + identity * 5)
    shade = (0.8 + 0.3 * identity) * (1 - 0.55 * gap)
    return ((fibres - 0.5) * 1.6 * _fade(p.blur * 12) + 0.4).clamp(0, 1), shade


def _dots(p: Spot) -> Tensor:
    x, y, blur = p.s / p.scale, p.t / p.scale, p.blur / p.scale
    x = x + 0.5 * (y.floor() % 2)
    distance = torch.hypot(x - x.floor() - 0.5, y - y.floor() - 0.5)
    return ((0.3 - distance) / blur.clamp(min=0.02) + 0.5).clamp(0, 1) * _fade(blur) + 0.28 * (
        1 - _fade(blur)
    )


def _weave(p: Spot) -> Tensor:
    blur = p.blur / p.scale
    knit = torch.sin(p.s / p.scale * 2 * math.pi) * torch.sin(p.t / p.scale * 2 * math.pi)
    return (0.5 + 0.4 * knit * _fade(blur) + 0.9 * (noise(p.s * 0.9 + p.phase, p.t * 0.9) - 0.5)).clamp(0, 1)


def _carpet(p: Spot) -> Tensor:
    fine = (noise(p.s * 3 + p.phase, p.t * 3) - 0.5) * _fade(p.blur * 40)
    return (0.5 + 1.3 * fine + 0.9 * (noise(p.s * 0.2, p.t * 0.2 + p.phase) - 0.5)).clamp(0, 1)


def _leaves(p: Spot) -> Tensor:
    x, y = p.s / p.scale * 0.12 + p.phase, p.t / p.scale * 0.12 + p.phase * 5
    return ((noise(x, y) - 0.5) * 4 + 0.5).clamp(0, 1)


def _plaid(p: Spot) -> Tensor:
    blur = p.blur / p.scale
    thin = torch.maximum(lines(p.s / p.scale, 0.06, blur), lines(p.t / p.scale, 0.06, blur))
    wide = 0.5 + 0.25 * (bands(p.s / p.scale + 0.25, blur) + bands(p.t / p.scale + 0.25, blur))
    return (0.85 * wide + 0.4 * thin).clamp(0, 1)


def _ornament(p: Spot) -> Tensor:
    """A woven rug: borders, and diamonds that repeat towards the middle."""
    edge = torch.minimum(p.half_s - p.s.abs(), p.half_t - p.t.abs())
    blur = p.blur / p.scale
    border = 0.5 + 0.5 * bands(edge / (0.6 * p.scale) + 0.25, blur)
    diamonds = (p.s.abs() + p.t.abs()) / p.scale
    motif = bands(diamonds + p.phase, blur) * bands((p.s.abs() - p.t.abs()) / (2 * p.scale), blur)
    return torch.where(edge < 0.9 * p.scale, border, 0.5 + 0.5 * motif)


def _label(p: Spot) -> Tensor:
    """A printed label: bands at its ends, a blot, and lines like writing."""
    x, y = p.unit()
    band = (y.abs() > 0.72).to(x.dtype)
    blot = (torch.hypot((x.abs() - 0.5) * 3.5, y - 0.1) < 0.45).to(x.dtype)
    write = (
        (chance((p.s / 0.006).floor(), (p.t / 0.008).floor() + p.phase) > 0.45)
        & (y < -0.25)
        & (wave(p.t / 0.008) > 0)
    ).to(x.dtype)
    return torch.maximum(torch.maximum(band, blot), write * 0.8 * _fade(p.blur / 0.008))


def _keyboard(p: Spot) -> Tensor:
    blur = p.blur / p.scale
    return torch.maximum(lines(p.s / p.scale, 0.2, blur), lines(p.t / p.scale, 0.2, blur))


def _patches(p: Spot) -> Tensor:
    x, y = p.unit()
    blur = p.blur / p.scale
    return 0.5 + 0.5 * bands(x * 2 + 0.25, blur) * bands(y * 1.5, blur)


def _folds(p: Spot) -> Tensor:
    sway = noise(p.s * 0.1 + p.phase, p.t * 0.06)
    return 0.5 + 0.5 * torch.sin((p.s / p.scale + 2 * sway + p.phase) * 2 * math.pi) * _fade(p.blur / p.scale)


def _panels(p: Spot) -> Tensor:
    return lines(p.s / p.scale, 0.03, p.blur / p.scale) * 0.9 + 0.1 * _marble(p)


def _terrazzo(p: Spot) -> Tensor:
    chips = noise(p.s / p.scale * 0.09, p.t / p.scale * 0.09)
    return ((chips - 0.6) * 12 * _fade(p.blur / p.scale) + 0.25).clamp(0, 1)


def _zigzag(p: Spot) -> Tensor:
    return 0.5 + 0.5 * bands(p.t / p.scale + 0.3 * wave(p.s / p.scale), 1.6 * p.blur / p.scale)


def _hexagons(p: Spot) -> Tensor:
    x, y = p.s / p.scale * 2 * math.pi, p.t / p.scale * 2 * math.pi
    comb = torch.cos(x) + torch.cos(0.5 * x + 0.866 * y) + torch.cos(0.5 * x - 0.866 * y)
    return ((-comb - 1.15) * 4 + 0.5).clamp(0, 1) * _fade(p.blur / p.scale)


def _wallpaper(p: Spot) -> Tensor:
    x, y = p.s / p.scale * 2 * math.pi, p.t / p.scale * 2 * math.pi
    motif = torch.sin(x) * torch.sin(0.5 * y) + 0.6 * torch.sin(
        2 * x + torch.cos(y) * (1 + 2 * p.phase)
    ) * torch.cos(y)
    return 0.5 + ((motif - 0.25) * 5).clamp(-0.5, 0.5) * _fade(p.blur / p.scale * 1.5)


def _clock(p: Spot) -> Tensor:
    radius = torch.hypot(p.s, p.t) / p.scale
    angle = torch.atan2(p.t, p.s) / (2 * math.pi) * 12
    tick = ((angle - angle.round()).abs() < 0.11 / radius.clamp(min=0.1)) & (radius > 0.62) & (radius < 0.8)
    return torch.where(tick, 0.9, (radius > 0.84).to(radius.dtype) * 0.4)


def _spines(p: Spot) -> Tensor:
    """Books side by side: each its own colour, a band or a title, a dark gap."""
    x = p.s / p.scale
    x = x + 0.35 * (chance(x.floor(), p.phase) - 0.5)
    book, blur = x.floor(), p.blur / p.scale
    colour = _hues(chance(book, p.phase)) * (0.35 + 0.9 * chance(book, p.phase + 7))
    muted = torch.where(chance(book, p.phase + 3) < 0.35, colour.mean(0) * 1.3, colour)
    _, y = p.unit()
    title = (y - 0.6 * (chance(book, p.phase + 1) - 0.3)).abs() < 0.18
    title &= wave(x).abs() < 0.6
    printed = torch.where(title & (chance(book, p.phase + 2) < 0.7), 0.35 * muted + 0.55, muted)
    return printed * (1 - 0.75 * lines(x, 0.16, blur))


def _picture(p: Spot) -> Tensor:
    """A landscape, or an abstract of discs and stripes."""
    x, y = p.unit()
    kind, third = chance(p.phase.floor(), 1.0), _hues(chance(p.phase.floor(), 2.0))
    horizon = 0.35 * torch.sin(2.2 * x + p.phase) + 0.5 * (noise(x * 0.12 + p.phase, p.phase) - 0.5)
    sky = p.a + (1 - p.a) * (0.5 - 0.5 * y)
    sun = torch.hypot(x - torch.sin(p.phase * 3) * 0.6, y - 0.55) < 0.2
    near = 0.5 * torch.sin(1.6 * x + 2 * p.phase) - 0.55
    land = torch.where(y < near, third * 0.5, p.b * (0.7 + 0.6 * noise(x * 0.3, y * 0.3)))
    landscape = torch.where(y > horizon - 0.1, torch.where(sun, 1.0, sky), land)
    turn = p.phase * 5
    u, v = x * torch.cos(turn) - y * torch.sin(turn), x * torch.sin(turn) + y * torch.cos(turn)
    abstract = torch.where(u + 0.4 * torch.sin(3 * v) > 0.1, p.a, p.b)
    abstract = torch.where(torch.hypot(u - 0.3, v + 0.2) < 0.45, third, abstract)
    abstract = torch.where((v - 0.5).abs() < 0.09, third * 0.3, abstract)
    return torch.where(kind < 0.6, landscape, abstract)


def _screen(p: Spot) -> Tensor:
    """A film, or windows with lines of text."""
    x, y = p.unit()
    left = chance(p.phase.floor(), 5.0) * 0.6 - 0.5
    paper = torch.where(y > 0.78, p.a * 0.5, torch.where(x < left, p.b * 0.4 + 0.1, 0.85))
    row = ((y + 1) * 9).floor()
    text = (
        (wave((y + 1) * 9) < 0.2)
        & (x > left + 0.1)
        & (x < left + 0.1 + chance(row, p.phase) * (0.8 - left))
        & (y < 0.6)
    )
    return torch.where(chance(p.phase.floor(), 6.0) < 0.5, torch.where(text, 0.2, paper), _picture(p))


def _outdoors(p: Spot) -> Tensor:
    """What a window shows: sky, clouds, far trees or roofs, a lawn."""
    x, y = p.s * 0.5, p.unit()[1]
    cloud = ((noise(p.s * 0.1 + p.phase, p.t * 0.2) - 0.5) * 3).clamp(0, 1)
    sky = p.a + (1 - p.a) * torch.maximum(cloud, 0.6 - 0.6 * y)
    roofs = chance((x * 3 + p.phase).floor(), p.phase) * 0.7 - 0.55
    trees = 1.2 * (noise(x * 0.3 + p.phase, p.phase) - 0.5) - 0.25
    town = chance(p.phase.floor(), 9.0) < 0.4
    line = torch.where(town, roofs, trees)
    far = torch.where(
        town, 0.35 + 0.25 * chance((x * 3 + p.phase).floor(), 4.0), p.b * (0.25 + 0.9 * noise(x * 1.5, p.t))
    )
    lawn = p.b * (0.7 + 0.5 * noise(x * 2, p.t * 2))
    return torch.where(y > line, sky, torch.where(y < -0.75, lawn, far))


_MIXES: dict[str, Callable[[Spot], Tensor | tuple[Tensor, Tensor]]] = {
    "checks": _checks, "stripes": _stripes, "wood": _grain, "marble": _marble, "bricks": _bricks, "tiles": _tiles,
    "planks": _planks, "dots": _dots, "weave": _weave, "carpet": _carpet, "leaves": _leaves, "plaid": _plaid,
    "ornament": _ornament, "clock": _clock, "label": _label, "keyboard": _keyboard, "patches": _patches,
    "folds": _folds, "panels": _panels, "terrazzo": _terrazzo, "zigzag": _zigzag, "hexagons": _hexagons,
    "wallpaper": _wallpaper,
}  # fmt: skip
_COLOURS: dict[str, Callable[[Spot], Tensor]] = {
    "picture": _picture, "spines": _spines, "screen": _screen, "outdoors": _outdoors,
}  # fmt: skip


def colour(texture: int, spot: Spot) -> Tensor:
    """Linear RGB (3, N) of a texture (an index into TEXTURES) at N places."""
    name = TEXTURES[texture]
    if name in _COLOURS:
        return _COLOURS[name](spot)
    answer = _MIXES[name](spot)
    mix, shade = answer if isinstance(answer, tuple) else (answer, None)
    blended = torch.lerp(spot.a, spot.b, mix[None])
    return blended if shade is None else blended * shade
