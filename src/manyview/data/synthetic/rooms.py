"""The room itself, drawn from a seed: its faces, doors, windows and light; and places in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from manyview.data.synthetic.formulas import WORDS, draw
from manyview.data.synthetic.materials import hsv
from manyview.data.synthetic.models import Model, build
from manyview.data.synthetic.world import Block, Corner, Lighting, Placed, Window, World

WALLS = ("west", "east", "south", "north")


def shell(rng: Random, kind: str) -> World:
    """An empty room: its faces, skirting boards, and perhaps a corner that is walled off."""
    size = (rng.uniform(3.0, 6.5), rng.uniform(2.9, 5.5), rng.uniform(2.35, 3.1))
    main = draw("tiled_wall" if rng.random() < 0.08 else "painted_wall", rng)
    walls = [main] * 4
    if rng.random() < 0.35:
        walls[rng.randrange(4)] = draw("painted_wall", rng)
    ceiling = draw("ceiling", rng)
    world = World(size, [*walls, draw("floor", rng), ceiling], kind)
    if rng.random() < 0.75:
        trim = WORDS["white"] if rng.random() < 0.7 else draw("wood", rng)
        for wall in WALLS:
            at, yaw, length = wall_frame(world, wall)
            board = build("skirting", rng, length=length, material=trim)
            world.put(board, at(length / 2, 0.0), yaw, block=False)
    if rng.random() < 0.2:
        width, depth = rng.uniform(0.4, 0.3 * size[0]), rng.uniform(0.4, 0.3 * size[1])
        x = rng.choice([width / 2, size[0] - width / 2])
        y = rng.choice([depth / 2, size[1] - depth / 2])
        corner = build("walled_corner", rng, width=width, depth=depth, height=size[2], material=main)
        world.put(corner, (x, y, 0.0))
    return world


def wall_frame(world: World, wall: str) -> tuple[Callable[[float, float], Corner], float, float]:
    """Of a wall: (along, z) -> position on it, the yaw of things with their back to it, and its length."""
    width, depth, _ = world.size
    if wall == "north":
        return (lambda along, z: (along, depth, z)), 0.0, width
    if wall == "south":
        return (lambda along, z: (along, 0.0, z)), math.pi, width
    if wall == "east":
        return (lambda along, z: (width, along, z)), -math.pi / 2, depth
    return (lambda along, z: (0.0, along, z)), math.pi / 2, depth


def against_wall(
    world: World, rng: Random, model: Model, *, z: float = 0.0, gap: float = 0.03, walls: tuple[str, ...] = WALLS
) -> Placed | None:
    """Put a model with its back to a wall where there is room, or give up after some attempts."""
    low, high = model.bounds
    for _ in range(14):
        wall = rng.choice(walls)
        at, yaw, length = wall_frame(world, wall)
        half = max(-low[0], high[0]) + 0.02
        if length <= 2 * half:
            continue
        x, y, height = at(rng.uniform(half, length - half), z)
        back = high[1] + gap
        position = (x + math.sin(yaw) * back, y - math.cos(yaw) * back, height)
        placed = world.try_put(model, position, yaw)
        if placed:
            return placed
    return None


def in_the_open(world: World, rng: Random, model: Model) -> Placed | None:
    """Put a model anywhere on the floor, or give up after some attempts."""
    for _ in range(14):
        yaw = rng.uniform(-math.pi, math.pi)
        at = (rng.uniform(0.3, world.size[0] - 0.3), rng.uniform(0.3, world.size[1] - 0.3), 0.0)
        placed = world.try_put(model, at, yaw, margin=0.05)
        if placed:
            return placed
    return None


def doors_and_windows(world: World, rng: Random) -> None:
    order = list(WALLS)
    rng.shuffle(order)
    if rng.random() < 0.85:
        door = against_wall(world, rng, build("door", rng), gap=0.0, walls=(order[0],))
        if door:  # nothing stands within 75 cm of it
            x, y = (0.75 * round(way) for way in door.ahead)
            low = (door.low[0] + min(x, 0), door.low[1] + min(y, 0), 0.0)
            world.blocks.append(Block(low, (door.high[0] + max(x, 0), door.high[1] + max(y, 0), 2.0), solid=False))
    for wall in order[1 : 1 + rng.choice([0, 1, 1, 1, 2])]:
        _window(world, rng, wall)


def _window(world: World, rng: Random, wall: str) -> None:
    at, yaw, length = wall_frame(world, wall)
    width = min(rng.uniform(0.8, 2.2), length - 1.0)
    sill = rng.choice([0.85, 0.9, 1.0, 0.1])
    height = min(world.size[2] - 0.25, 2.25) - sill
    along = rng.uniform(width / 2 + 0.3, length - width / 2 - 0.3)
    model = build("window", rng, width=width, height=height, glow=rng.uniform(0.9, 1.6))
    low, high = world.bounds_at(model, at(along, sill), yaw)
    if not world.free(low, high):
        return
    world.put(model, at(along, sill), yaw, solid=False)
    inwards = (math.sin(yaw), -math.cos(yaw), 0.0)
    world.windows.append(Window(at(along, sill + height / 2), inwards, width, height))
    if rng.random() < 0.65:
        bottom = 0.03 if rng.random() < 0.6 else sill - 0.12
        curtain = build("curtain", rng, width=width, height=sill + height + 0.08 - bottom)
        world.put(curtain, at(along, bottom), yaw)
    if sill > 0.6 and rng.random() < 0.6:
        radiator = build("radiator", rng, width=min(width, rng.uniform(0.7, 1.4)))
        world.put(radiator, at(along, 0.0), yaw)


def light(world: World, rng: Random) -> None:
    """The lamp under the ceiling, daylight, and how the camera sees it."""
    lamp = (world.size[0] * rng.uniform(0.4, 0.6), world.size[1] * rng.uniform(0.4, 0.6))
    drop = rng.choice([0.05, 0.05, rng.uniform(0.35, 0.7)])
    drop = drop if world.size[2] - drop > 2.0 else 0.05
    world.put(build("hanging_lamp", rng, drop=drop), (*lamp, world.size[2]), 0.0, block=True)
    window = rng.choice(world.windows) if world.windows else None
    day = rng.random() if window else 0.0
    strength = rng.uniform(0.7, 1.3) if day < 0.6 else rng.uniform(0.15, 0.5)
    warm = hsv(rng.uniform(0.07, 0.13), rng.uniform(0.03, 0.3), 1.0)
    sky = hsv(rng.uniform(0.52, 0.62), rng.uniform(0.0, 0.16), 1.0)
    power = rng.uniform(1.0, 2.4) * day if window else 0.0
    sun = None
    if window and rng.random() < 0.55:
        inwards, aside, fall = window.inwards, rng.uniform(-0.9, 0.9), rng.uniform(0.45, 1.3)
        sun = (inwards[0] + aside * inwards[1], inwards[1] - aside * inwards[0], -fall)
    world.lighting = Lighting(
        lamp=(*lamp, world.size[2] - max(drop, 0.12)),
        lamp_colour=[channel * strength for channel in warm],
        window=window,
        window_colour=[channel * power for channel in sky],
        sun=sun,
        ambient=[0.5 * (1 + rng.uniform(-0.06, 0.06)) for _ in range(3)],
        exposure=rng.uniform(0.46, 0.62),
        warmth=rng.uniform(-0.06, 0.06),
        contrast=rng.uniform(0.9, 1.15),
    )
