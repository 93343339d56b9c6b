"""Worlds beyond rooms: closed spaces full of things of any size and attitude, and open air with things on the ground.

Nothing in them has a name that means something; they are there so that a network which relates views meets more than
furniture. What they hold is written in catalogue/worlds.yaml.
"""

from __future__ import annotations

from random import Random

from manyview.data.synthetic.formulas import draw
from manyview.data.synthetic.materials import hsv, plain
from manyview.data.synthetic.models import build as make
from manyview.data.synthetic.world import Block, Lighting, World

KINDS = ("abstract", "outdoors")
AROUND = 9.0  # metres from the place where cameras go to the ends of an open world


def build(seed: int, kind: str) -> World:
    """The world of a seed: `kind` is "abstract" or "outdoors"."""
    rng = Random(f"manyview world {seed}")
    return _abstract(rng) if kind == "abstract" else _outdoors(rng)


def _abstract(rng: Random) -> World:
    size = (rng.uniform(3.5, 8.0), rng.uniform(3.5, 8.0), rng.uniform(2.5, 4.5))
    faces = [draw("anything", rng) for _ in range(6)] if rng.random() < 0.6 else [draw("anything", rng)] * 6
    world = World(size, faces, "abstract")
    _fill(world, rng, "clutter", (size[0], size[1], 0.85 * size[2]), rng.randint(18, 45))
    top = (size[0] * rng.uniform(0.2, 0.8), size[1] * rng.uniform(0.2, 0.8), size[2] - rng.uniform(0.1, 0.4))
    _light(world, rng, top, strength=rng.uniform(0.4, 1.6), ambient=rng.uniform(0.35, 1.0))
    return world


def _outdoors(rng: Random) -> World:
    wide, deep = rng.uniform(3.0, 7.0), rng.uniform(3.0, 7.0)
    size = (wide + 2 * AROUND, deep + 2 * AROUND, rng.uniform(7.0, 12.0))
    horizon = draw("horizon", rng)
    sky = plain(horizon)
    ground = draw("anything" if rng.random() < 0.5 else "floor", rng)
    world = World(size, [horizon] * 4 + [ground, sky], "outdoors")
    world.stage = ((AROUND, AROUND, 0.0), (AROUND + wide, AROUND + deep, 3.0))
    _fill(world, rng, "open_air", (size[0] * 0.9, size[1] * 0.9, size[2]), rng.randint(22, 48))
    lamp = (size[0] * rng.uniform(0.3, 0.7), size[1] * rng.uniform(0.3, 0.7), size[2] - 0.5)
    _light(world, rng, lamp, strength=rng.uniform(3, 14), ambient=rng.uniform(0.6, 1.1))
    return world


def _fill(world: World, rng: Random, name: str, size: tuple[float, float, float], count: int) -> None:
    """Put a model of the catalogue in the middle; cameras keep out of each of its parts and look at some of them."""
    width, depth, height = size
    model = make(name, rng, width=width, depth=depth, height=height, count=count)
    at = (world.size[0] / 2, world.size[1] / 2, 0.0)
    world.put(model, at, block=False)
    (left, front, _), (right, back, _) = world.reach
    for part in model.parts:
        half = abs(part.matrix[:, :3]).sum(1)
        middle = part.matrix[:, 3] + at
        low, high = (middle - half).tolist(), (middle + half).tolist()
        world.blocks.append(Block(tuple(low), tuple(high)))  # type: ignore[arg-type]
        if left < middle[0] < right and front < middle[1] < back:
            world.focus.append(tuple(middle.tolist()))  # type: ignore[arg-type]


def _light(world: World, rng: Random, lamp: tuple[float, float, float], *, strength: float, ambient: float) -> None:
    colour = hsv(rng.uniform(0.05, 0.6), rng.uniform(0.0, 0.3), 1.0)
    world.lighting = Lighting(
        lamp=lamp,
        lamp_colour=[channel * strength for channel in colour],
        window=None,
        window_colour=(0.0, 0.0, 0.0),
        sun=None,
        ambient=[ambient * (1 + rng.uniform(-0.1, 0.1)) for _ in range(3)],
        exposure=rng.uniform(0.42, 0.66),
        warmth=rng.uniform(-0.1, 0.1),
        contrast=rng.uniform(0.85, 1.2),
    )
