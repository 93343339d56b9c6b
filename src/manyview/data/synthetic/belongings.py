"""Things about the house: televisions, lamps, plants, bins, boxes, suitcases."""

from __future__ import annotations

import math
from random import Random

from manyview.data.synthetic import materials
from manyview.data.synthetic.materials import Material, hsv
from manyview.data.synthetic.models import MODELS, Model, Top, turned


@MODELS.add("tv")
def tv(rng: Random) -> Model:
    """A television or a monitor on its foot."""
    model = Model("tv")
    width = rng.choice([rng.uniform(0.5, 0.65), rng.uniform(0.9, 1.3)])
    height, lift = width * rng.uniform(0.56, 0.6), 0.07
    case = rng.choice([materials.BLACK, materials.BLACK, materials.grey(0.5)])
    glow = rng.choice([0.0, rng.uniform(0.5, 1.0), rng.uniform(0.5, 1.0)])
    screen = (
        Material(
            materials.any_colour(rng), materials.any_colour(rng), "screen", 1.0, 0.6, glow, rng.uniform(0, 99)
        )
        if glow
        else materials.GLASS_DARK
    )
    model.box((0, 0.0, lift + height / 2), (width, 0.04, height), case)
    model.box((0, -0.019, lift + height / 2 + 0.004), (width - 0.035, 0.008, height - 0.04), screen)
    model.box((0, 0.01, lift / 2), (0.06, 0.03, lift), case)
    model.box((0, 0, 0.008), (width * 0.4, 0.2, 0.016), case)
    return model


@MODELS.add("lamp")
def lamp(rng: Random) -> Model:
    """A floor lamp."""
    model = Model("lamp")
    pole, height = materials.metal(rng), rng.uniform(1.35, 1.7)
    shade = _shade(rng)
    model.rod((0, 0, 0), (0, 0, 0.03), rng.uniform(0.12, 0.16), pole)
    if rng.random() < 0.3:
        for leg in range(3):
            angle = leg * 2 * math.pi / 3
            model.rod((0.24 * math.cos(angle), 0.24 * math.sin(angle), 0), (0, 0, height - 0.2), 0.012, pole)
    else:
        model.rod((0, 0, 0.02), (0, 0, height - 0.15), 0.014, pole)
    radius = rng.uniform(0.17, 0.25)
    model.rod(
        (0, 0, height - rng.uniform(0.25, 0.32)),
        (0, 0, height),
        radius,
        shade,
        end_radius=radius * rng.uniform(0.5, 1.0),
        shadow=False,
    )
    return model


def _shade(rng: Random) -> Material:
    warm = hsv(rng.uniform(0.06, 0.14), rng.uniform(0.1, 0.45), 1.0)
    if rng.random() < 0.2:
        warm = materials.any_colour(rng, low=0.7)
    return Material(warm, warm, glow=rng.choice([0.0, 0.7, 1.0]))


@MODELS.add("table lamp")
def table_lamp(rng: Random) -> Model:
    model = Model("lamp")
    foot, height = materials.ceramic(rng), rng.uniform(0.32, 0.48)
    style = rng.random()
    if style < 0.5:
        model.ball((0, 0, height * 0.28), (height * 0.42, height * 0.42, height * 0.5), foot)
        model.rod((0, 0, 0), (0, 0, 0.03), height * 0.16, foot)
    else:
        model.rod((0, 0, 0), (0, 0, 0.02), height * 0.2, foot)
    model.rod((0, 0, 0), (0, 0, height * 0.65), 0.01, materials.STEEL)
    model.rod(
        (0, 0, height * 0.55),
        (0, 0, height),
        height * 0.36,
        _shade(rng),
        end_radius=height * rng.uniform(0.18, 0.36),
        shadow=False,
    )
    return model


@MODELS.add("plant")
def plant(rng: Random) -> Model:
    """A potted plant: a bush, a small tree, or long leaves."""
    return _plant(rng, rng.uniform(0.7, 1.5))


@MODELS.add("small plant")
def small_plant(rng: Random) -> Model:
    return _plant(rng, rng.uniform(0.22, 0.4))


def _plant(rng: Random, height: float) -> Model:
    model = Model("plant")
    pot, leaves = materials.terracotta(rng), materials.leaf(rng)
    base = height * rng.uniform(0.24, 0.34)
    radius = base * rng.uniform(0.45, 0.6)
    model.rod((0, 0, 0), (0, 0, base), radius * 0.72, pot, end_radius=radius)
    model.rod((0, 0, base - 0.01), (0, 0, base + 0.004), radius * 0.9, materials.flat(hsv(0.07, 0.5, 0.25)))
    style = rng.choice(["bush", "tree", "blades"])
    if style == "blades":
        for index in range(rng.randint(9, 14)):
            angle, lean = index * 2.4, rng.uniform(0.1, 0.75)
            length = (height - base) * rng.uniform(0.7, 1.1)
            x, y = math.cos(angle) * math.sin(lean), math.sin(angle) * math.sin(lean)
            middle = (x * length / 2, y * length / 2, base + math.cos(lean) * length / 2)
            turn = turned(y=lean, z=angle)
            model.ball(middle, (0.02 + 0.01 * height, 0.07 * height + 0.02, length), leaves, turn=turn)
        return model
    trunk = (height - base) * (0.5 if style == "tree" else 0.2)
    model.rod(
        (0, 0, base),
        (0, 0, base + trunk + 0.1 * height),
        0.018 * (0.5 + height),
        materials.flat(hsv(0.07, 0.5, 0.35)),
    )
    crown = height - base - trunk
    for index in range(rng.randint(6, 10)):
        angle, out = index * 2.4, rng.uniform(0.15, 0.5) * crown
        size = crown * rng.uniform(0.4, 0.75)
        z = base + trunk + crown * rng.uniform(0.25, 0.8)
        model.ball(
            (math.cos(angle) * out, math.sin(angle) * out, z),
            (size, size, size * rng.uniform(0.6, 0.9)),
            leaves,
        )
    return model


