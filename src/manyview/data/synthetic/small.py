"""Things that stand on other things: crockery, bottles, books, balls, fruit, laptops."""

from __future__ import annotations

import itertools
import math
from random import Random

from manyview.data.synthetic import materials
from manyview.data.synthetic.materials import Material, hsv
from manyview.data.synthetic.models import MODELS, Model, turned


def _ring_handle(
    model: Model, material: Material, x: float, z: float, reach: float, height: float, thickness: float
) -> None:
    """A cup's handle: three rods from (x, z) outwards along x and back."""
    low, high = z - height / 2, z + height / 2
    model.rod((x, 0, high), (x + reach, 0, high - height * 0.12), thickness, material)
    model.rod(
        (x + reach, 0, high - height * 0.12), (x + reach * 0.9, 0, low + height * 0.25), thickness, material
    )
    model.rod((x + reach * 0.9, 0, low + height * 0.25), (x, 0, low), thickness, material)


@MODELS.add("mug")
def mug(rng: Random) -> Model:
    model = Model("mug")
    body = materials.ceramic(rng)
    height, radius = rng.uniform(0.085, 0.12), rng.uniform(0.038, 0.052)
    foot = radius * rng.uniform(0.75, 1.0)
    model.rod((0, 0, 0), (0, 0, height), foot, body, end_radius=radius)
    drink = rng.choice([hsv(0.06, 0.8, 0.25), hsv(0.05, 0.7, 0.12), hsv(0.1, 0.2, 0.85), hsv(0.08, 0.8, 0.5)])
    model.rod(
        (0, 0, height - 0.001), (0, 0, height + 0.0015), radius * 0.88, materials.flat(drink, gloss=0.5)
    )
    _ring_handle(
        model, body.plain(), (foot + radius) / 2 - 0.003, height * 0.52, radius * 0.75, height * 0.62, 0.0065
    )
    return model


@MODELS.add("bottle")
def bottle(rng: Random) -> Model:
    model = Model("bottle")
    glass = materials.flat(
        hsv(
            rng.choice([0.3, 0.35, 0.08, 0.55, 0.0, rng.random()]),
            rng.uniform(0.4, 0.9),
            rng.uniform(0.2, 0.7),
        ),
        gloss=0.9,
    )
    height, radius = rng.uniform(0.22, 0.33), rng.uniform(0.032, 0.045)
    shoulder, neck = height * rng.uniform(0.5, 0.65), radius * rng.uniform(0.32, 0.45)
    collar = shoulder + (height - shoulder) * rng.uniform(0.35, 0.55)
    model.rod((0, 0, 0), (0, 0, shoulder), radius, glass)
    model.rod((0, 0, shoulder), (0, 0, collar), radius, glass, end_radius=neck)
    model.rod((0, 0, collar), (0, 0, height), neck, glass)
    model.rod((0, 0, height - 0.022), (0, 0, height + 0.004), neck * 1.25, materials.plastic(rng))
    if rng.random() < 0.85:
        label = Material(
            hsv(0.1, rng.uniform(0, 0.2), 0.92),
            materials.any_colour(rng),
            "label",
            0.05,
            0.1,
            phase=rng.uniform(0, 99),
        )
        low = shoulder * rng.uniform(0.15, 0.3)
        model.rod((0, 0, low), (0, 0, shoulder * 0.82), radius * 1.012, label)
    return model


@MODELS.add("bowl")
def bowl(rng: Random) -> Model:
    """A bowl, empty or with fruit (labelled as fruit)."""
    model = Model("bowl")
    body = materials.ceramic(rng)
    radius = rng.uniform(0.075, 0.14)
    height = radius * rng.uniform(0.5, 0.75)
    model.rod((0, 0, 0), (0, 0, height * 0.12), radius * 0.45, body)
    model.rod((0, 0, height * 0.1), (0, 0, height * 0.55), radius * 0.5, body, end_radius=radius * 0.85)
    model.rod((0, 0, height * 0.55), (0, 0, height), radius * 0.85, body, end_radius=radius)
    inside = materials.flat(materials.shaded(body.a, 0.55), gloss=0.3)
    model.rod((0, 0, height - 0.001), (0, 0, height + 0.001), radius * 0.93, inside)
    if radius > 0.1 and rng.random() < 0.45:
        for index in range(rng.randint(2, 4)):
            size = radius * rng.uniform(0.55, 0.75)
            angle, out = index * 2.1 + 0.3, radius * 0.42
            model.ball(
                (out * math.cos(angle), out * math.sin(angle), height + size * 0.25),
                (size, size, size),
                _peel(rng),
                label="fruit",
            )
    return model


