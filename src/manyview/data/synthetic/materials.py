"""Surfaces: a texture, two colours and how they shine. Those that are drawn by name are in catalogue/materials.yaml."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from random import Random

Colour = tuple[float, float, float]  # linear RGB in [0, 1]

# The order is the number that the shader reads; the functions are in textures.py.
TEXTURES = (
    *("plain", "checks", "stripes", "wood", "marble", "bricks", "tiles", "planks", "dots", "weave", "carpet"),
    *("leaves", "plaid", "ornament", "picture", "spines", "screen", "outdoors", "clock", "label", "keyboard"),
    *("patches", "folds", "panels", "terrazzo", "zigzag", "hexagons", "wallpaper"),
)


@dataclass(frozen=True)
class Material:
    """How a part looks. Textures live in metres on the part's surface; `phase` makes two parts differ."""

    a: Colour = (0.5, 0.5, 0.5)
    b: Colour = (0.3, 0.3, 0.3)
    texture: str = "plain"
    scale: float = 0.1  # metres per period
    gloss: float = 0.0  # strength of the highlight, 0 to 1
    glow: float = 0.0  # light of its own, relative to a white wall
    phase: float = 0.0


def plain(material: Material, shade: float = 1.0) -> Material:
    """The same colour without the pattern, darker or lighter."""
    return replace(material, a=shaded(material.a, shade), texture="plain")


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Linear RGB of a colour given as it would appear on a screen."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return red**2, green**2, blue**2


def shaded(colour: Colour, factor: float) -> Colour:
    """A colour, darker or lighter, at most white."""
    red, green, blue = (min(channel * factor, 1.0) for channel in colour)
    return red, green, blue


def flat(colour: Colour, *, gloss: float = 0.1) -> Material:
    return Material(a=colour, b=shaded(colour, 0.6), gloss=gloss)


def grey(value: float, *, gloss: float = 0.1) -> Material:
    """A neutral grey as it would appear on a screen."""
    return flat(hsv(0, 0, value), gloss=gloss)


def any_colour(rng: Random, *, low: float = 0.3, high: float = 0.9) -> Colour:
    """Any hue, not too pale and not too strong; `low` and `high` bound its brightness."""
    return hsv(rng.random(), rng.uniform(0.15, 0.8), rng.uniform(low, high))
