"""Surfaces: a texture, two colours and how they shine; and seeded choices of them that look like wood, cloth, paint."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from random import Random

Colour = tuple[float, float, float]  # linear RGB in [0, 1]

# The order is the number that the shader reads; the functions are in textures.py.
TEXTURES = (
    "plain", "checks", "stripes", "wood", "marble", "bricks", "tiles", "planks", "dots", "weave", "carpet",
    "leaves", "plaid", "ornament", "picture", "spines", "screen", "outdoors", "clock", "label", "keyboard",
    "patches", "folds", "panels", "terrazzo", "zigzag", "hexagons", "wallpaper",
)  # fmt: skip


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

    def plain(self, shade: float = 1.0) -> Material:
        """The same colour without the pattern, darker or lighter."""
        return replace(self, a=shaded(self.a, shade), texture="plain")


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Linear RGB of a colour given as it would appear on a screen."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return red**2, green**2, blue**2


def scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = (channel * factor for channel in colour)
    return red, green, blue


def shaded(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(channel * factor, 1.0) for channel in colour)
    return red, green, blue


def flat(colour: Colour, *, gloss: float = 0.1) -> Material:
    return Material(a=colour, b=shaded(colour, 0.6), gloss=gloss)


def grey(value: float, *, gloss: float = 0.1) -> Material:
    """A neutral grey as it would appear on a screen."""
    return flat(hsv(0, 0, value), gloss=gloss)


def wood(rng: Random) -> Material:
    hue, saturation = rng.uniform(0.045, 0.105), rng.uniform(0.3, 0.65)
    value = rng.choice([rng.uniform(0.3, 0.5), rng.uniform(0.55, 0.75), rng.uniform(0.75, 0.9)])
    light = hsv(hue, saturation, value)
    dark = hsv(hue - 0.01, min(saturation + 0.12, 0.85), value * rng.uniform(0.62, 0.82))
    return Material(light, dark, "wood", rng.uniform(0.05, 0.12), rng.uniform(0.05, 0.3), phase=rng.random())


def lacquer(rng: Random) -> Material:
    """Painted furniture: mostly white or grey, sometimes a strong colour."""
    if rng.random() < 0.6:
        colour = hsv(rng.random(), rng.uniform(0, 0.1), rng.uniform(0.7, 0.95))
    else:
        colour = hsv(rng.random(), rng.uniform(0.25, 0.7), rng.uniform(0.35, 0.85))
    return flat(colour, gloss=rng.uniform(0.1, 0.4))


def furniture(rng: Random) -> Material:
    return wood(rng) if rng.random() < 0.65 else lacquer(rng)


def any_colour(rng: Random, *, low: float = 0.3, high: float = 0.9) -> Colour:
    return hsv(rng.random(), rng.uniform(0.15, 0.8), rng.uniform(low, high))


def fabric(rng: Random) -> Material:
    """Sofas, chairs, cushions."""
    colour = any_colour(rng) if rng.random() < 0.7 else hsv(0.08, rng.uniform(0, 0.25), rng.uniform(0.2, 0.8))
    other = shaded(colour, rng.uniform(0.5, 0.85)) if rng.random() < 0.6 else any_colour(rng)
    texture = rng.choice(["plain", "weave", "weave", "weave", "stripes", "plaid", "checks", "dots", "zigzag"])
    scale = {"weave": 0.03, "stripes": 0.08, "plaid": 0.16, "zigzag": 0.1}.get(texture, 0.07) * rng.uniform(
        0.7, 1.5
    )
    return Material(colour, other, texture, scale, 0.0, phase=rng.random())


def plastic(rng: Random) -> Material:
    return flat(hsv(rng.random(), rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.95)), gloss=rng.uniform(0.3, 0.7))


def ceramic(rng: Random) -> Material:
    if rng.random() < 0.4:
        return flat(hsv(0.1, rng.uniform(0, 0.1), rng.uniform(0.8, 0.97)), gloss=0.6)
    colour, other = any_colour(rng, low=0.4), hsv(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.6, 0.95))
    texture = rng.choice(["plain", "stripes", "dots", "checks", "zigzag", "marble"])
    return Material(colour, other, texture, rng.uniform(0.02, 0.06), 0.6, phase=rng.random())


def metal(rng: Random) -> Material:
    value = rng.choice([rng.uniform(0.1, 0.25), rng.uniform(0.55, 0.8)])
    return flat(hsv(rng.uniform(0.05, 0.65), rng.uniform(0, 0.12), value), gloss=0.8)


def picture(rng: Random) -> Material:
    return Material(any_colour(rng), any_colour(rng), "picture", 1.0, 0.15, phase=rng.uniform(0, 100))


def wall(rng: Random) -> Material:
    colour = hsv(
        rng.random(), rng.choice([rng.uniform(0, 0.08), rng.uniform(0.08, 0.35)]), rng.uniform(0.62, 0.95)
    )
    style = rng.random()
    other, texture, scale = shaded(colour, rng.uniform(0.86, 0.95)), "marble", rng.uniform(0.6, 2.0)
    if 0.4 < style < 0.6:
        texture, scale, other = "wallpaper", rng.uniform(0.15, 0.5), shaded(colour, rng.uniform(0.7, 0.9))
    elif 0.6 < style < 0.7:
        texture, scale, other = "stripes", rng.uniform(0.12, 0.4), shaded(colour, rng.uniform(0.75, 0.92))
    elif 0.7 < style < 0.78:
        texture, scale = "bricks", rng.uniform(0.2, 0.26)
        colour, other = (
            hsv(rng.uniform(0.01, 0.06), rng.uniform(0.1, 0.6), rng.uniform(0.5, 0.85)),
            hsv(0.1, 0.08, 0.75),
        )
    elif 0.78 < style < 0.84:
        texture, scale, other = "panels", rng.uniform(0.3, 0.6), shaded(colour, 0.75)
    return Material(colour, other, texture, scale, 0.02, phase=rng.random())


def tiled_wall(rng: Random) -> Material:
    colour = hsv(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.7, 0.95))
    return Material(colour, shaded(colour, 0.6), "tiles", rng.uniform(0.12, 0.3), 0.4, phase=rng.random())


def floor(rng: Random) -> Material:
    style = rng.random()
    if style < 0.5:
        base = wood(rng)
        return replace(base, texture="planks", scale=rng.uniform(0.09, 0.2), gloss=rng.uniform(0.1, 0.4))
    if style < 0.7:
        colour = hsv(rng.uniform(0.02, 0.15), rng.uniform(0, 0.35), rng.uniform(0.45, 0.9))
        texture, scale = rng.choice([("tiles", 0.4), ("hexagons", 0.25), ("marble", 1.0), ("terrazzo", 0.08)])
        return Material(
            colour, shaded(colour, 0.62), texture, scale * rng.uniform(0.7, 1.4), 0.35, phase=rng.random()
        )
    if style < 0.78:
        light, dark = hsv(0.1, 0.1, rng.uniform(0.75, 0.92)), hsv(rng.random(), rng.uniform(0.1, 0.6), 0.4)
        return Material(light, dark, "checks", rng.uniform(0.3, 0.8), 0.35, phase=rng.random())
    colour = hsv(rng.random(), rng.uniform(0.05, 0.4), rng.uniform(0.35, 0.75))
    return Material(colour, shaded(colour, 0.7), "carpet", rng.uniform(0.05, 0.12), 0.0, phase=rng.random())


def rug(rng: Random) -> Material:
    texture = rng.choice(
        ["ornament", "ornament", "ornament", "stripes", "zigzag", "plaid", "checks", "carpet", "dots"]
    )
    colour, other = any_colour(rng, low=0.25, high=0.8), any_colour(rng, low=0.3)
    return Material(colour, other, texture, rng.uniform(0.12, 0.35), 0.0, phase=rng.random())


def leaf(rng: Random) -> Material:
    colour = hsv(rng.uniform(0.22, 0.38), rng.uniform(0.45, 0.8), rng.uniform(0.35, 0.7))
    return Material(
        colour,
        shaded(colour, rng.uniform(0.3, 0.6)),
        "leaves",
        rng.uniform(0.03, 0.07),
        0.1,
        phase=rng.random(),
    )


def terracotta(rng: Random) -> Material:
    colour = (
        hsv(rng.uniform(0.02, 0.06), 0.6, rng.uniform(0.55, 0.75)) if rng.random() < 0.5 else any_colour(rng)
    )
    return flat(colour, gloss=0.1)


GLASS_DARK = flat(hsv(0.6, 0.2, 0.08), gloss=0.9)
WHITE = grey(0.92, gloss=0.2)
BLACK = grey(0.1, gloss=0.4)
STEEL = grey(0.7, gloss=0.8)