def _peel(rng: Random) -> Material:
    hue, saturation, value = rng.choice(
        [(0.99, 0.85, 0.75), (0.08, 0.9, 0.95), (0.25, 0.75, 0.7), (0.14, 0.85, 0.95), (0.04, 0.7, 0.9)]
    )
    colour = hsv(hue + rng.uniform(-0.02, 0.02), saturation, value)
    return Material(
        colour, hsv(hue + 0.07, saturation * 0.9, value), "marble", 0.12, 0.35, phase=rng.random()
    )


@MODELS.add("fruit")
def fruit(rng: Random) -> Model:
    """An apple, an orange, a pear or bananas; often two or three together."""
    model = Model("fruit")
    if rng.random() < 0.25:
        peel = Material(hsv(0.14, 0.85, 0.95), hsv(0.12, 0.8, 0.6), "marble", 0.3, 0.2, phase=rng.random())
        for index in range(rng.randint(1, 3)):
            y, bend = index * 0.033 - 0.03, 0.02 + 0.008 * index
            points = [
                (-0.085, y + bend * 1.5, 0.03),
                (-0.045, y, 0.02),
                (0.045, y, 0.02),
                (0.085, y + bend * 1.5, 0.03),
            ]
            for (start, end), (r0, r1) in zip(
                itertools.pairwise(points), ((0.008, 0.018), (0.018, 0.018), (0.018, 0.007))
            ):
                model.rod(start, end, r0, peel, end_radius=r1)
            for joint in points[1:3]:
                model.ball(joint, (0.036, 0.036, 0.036), peel)
        return model
    stalk, peel = materials.flat(hsv(0.08, 0.6, 0.25)), _peel(rng)
    pear = rng.random() < 0.25
    for index in range(rng.choice([1, 2, 3])):
        size = rng.uniform(0.065, 0.09)
        x, y = (0.0, 0.0) if index == 0 else (0.095 * math.cos(index * 1.1), 0.095 * math.sin(index * 1.1))
        model.ball((x, y, size * 0.46), (size, size, size * 0.92), peel)
        top = size * 0.9
        if pear:
            model.ball((x, y, size * 0.95), (size * 0.6, size * 0.6, size * 0.8), peel)
            top = size * 1.3
        model.rod((x, y, top - 0.01), (x + 0.006, y, top + 0.016), 0.0028, stalk)
    return model


@MODELS.add("can")
def can(rng: Random) -> Model:
    model = Model("can")
    height, radius = rng.uniform(0.1, 0.15), rng.uniform(0.033, 0.05)
    label = Material(
        materials.any_colour(rng, low=0.5),
        materials.any_colour(rng, low=0.6),
        "label",
        0.05,
        0.5,
        phase=rng.uniform(0, 99),
    )
    model.rod((0, 0, 0.005), (0, 0, height - 0.005), radius, label)
    for low, high in ((0, 0.008), (height - 0.008, height)):
        model.rod((0, 0, low), (0, 0, high), radius * 1.03, materials.STEEL)
    model.rod((0, 0, height - 0.001), (0, 0, height + 0.001), radius * 0.88, materials.grey(0.55, gloss=0.8))
    return model


