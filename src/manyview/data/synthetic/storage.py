"""Large things along the walls: cabinets, wardrobes, bookshelves, fridges, stoves."""

from __future__ import annotations

from random import Random

from manyview.data.synthetic import materials
from manyview.data.synthetic.materials import Material
from manyview.data.synthetic.models import MODELS, Model, Top


def _handle(model: Model, x: float, y: float, z: float, length: float, *, upright: bool) -> None:
    half = length / 2
    start, end = ((x, y, z - half), (x, y, z + half)) if upright else ((x - half, y, z), (x + half, y, z))
    model.rod(start, end, 0.009, materials.STEEL)


@MODELS.add("cabinet")
def cabinet(rng: Random) -> Model:
    """A chest of drawers, a sideboard with doors, or a bedside table."""
    model = Model("cabinet")
    body = materials.furniture(rng)
    front = materials.lacquer(rng) if rng.random() < 0.35 else body
    width, depth, height = rng.choice(
        [(0.45, 0.4, 0.5), (0.8, 0.45, 0.85), (1.2, 0.42, 0.75), (1.6, 0.45, 0.6), (1.0, 0.45, 1.1)]
    )
    width, height = width * rng.uniform(0.9, 1.1), height * rng.uniform(0.9, 1.1)
    feet = rng.choice([0.05, 0.12])
    if feet > 0.1:
        for side in (-1, 1):
            for end in (-1, 1):
                model.rod(
                    (side * (width / 2 - 0.05), end * (depth / 2 - 0.05), 0),
                    (side * (width / 2 - 0.07), end * (depth / 2 - 0.07), feet),
                    0.014,
                    body,
                    end_radius=0.024,
                )
    else:
        model.box((0, 0.02, feet / 2), (width - 0.04, depth - 0.06, feet), body.plain(0.5))
    model.box(
        (0, 0, (feet + height - 0.02) / 2),
        (width, depth, height - feet - 0.02),
        body.plain(0.8) if front is body else body,
    )
    model.box((0, -0.01, height - 0.0125), (width + 0.03, depth + 0.03, 0.025), body)
    columns = max(1, round(width / 0.5))
    rows = 1 if rng.random() < 0.4 else max(2, round((height - feet) / 0.24))
    cell_w, cell_h = width / columns, (height - feet - 0.03) / rows
    for column in range(columns):
        for row in range(rows):
            x, z = (column + 0.5) * cell_w - width / 2, feet + (row + 0.5) * cell_h
            model.box((x, -depth / 2 - 0.008, z), (cell_w - 0.014, 0.02, cell_h - 0.014), front)
            if rows == 1:
                _handle(
                    model,
                    x + cell_w * (0.36 if column % 2 == 0 else -0.36),
                    -depth / 2 - 0.03,
                    z + cell_h * 0.2,
                    0.12,
                    upright=True,
                )
            else:
                _handle(model, x, -depth / 2 - 0.03, z + cell_h * 0.15, cell_w * 0.3, upright=False)
    model.tops.append(Top(0, 0, height, width - 0.04, depth - 0.06))
    return model


@MODELS.add("wardrobe")
def wardrobe(rng: Random) -> Model:
    model = Model("wardrobe")
    body = materials.furniture(rng)
    doors = rng.choice([2, 2, 3])
    each, depth, height = rng.uniform(0.42, 0.55), rng.uniform(0.52, 0.62), rng.uniform(1.85, 2.15)
    width = doors * each
    model.box((0, 0, 0.04), (width - 0.04, depth - 0.05, 0.08), body.plain(0.5))
    model.box((0, 0, height / 2 + 0.03), (width, depth, height - 0.09), body.plain(0.75))
    model.box((0, -0.02, height), (width + 0.05, depth + 0.05, 0.04), body)
    drawers = 0.35 if rng.random() < 0.4 else 0.0
    for door in range(doors):
        x = (door + 0.5) * each - width / 2
        low, high = 0.1 + drawers, height - 0.03
        model.box((x, -depth / 2 - 0.008, (low + high) / 2), (each - 0.012, 0.02, high - low), body)
        if rng.random() < 0.5:
            model.box(
                (x, -depth / 2 - 0.02, (low + high) / 2),
                (each - 0.16, 0.012, high - low - 0.2),
                body.plain(0.92),
            )
        _handle(
            model, x + each * (0.4 if door % 2 == 0 else -0.4), -depth / 2 - 0.035, 1.0, 0.2, upright=True
        )
        if drawers:
            model.box(
                (x, -depth / 2 - 0.008, 0.09 + drawers / 2), (each - 0.012, 0.02, drawers - 0.012), body
            )
            _handle(model, x, -depth / 2 - 0.03, 0.1 + drawers * 0.6, 0.16, upright=False)
    return model


def _book_row(
    model: Model, rng: Random, left: float, right: float, y: float, z: float, height: float
) -> None:
    """A run of books on a shelf, spines towards -y, and perhaps a leaning one at its end."""
    x = left
    while x < right - 0.08:
        length = min(rng.uniform(0.1, 0.3), right - x)
        tall = height * rng.uniform(0.62, 0.92)
        spines = Material(
            materials.any_colour(rng),
            materials.any_colour(rng),
            "spines",
            rng.uniform(0.022, 0.04),
            0.1,
            phase=rng.uniform(0, 99),
        )
        model.box(
            (x + length / 2, y + rng.uniform(-0.02, 0.02), z + tall / 2),
            (length, 0.17, tall),
            spines,
            label="book",
        )
        x += length + rng.choice([0.0, 0.0, 0.004, rng.uniform(0.05, 0.2)])