@MODELS.add("bin")
def bin_(rng: Random) -> Model:
    model = Model("bin")
    body = materials.plastic(rng) if rng.random() < 0.6 else materials.metal(rng)
    height, radius = rng.uniform(0.28, 0.55), rng.uniform(0.13, 0.19)
    model.rod((0, 0, 0), (0, 0, height), radius * 0.78, body, end_radius=radius)
    if rng.random() < 0.5:
        model.rod((0, 0, height - 0.001), (0, 0, height + 0.003), radius * 0.9, materials.grey(0.05, gloss=0))
        for _ in range(rng.randint(0, 3)):
            size = rng.uniform(0.07, 0.12)
            model.ball(
                (rng.uniform(-0.5, 0.5) * radius, rng.uniform(-0.5, 0.5) * radius, height),
                (size, size, size * 0.7),
                materials.WHITE,
            )
    else:
        model.ball((0, 0, height), (radius * 2, radius * 2, radius * 0.7), body.plain(0.8))
        model.box((0, -radius * 0.85, 0.03), (0.07, 0.08, 0.02), materials.BLACK)
    model.rod((0, 0, height - 0.03), (0, 0, height - 0.005), radius * 1.03, body.plain(0.6))
    return model


@MODELS.add("box")
def box(rng: Random) -> Model:
    """A cardboard box with tape, or two, one on the other; some are open."""
    model = Model("box")
    z, size = 0.0, rng.uniform(0.28, 0.55)
    for _ in range(rng.choice([1, 1, 2])):
        width, depth, height = (
            size * rng.uniform(0.8, 1.2),
            size * rng.uniform(0.7, 1.0),
            size * rng.uniform(0.5, 0.9),
        )
        card = materials.flat(
            hsv(rng.uniform(0.07, 0.1), rng.uniform(0.4, 0.55), rng.uniform(0.6, 0.8)), gloss=0.0
        )
        tape = materials.flat(hsv(0.1, 0.25, rng.uniform(0.75, 0.9)), gloss=0.4)
        model.box((0, 0, z + height / 2), (width, depth, height), card)
        model.box((0, 0, z + height / 2 + 0.001), (0.05, depth + 0.004, height + 0.004), tape)
        model.box(
            (width * 0.28, -depth / 2, z + height * 0.6),
            (width * 0.25, 0.004, height * 0.25),
            materials.WHITE,
        )
        z, size = z + height + 0.003, size * rng.uniform(0.6, 0.85)
    if rng.random() < 0.35:
        for side in (-1, 1):
            model.box(
                (side * (width / 2 + 0.05), 0, z + 0.03),
                (0.14, depth, 0.008),
                card,
                turn=turned(y=side * 0.5),
            )
        model.box((0, 0, z), (width - 0.02, depth - 0.02, 0.004), materials.flat(hsv(0.08, 0.5, 0.25)))
    else:
        model.tops.append(Top(0, 0, z, width * 0.7, depth * 0.7))
    return model


@MODELS.add("suitcase")
def suitcase(rng: Random) -> Model:
    model = Model("suitcase")
    shell = materials.plastic(rng)
    width, depth, height = rng.uniform(0.4, 0.5), rng.uniform(0.22, 0.28), rng.uniform(0.55, 0.75)
    model.box((0, 0, height / 2 + 0.04), (width, depth, height), shell)
    for rib in range(5):
        x = (rib - 2) * width / 5.5
        model.box((x, 0, height / 2 + 0.04), (0.025, depth + 0.02, height - 0.06), shell.plain(0.75))
    model.box((0, 0, height / 2 + 0.04), (width + 0.012, 0.02, height + 0.012), materials.BLACK)
    for side in (-1, 1):
        for end in (-1, 1):
            model.rod(
                (side * width * 0.4, end * depth * 0.3 - 0.012, 0.025),
                (side * width * 0.4, end * depth * 0.3 + 0.012, 0.025),
                0.025,
                materials.BLACK,
            )
        model.rod(
            (side * width * 0.22, depth * 0.3, height),
            (side * width * 0.22, depth * 0.3, height + 0.3),
            0.008,
            materials.STEEL,
        )
    model.rod(
        (-width * 0.24, depth * 0.3, height + 0.3),
        (width * 0.24, depth * 0.3, height + 0.3),
        0.014,
        materials.BLACK,
    )
    return model