@MODELS.add("teapot")
def teapot(rng: Random) -> Model:
    model = Model("teapot")
    body = materials.ceramic(rng) if rng.random() < 0.7 else materials.metal(rng)
    size, squat = rng.uniform(0.14, 0.19), rng.uniform(0.75, 0.95)
    height = size * squat
    model.rod((0, 0, 0), (0, 0, height * 0.15), size * 0.3, body)
    model.ball((0, 0, height * 0.5), (size, size, height * 0.95), body)
    model.ball((0, 0, height * 0.92), (size * 0.55, size * 0.55, height * 0.22), body.plain(0.9))
    model.ball((0, 0, height * 1.07), (size * 0.15, size * 0.15, size * 0.15), body.plain(0.7))
    model.rod(
        (-size * 0.4, 0, height * 0.4),
        (-size * 0.82, 0, height * 0.92),
        size * 0.11,
        body.plain(),
        end_radius=size * 0.05,
    )
    _ring_handle(model, body.plain(), size * 0.42, height * 0.52, size * 0.38, height * 0.62, size * 0.045)
    return model


@MODELS.add("vase")
def vase(rng: Random) -> Model:
    """A vase of two cones or a ball with a neck, most with flowers."""
    model = Model("vase")
    body = materials.ceramic(rng)
    height, radius = rng.uniform(0.16, 0.32), rng.uniform(0.045, 0.08)
    style = rng.random()
    if style < 0.4:
        model.rod((0, 0, 0), (0, 0, height * 0.6), radius * 0.6, body, end_radius=radius)
        model.rod((0, 0, height * 0.6), (0, 0, height), radius, body, end_radius=radius * 0.5)
    elif style < 0.75:
        model.ball((0, 0, height * 0.4), (radius * 2, radius * 2, height * 0.8), body)
        model.rod((0, 0, 0), (0, 0, height * 0.1), radius * 0.6, body)
        model.rod((0, 0, height * 0.65), (0, 0, height), radius * 0.4, body, end_radius=radius * 0.55)
    else:
        model.rod((0, 0, 0), (0, 0, height), radius * 0.55, body, end_radius=radius * 0.85)
    if rng.random() < 0.7:
        petals, stem = materials.plastic(rng).plain(), materials.flat(hsv(0.3, 0.6, 0.4))
        for index in range(rng.randint(3, 6)):
            angle, lean, long = index * 2.4, rng.uniform(0.05, 0.45), rng.uniform(0.5, 0.9) * height + 0.05
            x, y = math.cos(angle) * math.sin(lean) * long, math.sin(angle) * math.sin(lean) * long
            z = height + math.cos(lean) * long
            model.rod((0, 0, height * 0.9), (x, y, z), 0.003, stem)
            size = rng.uniform(0.035, 0.06)
            model.ball((x, y, z), (size, size, size * 0.6), petals)
            model.ball(
                (x, y, z + size * 0.2),
                (size * 0.4, size * 0.4, size * 0.4),
                materials.flat(hsv(0.13, 0.8, 0.9)),
            )
    return model


@MODELS.add("ball")
def ball(rng: Random) -> Model:
    return _ball(rng, rng.uniform(0.06, 0.12))


@MODELS.add("big ball")
def big_ball(rng: Random) -> Model:
    return _ball(rng, rng.uniform(0.2, 0.55))


def _ball(rng: Random, size: float) -> Model:
    model = Model("ball")
    skin = Material(
        materials.any_colour(rng, low=0.6),
        materials.any_colour(rng, low=0.5),
        rng.choice(["patches", "patches", "stripes", "checks"]),
        size * 0.5,
        0.4,
        phase=rng.random(),
    )
    model.ball(
        (0, 0, size / 2),
        (size, size, size),
        skin,
        turn=turned(rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(-3, 3)),
    )
    return model


@MODELS.add("book")
def book(rng: Random) -> Model:
    """A book or a small pile of them, lying flat."""
    model = Model("book")
    z = 0.0
    for _ in range(rng.choice([1, 1, 2, 3, 4])):
        width, depth, height = rng.uniform(0.13, 0.2), rng.uniform(0.19, 0.27), rng.uniform(0.015, 0.045)
        cover = materials.picture(rng) if rng.random() < 0.5 else materials.plastic(rng)
        turn = turned(z=rng.uniform(-0.25, 0.25))
        model.box(
            (0, 0, z + height / 2), (width - 0.01, depth - 0.012, height - 0.004), materials.WHITE, turn=turn
        )
        side = turn @ (-width / 2 + 0.003, 0, 0)
        model.box((0, 0, z + 0.002), (width, depth, 0.004), cover.plain(), turn=turn)
        model.box((0, 0, z + height - 0.002), (width, depth, 0.004), cover, turn=turn)
        model.box((side[0], side[1], z + height / 2), (0.006, depth, height), cover.plain(), turn=turn)
        z += height + 0.0005
    return model


