"""What belongs to the room: doors, windows, curtains, pictures, rugs, radiators, hanging lamps.

Wall fixtures have their back at y = 0, look towards -y, and stand on z = 0 where they reach the floor.
"""

from __future__ import annotations

from random import Random

from manyview.data.synthetic import materials
from manyview.data.synthetic.materials import Material, hsv
from manyview.data.synthetic.models import MODELS, Model


@MODELS.add("door")
def door(rng: Random) -> Model:
    model = Model("door")
    leaf, frame = materials.furniture(rng), materials.lacquer(rng)
    width, height = rng.uniform(0.78, 0.95), rng.uniform(1.98, 2.1)
    for side in (-1, 1):
        model.box((side * (width / 2 + 0.04), -0.02, height / 2), (0.08, 0.05, height), frame)
    model.box((0, -0.02, height + 0.04), (width + 0.16, 0.05, 0.08), frame)
    model.box((0, -0.012, height / 2), (width, 0.03, height - 0.01), leaf)
    inset = leaf.plain(0.82)
    style = rng.choice(["plain", "panels", "panels", "glass"])
    if style == "panels":
        for x in (-0.23, 0.23):
            for low, high in ((0.1, 0.42), (0.5, 0.93)):
                model.box(
                    (x * width, -0.028, (low + high) / 2 * height),
                    (width * 0.36, 0.006, (high - low) * height),
                    inset,
                )
    elif style == "glass":
        pane = Material(hsv(0.55, 0.15, 0.75), hsv(0.55, 0.1, 0.9), "marble", 0.5, 0.7, 0.25)
        model.box((0, -0.028, height * 0.7), (width * 0.65, 0.006, height * 0.45), pane)
    side = rng.choice([-1, 1])
    model.rod((side * width * 0.42, -0.03, 1.0), (side * width * 0.42, -0.08, 1.0), 0.012, materials.STEEL)
    model.rod((side * width * 0.42, -0.075, 1.0), (side * width * 0.28, -0.075, 1.0), 0.011, materials.STEEL)
    return model


def window(rng: Random, width: float, height: float, glow: float) -> Model:
    """A window of the given opening, its sill at z = 0; `glow` is how bright it is outside."""
    model = Model("window")
    frame = materials.WHITE if rng.random() < 0.7 else materials.wood(rng)
    view = Material(
        hsv(rng.uniform(0.53, 0.62), rng.uniform(0.1, 0.5), 1.0),
        hsv(rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.6), 0.6),
        "outdoors",
        1.0,
        0.0,
        glow,
        rng.uniform(0, 99),
    )
    model.box((0, -0.006, height / 2), (width, 0.012, height), view, shadow=False)
    bar = 0.055
    for side in (-1, 1):
        model.box((side * (width - bar) / 2, -0.02, height / 2), (bar, 0.05, height), frame, shadow=False)
        model.box(
            (0, -0.02, height / 2 + side * (height - bar) / 2),
            (width - 2 * bar, 0.05, bar),
            frame,
            shadow=False,
        )
    for column in range(1, rng.choice([1, 2, 2, 3])):
        model.box(
            ((column / 2 - 0.5) * width if width < 1.4 else (column / 3 - 0.5) * width, -0.02, height / 2),
            (0.04, 0.04, height - 2 * bar),
            frame,
            shadow=False,
        )
    if rng.random() < 0.4:
        model.box(
            (0, -0.02, height * rng.choice([0.5, 0.7])), (width - 2 * bar, 0.04, 0.035), frame, shadow=False
        )
    model.box((0, -0.07, -0.02), (width + 0.12, 0.14, 0.03), frame, shadow=False)
    return model


def curtain(rng: Random, width: float, height: float) -> Model:
    """A pair of curtains on a rod, either side of an opening of `width`; they hang from z = height to z = 0."""
    model = Model("curtain")
    cloth = materials.fabric(rng)
    cloth = Material(
        cloth.a, materials.shaded(cloth.a, 0.62), "folds", rng.uniform(0.07, 0.12), 0.0, 0.0, rng.random()
    )
    each = width * rng.uniform(0.16, 0.3)
    for side in (-1, 1):
        folds = 4
        for fold in range(folds):
            x = side * (width / 2 + 0.1 - each * (fold + 0.5) / folds)
            wide = each / folds * 1.25
            middle = (x, -0.1 - 0.02 * (fold % 2), height / 2)
            model.box(middle, (wide, 0.05, height - 0.02), cloth, shadow=False)
    model.rod(
        (-width / 2 - 0.2, -0.1, height + 0.01),
        (width / 2 + 0.2, -0.1, height + 0.01),
        0.014,
        materials.metal(rng),
        shadow=False,
    )
    return model