@MODELS.add("bookshelf")
def bookshelf(rng: Random) -> Model:
    model = Model("bookshelf")
    body = materials.furniture(rng)
    width, depth = rng.uniform(0.7, 1.2), rng.uniform(0.26, 0.32)
    levels, each = rng.choice([3, 4, 5, 5]), rng.uniform(0.31, 0.38)
    height, board = levels * each + 0.08, 0.024
    for side in (-1, 1):
        model.box((side * (width - board) / 2, 0, height / 2), (board, depth, height), body)
    if rng.random() < 0.8:
        model.box((0, depth / 2 - 0.008, height / 2), (width - 0.01, 0.012, height - 0.02), body.plain(0.7))
    for level in range(levels + 1):
        z = 0.06 + level * each
        model.box((0, -0.004, z), (width - 2 * board, depth - 0.02, board), body)
        if level == levels:
            model.tops.append(Top(0, 0, z + board / 2, width - 0.1, depth - 0.06))
            break
        inner = width / 2 - board - 0.01
        fill = rng.random()
        if fill < 0.55:
            _book_row(model, rng, -inner, inner * rng.uniform(0.0, 1.0), 0.0, z + board / 2, each - board)
        elif fill < 0.75:
            _book_row(model, rng, -inner, -inner * 0.1, 0.0, z + board / 2, each - board)
            model.tops.append(
                Top(inner / 2, -0.02, z + board / 2, inner * 0.9, depth - 0.1, each - board - 0.02)
            )
        else:
            model.tops.append(Top(0, -0.02, z + board / 2, inner * 1.8, depth - 0.1, each - board - 0.02))
    return model


@MODELS.add("fridge")
def fridge(rng: Random) -> Model:
    model = Model("fridge")
    body = rng.choice(
        [materials.WHITE, materials.STEEL, materials.plastic(rng), materials.grey(0.3, gloss=0.6)]
    )
    width, depth, height = rng.uniform(0.55, 0.7), rng.uniform(0.58, 0.66), rng.uniform(1.45, 1.9)
    split = height * rng.choice([0.35, 0.68])
    model.box((0, 0.02, height / 2 + 0.02), (width, depth - 0.06, height - 0.04), body.plain(0.85))
    for low, high in ((0.05, split - 0.008), (split + 0.008, height)):
        model.box((0, -depth / 2 + 0.03, (low + high) / 2), (width, 0.06, high - low), body)
        inner = high if high < height else low
        towards = -0.16 if inner == high else 0.16
        model.rod(
            (-width * 0.4, -depth / 2 - 0.025, inner + towards - 0.1),
            (-width * 0.4, -depth / 2 - 0.025, inner + towards + 0.1),
            0.012,
            materials.STEEL,
        )
    model.box((0, 0, 0.025), (width - 0.06, depth - 0.1, 0.05), materials.BLACK)
    for _ in range(rng.randint(0, 5)):
        size = rng.uniform(0.05, 0.12)
        note = materials.picture(rng) if rng.random() < 0.6 else materials.plastic(rng)
        model.box(
            (
                rng.uniform(-0.3, 0.35) * width,
                -depth / 2 - 0.001,
                rng.uniform(split + 0.1, height - 0.1) if split < 0.9 else rng.uniform(0.6, split - 0.1),
            ),
            (size, 0.004, size * 1.2),
            note,
        )
    model.tops.append(Top(0, 0.02, height, width - 0.1, depth - 0.2))
    return model


@MODELS.add("stove")
def stove(rng: Random) -> Model:
    """A cooker: an oven with a window and knobs, four plates on top."""
    model = Model("stove")
    body = rng.choice([materials.WHITE, materials.STEEL, materials.BLACK])
    width, depth, height = 0.6, 0.6, rng.uniform(0.85, 0.92)
    model.box((0, 0, height / 2), (width, depth, height - 0.02), body)
    model.box((0, 0, height - 0.006), (width + 0.01, depth + 0.01, 0.014), materials.BLACK)
    for x in (-0.14, 0.14):
        for y in (-0.14, 0.14):
            model.rod(
                (x, y, height),
                (x, y, height + 0.008),
                rng.choice([0.075, 0.095]),
                materials.grey(0.22, gloss=0.3),
            )
    model.box(
        (0, -depth / 2 - 0.005, height * 0.42), (width - 0.06, 0.02, height * 0.5), materials.GLASS_DARK
    )
    model.rod(
        (-0.2, -depth / 2 - 0.035, height * 0.71),
        (0.2, -depth / 2 - 0.035, height * 0.71),
        0.011,
        materials.STEEL,
    )
    for knob in range(5):
        x = (knob - 2) * 0.1
        model.rod(
            (x, -depth / 2, height * 0.86),
            (x, -depth / 2 - 0.03, height * 0.86),
            0.02,
            materials.BLACK if body is not materials.BLACK else materials.STEEL,
        )
    if rng.random() < 0.5:
        model.box((0, depth / 2 - 0.02, height + 0.08), (width, 0.03, 0.16), body)
    model.tops.append(Top(0, 0, height + 0.009, width - 0.15, depth - 0.15))
    return model