@MODELS.add("laptop")
def laptop(rng: Random) -> Model:
    model = Model("laptop")
    case = rng.choice([materials.STEEL, materials.BLACK, materials.WHITE, materials.grey(0.4)])
    width = rng.uniform(0.3, 0.37)
    depth, lean = width * 0.68, rng.uniform(0.15, 0.5)
    keys = Material(hsv(0, 0, 0.12), case.a, "keyboard", 0.019, 0.1)
    model.box((0, 0, 0.009), (width, depth, 0.018), case)
    model.box((0, depth * 0.12, 0.0185), (width * 0.9, depth * 0.5, 0.002), keys)
    model.box((0, -depth * 0.32, 0.0185), (width * 0.3, depth * 0.22, 0.002), case.plain(0.7))
    y, z = depth / 2 + math.sin(lean) * depth / 2, 0.018 + math.cos(lean) * depth / 2
    turn = turned(x=-lean)
    screen = Material(
        materials.any_colour(rng),
        materials.any_colour(rng),
        "screen",
        1.0,
        0.5,
        rng.choice([0.6, 0.9]),
        rng.uniform(0, 99),
    )
    model.box((0, y, z), (width, 0.009, depth), case, turn=turn)
    offset = turn @ (0, -0.005, 0)
    model.box(
        (offset[0], y + offset[1], z + offset[2]), (width * 0.94, 0.003, depth * 0.9), screen, turn=turn
    )
    return model


@MODELS.add("pillow")
def pillow(rng: Random) -> Model:
    """A cushion leaning backwards."""
    model = Model("pillow")
    size = rng.uniform(0.36, 0.46)
    model.ball(
        (0, 0, size * 0.42),
        (size, size * 0.42, size * 0.85),
        materials.fabric(rng),
        turn=turned(x=-rng.uniform(0.15, 0.5)),
    )
    return model


@MODELS.add("clock")
def clock(rng: Random) -> Model:
    """An alarm clock on two feet."""
    model = Model("clock")
    radius = rng.uniform(0.05, 0.085)
    case, z = materials.plastic(rng), radius * 1.15
    _clock_face(model, rng, case, radius, z)
    for side in (-1, 1):
        model.rod(
            (side * radius * 0.7, 0, 0),
            (side * radius * 0.45, 0, radius * 0.5),
            radius * 0.09,
            materials.STEEL,
        )
        model.ball(
            (side * radius * 0.55, 0, z + radius * 0.95),
            (radius * 0.6, radius * 0.45, radius * 0.45),
            materials.STEEL,
        )
    return model


@MODELS.add("wall clock")
def wall_clock(rng: Random) -> Model:
    """A round clock for a wall, its back at y = 0."""
    model = Model("clock")
    radius = rng.uniform(0.14, 0.24)
    _clock_face(
        model,
        rng,
        rng.choice([materials.BLACK, materials.STEEL, materials.wood(rng), materials.plastic(rng)]),
        radius,
        0.0,
    )
    return model


def _clock_face(model: Model, rng: Random, case: Material, radius: float, z: float) -> None:
    """A disc facing -y: case, dial, two hands."""
    depth = radius * 0.25 + 0.015
    dial = Material(hsv(0.1, rng.uniform(0, 0.15), 0.95), hsv(0, 0, 0.1), "clock", radius, 0.2)
    model.rod((0, 0, z), (0, -depth, z), radius, case)
    model.rod((0, -depth + 0.001, z), (0, -depth - 0.002, z), radius * 0.88, dial)
    for length, wide, angle in ((0.5, 0.055, rng.uniform(0, 6.28)), (0.75, 0.035, rng.uniform(0, 6.28))):
        tip = (math.sin(angle) * radius * length, -depth - 0.004, z + math.cos(angle) * radius * length)
        model.rod((0, -depth - 0.004, z), tip, radius * wide, materials.BLACK)