@MODELS.add("picture")
def picture(rng: Random) -> Model:
    """A framed picture, its middle at z = 0."""
    model = Model("picture")
    width = rng.uniform(0.3, 1.0)
    height = width * rng.choice([0.66, 0.75, 1.0, 1.4])
    if height > 0.95:
        width, height = width * 0.95 / height, 0.95
    frame = rng.choice(
        [
            materials.BLACK,
            materials.WHITE,
            materials.wood(rng),
            materials.flat(hsv(0.12, 0.6, 0.6), gloss=0.7),
        ]
    )
    border = rng.uniform(0.015, 0.045)
    model.box((0, -0.0125, 0), (width, 0.025, height), frame)
    if rng.random() < 0.5:
        model.box((0, -0.0252, 0), (width - 2 * border, 0.004, height - 2 * border), materials.WHITE)
        border += min(width, height) * 0.12
    model.box((0, -0.0262, 0), (width - 2 * border, 0.004, height - 2 * border), materials.picture(rng))
    return model


@MODELS.add("rug")
def rug(rng: Random) -> Model:
    model = Model("rug")
    cloth = materials.rug(rng)
    if rng.random() < 0.25:
        model.rod((0, 0, 0), (0, 0, 0.012), rng.uniform(0.6, 1.1), cloth)
        return model
    width, depth = rng.uniform(1.2, 2.4), rng.uniform(0.8, 1.6)
    model.box((0, 0, 0.006), (width, depth, 0.012), cloth)
    for side in (-1, 1):
        model.box(
            (side * (width / 2 + 0.02), 0, 0.004),
            (0.05, depth - 0.02, 0.008),
            materials.Material(cloth.b, cloth.a, "stripes", 0.02),
        )
    return model


def radiator(rng: Random, width: float) -> Model:
    model = Model("radiator")
    paint = materials.WHITE if rng.random() < 0.8 else materials.lacquer(rng)
    height, fins = rng.uniform(0.45, 0.6), max(5, round(width / 0.09))
    pitch = width / fins
    for fin in range(fins):
        x = (fin + 0.5) * pitch - width / 2
        model.box((x, -0.08, 0.12 + height / 2), (pitch * 0.72, 0.09, height), paint)
    for z in (0.12 + height * 0.1, 0.12 + height * 0.9):
        model.box((0, -0.08, z), (width, 0.05, 0.05), paint.plain(0.85))
    model.rod((width / 2 - 0.02, -0.08, 0), (width / 2 - 0.02, -0.08, 0.14), 0.012, paint)
    return model


def hanging_lamp(rng: Random, drop: float) -> Model:
    """A ceiling lamp: z = 0 is the ceiling, the shade hangs `drop` below it."""
    model = Model("lamp")
    glowing = Material(hsv(0.12, rng.uniform(0.05, 0.25), 1.0), hsv(0.12, 0.2, 1.0), glow=1.3)
    size = rng.uniform(0.25, 0.45)
    if drop < 0.15:
        model.rod((0, 0, 0), (0, 0, -0.09), size * 0.5, glowing, shadow=False)
        return model
    model.rod((0, 0, 0), (0, 0, -drop), 0.008, materials.BLACK, shadow=False)
    if rng.random() < 0.5:
        model.ball((0, 0, -drop), (size, size, size * rng.uniform(0.6, 1.0)), glowing, shadow=False)
    else:
        shade = materials.lacquer(rng) if rng.random() < 0.5 else glowing
        model.rod(
            (0, 0, -drop - 0.1), (0, 0, -drop + 0.1), size * 0.55, shade, end_radius=size * 0.2, shadow=False
        )
        model.ball((0, 0, -drop - 0.08), (0.1, 0.1, 0.1), glowing, shadow=False)
    return model


def skirting(length: float, material: Material) -> Model:
    """A skirting board along a wall (labelled as wall)."""
    model = Model("wall")
    model.box((0, -0.006, 0.04), (length, 0.012, 0.08), material)
    return model
