"""Things to sit, lie and eat at: chairs, stools, sofas, beds, tables."""

from __future__ import annotations

import math
from random import Random

from manyview.data.synthetic import materials
from manyview.data.synthetic.materials import Material
from manyview.data.synthetic.models import MODELS, Model, Top, turned


def _legs(
    model: Model,
    width: float,
    depth: float,
    height: float,
    thickness: float,
    material: Material,
    *,
    splay: float = 0.0,
    square: bool = True,
) -> None:
    """Four legs under a rectangle, their feet `splay` metres outside its corners."""
    for side in (-1, 1):
        for end in (-1, 1):
            x, y = side * (width - thickness) / 2, end * (depth - thickness) / 2
            if square and not splay:
                model.box((x, y, height / 2), (thickness, thickness, height), material)
            else:
                foot = (x + side * splay, y + end * splay, 0.0)
                model.rod(foot, (x, y, height), thickness * 0.35, material, end_radius=thickness * 0.55)


@MODELS.add("table")
def table(rng: Random) -> Model:
    """A dining table or desk: rectangular on four legs or two frames, or round on a pedestal or legs."""
    model = Model("table")
    top, frame = materials.furniture(rng), materials.furniture(rng)
    height, thickness = rng.uniform(0.71, 0.77), rng.uniform(0.025, 0.05)
    if rng.random() < 0.25:
        radius = rng.uniform(0.45, 0.65)
        model.rod((0, 0, height - thickness), (0, 0, height), radius, top)
        if rng.random() < 0.5:
            model.rod((0, 0, 0.04), (0, 0, height - thickness), 0.07, frame, end_radius=0.05)
            model.rod((0, 0, 0), (0, 0, 0.05), radius * 0.6, frame, end_radius=radius * 0.4)
        else:
            _legs(model, radius * 1.1, radius * 1.1, height - thickness, 0.06, frame, splay=0.08)
        model.tops.append(Top(0, 0, height, radius * 1.35, radius * 1.35))
        return model
    width, depth = rng.uniform(1.0, 1.8), rng.uniform(0.65, 0.95)
    model.box((0, 0, height - thickness / 2), (width, depth, thickness), top)
    style, under = rng.random(), height - thickness
    if style < 0.6:
        thick, splay = rng.uniform(0.04, 0.08), rng.choice([0, 0, 0.04])
        _legs(model, width - 0.06, depth - 0.06, under, thick, frame, splay=splay)
        for side in (-1, 1):
            model.box((0, side * (depth / 2 - 0.07), under - 0.045), (width - 0.18, 0.022, 0.09), frame)
            model.box((side * (width / 2 - 0.07), 0, under - 0.045), (0.022, depth - 0.18, 0.09), frame)
    elif style < 0.8:
        for side in (-1, 1):
            model.box((side * (width / 2 - 0.1), 0, under / 2), (0.04, depth - 0.12, under), frame)
        model.box((0, depth * 0.3, height * 0.6), (width - 0.24, 0.025, height * 0.4), frame)
    else:
        _desk_legs(model, width, depth, under, frame, rng.choice([-1, 1]))
    model.tops.append(Top(0, 0, height, width - 0.06, depth - 0.06))
    return model


def _desk_legs(model: Model, width: float, depth: float, under: float, frame: Material, side: int) -> None:
    """Three drawers under one end of a desk's top, two legs under the other."""
    x, front = side * (width / 2 - 0.24), -depth / 2
    model.box((x, 0, under / 2), (0.42, depth - 0.1, under), frame)
    for drawer in range(3):
        z = (drawer + 0.5) * under / 3
        model.box((x, front + 0.045, z), (0.38, 0.02, under / 3 - 0.03), frame.plain(0.85))
        model.rod((x - 0.06, front + 0.025, z), (x + 0.06, front + 0.025, z), 0.008, materials.STEEL)
    for end in (-1, 1):
        foot = (-side * (width / 2 - 0.05), end * (depth / 2 - 0.06), under / 2)
        model.box(foot, (0.05, 0.05, under), frame)


@MODELS.add("coffee table")
def coffee_table(rng: Random) -> Model:
    """A low table for in front of a sofa."""
    model = Model("table")
    top, frame = materials.furniture(rng), materials.furniture(rng)
    height, thickness = rng.uniform(0.36, 0.46), rng.uniform(0.025, 0.05)
    width, depth = rng.uniform(0.8, 1.2), rng.uniform(0.45, 0.65)
    if rng.random() < 0.35:
        radius = rng.uniform(0.35, 0.5)
        model.rod((0, 0, height - thickness), (0, 0, height), radius, top)
        for leg in range(3):
            angle = leg * 2 * math.pi / 3 + 0.4
            foot = (0.85 * radius * math.cos(angle), 0.85 * radius * math.sin(angle), 0.0)
            model.rod(
                foot, (foot[0] * 0.6, foot[1] * 0.6, height - thickness), 0.014, frame, end_radius=0.024
            )
        model.tops.append(Top(0, 0, height, radius * 1.35, radius * 1.35))
        return model
    model.box((0, 0, height - thickness / 2), (width, depth, thickness), top)
    _legs(model, width - 0.06, depth - 0.06, height - thickness, 0.05, frame, splay=rng.choice([0, 0.05]))
    if rng.random() < 0.5:
        model.box((0, 0, 0.14), (width - 0.12, depth - 0.12, 0.02), frame)
    model.tops.append(Top(0, 0, height, width - 0.06, depth - 0.06))
    return model


@MODELS.add("chair")
def chair(rng: Random) -> Model:
    if rng.random() < 0.25:
        return _office_chair(rng)
    model = Model("chair")
    frame = materials.furniture(rng)
    seat_material = materials.fabric(rng) if rng.random() < 0.5 else frame
    width, depth, height = rng.uniform(0.4, 0.48), rng.uniform(0.4, 0.46), rng.uniform(0.43, 0.48)
    back = rng.uniform(0.38, 0.55)
    _legs(model, width, depth, height - 0.03, 0.038, frame, splay=rng.choice([0.0, 0.0, 0.04]))
    model.box((0, 0, height), (width, depth, 0.05), seat_material)
    lean = turned(x=-0.14)
    y = depth / 2 - 0.02 + 0.07 * back
    style = rng.choice(["panel", "slats", "rungs"])
    if style == "panel":
        model.box((0, y, height + back / 2 + 0.05), (width, 0.035, back - 0.05), seat_material, turn=lean)
    else:
        for side in (-1, 1):
            model.box(
                (side * (width / 2 - 0.02), y, height + back / 2),
                (0.036, 0.036, back + 0.02),
                frame,
                turn=lean,
            )
        model.box(
            (0, depth / 2 - 0.02 + 0.14 * back, height + back - 0.04),
            (width - 0.03, 0.028, 0.08),
            frame,
            turn=lean,
        )
        if style == "slats":
            for slat in range(3):
                model.box(
                    (width * 0.24 * (slat - 1), y, height + back / 2),
                    (0.03, 0.016, back - 0.06),
                    frame,
                    turn=lean,
                )
        else:
            for rung in range(2):
                z = back * (0.35 + 0.28 * rung)
                model.box(
                    (0, depth / 2 - 0.02 + 0.14 * z, height + z), (width - 0.05, 0.02, 0.05), frame, turn=lean
                )
    if rng.random() < 0.2:
        for side in (-1, 1):
            model.box((side * (width / 2 - 0.02), 0, height + 0.22), (0.04, depth - 0.02, 0.03), frame)
            model.box((side * (width / 2 - 0.02), -depth / 2 + 0.05, height + 0.11), (0.03, 0.03, 0.2), frame)
    return model


def _office_chair(rng: Random) -> Model:
    """A swivel chair on a star of five feet."""
    model = Model("chair")
    cover, frame = materials.fabric(rng), materials.metal(rng)
    height = rng.uniform(0.44, 0.52)
    for foot in range(5):
        angle = foot * 2 * math.pi / 5 + 0.2
        x, y = 0.28 * math.cos(angle), 0.28 * math.sin(angle)
        model.rod((x, y, 0.06), (0, 0, 0.1), 0.018, frame, end_radius=0.026)
        model.ball((x, y, 0.03), (0.06, 0.06, 0.06), materials.BLACK)
    model.rod((0, 0, 0.08), (0, 0, height), 0.028, frame)
    model.box((0, 0, height), (0.48, 0.46, 0.08), cover)
    model.box((0, 0.24, height + 0.36), (0.44, 0.06, rng.uniform(0.42, 0.6)), cover, turn=turned(x=-0.1))
    model.box((0, 0.25, height + 0.08), (0.08, 0.03, 0.22), materials.BLACK)
    if rng.random() < 0.6:
        for side in (-1, 1):
            model.box((side * 0.26, 0.02, height + 0.2), (0.05, 0.28, 0.03), materials.BLACK)
            model.box((side * 0.26, 0.06, height + 0.1), (0.03, 0.04, 0.2), materials.BLACK)
    return model


@MODELS.add("stool")
def stool(rng: Random) -> Model:
    model = Model("stool")
    frame = materials.furniture(rng) if rng.random() < 0.7 else materials.plastic(rng)
    seat = materials.fabric(rng) if rng.random() < 0.4 else frame
    height, radius = rng.choice([rng.uniform(0.42, 0.5), rng.uniform(0.6, 0.75)]), rng.uniform(0.16, 0.21)
    model.rod((0, 0, height - 0.045), (0, 0, height), radius, seat)
    legs = rng.choice([3, 4])
    for leg in range(legs):
        angle = (leg + 0.5) * 2 * math.pi / legs
        x, y = math.cos(angle), math.sin(angle)
        model.rod(
            (x * radius * 1.1, y * radius * 1.1, 0),
            (x * radius * 0.65, y * radius * 0.65, height - 0.045),
            0.017,
            frame,
            end_radius=0.021,
        )
    if height > 0.55:
        model.rod((0, 0, 0.2), (0, 0, 0.225), radius * 1.0, frame)
    if rng.random() < 0.3:
        model.tops.append(Top(0, 0, height, radius, radius))
    return model


@MODELS.add("sofa")
def sofa(rng: Random) -> Model:
    """A sofa for two or three, or an armchair."""
    model = Model("sofa")
    cover = materials.fabric(rng)
    seats = rng.choice([1, 2, 2, 3])
    arm, each, depth = rng.uniform(0.12, 0.22), rng.uniform(0.58, 0.7), rng.uniform(0.8, 0.95)
    width = seats * each + 2 * arm
    feet, seat, back, rest = 0.1, rng.uniform(0.4, 0.45), rng.uniform(0.72, 0.9), rng.uniform(0.55, 0.64)
    wooden = materials.wood(rng)
    _legs(model, width - 0.08, depth - 0.08, feet + 0.02, 0.05, wooden)
    model.box(
        (0, 0, (feet + seat - 0.12) / 2 + 0.01), (width - 0.04, depth, seat - 0.12 - feet), cover.plain(0.9)
    )
    for side in (-1, 1):
        model.box((side * (width - arm) / 2, 0, (feet + rest) / 2), (arm, depth, rest - feet), cover)
        if rng.random() < 0.8:
            x = side * (width - arm) / 2
            model.rod((x, -depth / 2, rest), (x, depth / 2, rest), arm / 2, cover)
    model.box(
        (0, depth / 2 - 0.1, (seat + back) / 2 - 0.05),
        (width - 2 * arm, 0.2, back - seat + 0.1),
        cover,
        turn=turned(x=-0.06),
    )
    gap = 0.012
    for index in range(seats):
        x = (index - (seats - 1) / 2) * each
        model.box((x, -0.06, seat - 0.055), (each - gap, depth - 0.16, 0.13), cover)
        model.box((x, depth / 2 - 0.24, seat + 0.22), (each - gap, 0.14, 0.36), cover, turn=turned(x=-0.2))
    model.tops.append(Top(0, -0.08, seat + 0.01, seats * each - 0.1, 0.3))
    return model


@MODELS.add("bed")
def bed(rng: Random) -> Model:
    model = Model("bed")
    frame, sheet = materials.furniture(rng), materials.fabric(rng)
    white = materials.flat(materials.hsv(0.1, rng.uniform(0, 0.08), rng.uniform(0.85, 0.97)), gloss=0.0)
    width, length = rng.choice([0.95, 1.4, 1.6]), rng.uniform(1.95, 2.1)
    height, board = rng.uniform(0.26, 0.36), rng.uniform(0.75, 1.15)
    _legs(model, width, length, height, 0.07, frame)
    model.box((0, 0, height - 0.07), (width + 0.04, length, 0.18), frame)
    model.box((0, 0, height + 0.1), (width - 0.02, length - 0.06, 0.2), white)
    head = materials.fabric(rng) if rng.random() < 0.35 else frame
    model.box((0, length / 2, board / 2 + 0.05), (width + 0.06, 0.06, board - 0.1), head)
    if rng.random() < 0.4:
        model.box((0, -length / 2, height + 0.12), (width + 0.04, 0.05, 0.4), frame)
    cover = rng.uniform(0.55, 0.75) * length
    model.box((0, -length / 2 + cover / 2 + 0.02, height + 0.18), (width + 0.05, cover, 0.1), sheet)
    model.box((0, -length / 2 + cover + 0.06, height + 0.19), (width + 0.05, 0.2, 0.1), white)
    pillow = white if rng.random() < 0.6 else materials.fabric(rng)
    count = 1 if width < 1.2 else 2
    for index in range(count):
        x = (index - (count - 1) / 2) * width * 0.48
        model.ball(
            (x, length / 2 - 0.26, height + 0.27),
            (min(0.66, width * 0.46), 0.42, 0.2),
            pillow,
            turn=turned(x=0.25),
            label="pillow",
        )
    model.tops.append(Top(0, -length * 0.18, height + 0.23, width * 0.7, length * 0.4))
    return model
