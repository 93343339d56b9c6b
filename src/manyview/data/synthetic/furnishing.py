"""Furnished rooms and laid tables, drawn from a seed: which things belong together and where they stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random

from manyview.data.synthetic import rooms
from manyview.data.synthetic.models import Top
from manyview.data.synthetic.models import build as make
from manyview.data.synthetic.rooms import against_wall, in_the_open
from manyview.data.synthetic.world import Corner, Placed, World

KINDS = ("room", "tabletop")

# How often what stands on which kind of support.
ON_TABLE = {
    "mug": 7, "bottle": 4, "bowl": 6, "book": 4, "vase": 4, "laptop": 3, "fruit": 9, "can": 5, "teapot": 7,
    "clock": 4, "ball": 5, "small plant": 2, "table lamp": 1,
}  # fmt: skip
ON_CABINET = {
    "table lamp": 4, "vase": 5, "clock": 5, "book": 3, "small plant": 3, "bowl": 2, "teapot": 2, "bottle": 3, "ball": 1,
    "laptop": 2, "tv": 3, "can": 2, "mug": 2,
}  # fmt: skip
ON_SHELF = {
    "vase": 4,
    "clock": 5,
    "ball": 3,
    "bowl": 3,
    "teapot": 4,
    "mug": 3,
    "bottle": 2,
    "small plant": 2,
    "can": 4,
    "fruit": 1,
}
ON_SOFT = {"pillow": 8, "book": 1, "ball": 1, "laptop": 1}
ON_WORKTOP = {
    "bottle": 4,
    "bowl": 4,
    "teapot": 5,
    "can": 5,
    "mug": 4,
    "fruit": 5,
    "vase": 1,
    "small plant": 1,
}


def build(seed: int, kind: str) -> World:
    """The world of a seed: `kind` is "room" or "tabletop"."""
    rng = Random(f"manyview world {seed}")
    world = rooms.shell(rng, kind)
    rooms.doors_and_windows(world, rng)
    if kind == "tabletop":
        _lay_table(world, rng)
    else:
        # In turn, so that any run of seeds holds them all; every third seed is a table's.
        theme = list(THEMES)[(2 * (seed // 3) + seed % 3) % len(THEMES)]
        THEMES[theme](world, rng)
        _add_extras(world, rng)
    _fill_tops(world, rng)
    rooms.hang(world, rng)
    rooms.light(world, rng)
    return world


def _wall(world: World, rng: Random, name: str) -> Placed | None:
    return against_wall(world, rng, make(name, rng))


def _living_room(world: World, rng: Random) -> None:
    sofa = _wall(world, rng, "sofa")
    if sofa:
        _in_front(world, rng, sofa, "coffee table", rng.uniform(0.35, 0.5))
        _rug_under(world, rng, sofa)
    cabinet = _wall(world, rng, "cabinet")
    if cabinet and rng.random() < 0.9:
        _stand_on(world, rng, cabinet, "tv")
    if rng.random() < 0.6:
        _wall(world, rng, "sofa")
    for name in ("bookshelf", "lamp", "plant"):
        if rng.random() < 0.75:
            _wall(world, rng, name)


def _bedroom(world: World, rng: Random) -> None:
    bed = next(filter(None, (_wall(world, rng, "bed") for _ in range(4))), None)
    for name in ("cabinet", "wardrobe", "cabinet"):
        _wall(world, rng, name)
    if bed and rng.random() < 0.7:
        _rug_under(world, rng, bed)
    if rng.random() < 0.5:
        _desk(world, rng)
    for name in ("chair", "plant", "lamp", "suitcase"):
        if rng.random() < 0.4:
            _wall(world, rng, name)


def _office(world: World, rng: Random) -> None:
    for _ in range(rng.choice([1, 2, 2])):
        _desk(world, rng)
    for name in ("bookshelf", "bookshelf", "cabinet", "plant", "bin", "lamp"):
        if rng.random() < 0.75:
            _wall(world, rng, name)
    if rng.random() < 0.4:
        _rug_under(world, rng, None)


def _kitchen(world: World, rng: Random) -> None:
    for name in ("fridge", "stove", "cabinet", "cabinet"):
        _wall(world, rng, name)
    _table_with_seats(world, rng, rng.choice(["chair", "stool"]))
    for name in ("bin", "plant", "stool"):
        if rng.random() < 0.6:
            _wall(world, rng, name)


def _dining_room(world: World, rng: Random) -> None:
    _table_with_seats(world, rng, "chair")
    for name in ("cabinet", "bookshelf", "plant", "lamp", "cabinet"):
        if rng.random() < 0.65:
            _wall(world, rng, name)


def _store_room(world: World, rng: Random) -> None:
    names = [
        "box",
        "box",
        "suitcase",
        "bookshelf",
        "stool",
        "bin",
        "fridge",
        "wardrobe",
        "chair",
        "lamp",
        "stove",
    ]
    for name in rng.sample(names, 8):
        _wall(world, rng, name)
    for name in rng.sample(["box", "stool", "suitcase", "big ball", "bin"], 3):
        in_the_open(world, rng, make(name, rng))


THEMES = {
    "living room": _living_room,
    "bedroom": _bedroom,
    "office": _office,
    "kitchen": _kitchen,
    "dining room": _dining_room,
    "store room": _store_room,
}


def _add_extras(world: World, rng: Random) -> None:
    """More things along the walls and on the floor, as the size of the room allows."""
    area = world.size[0] * world.size[1]
    pool = ["bookshelf", "cabinet", "wardrobe", "plant", "lamp", "bin", "bin", "box", "suitcase", "stool", "stool",
            "chair", "table", "stove", "fridge", "sofa", "sofa", "bed", "bed"]  # fmt: skip
    for name in rng.choices(pool, k=round(area / 5)):
        _wall(world, rng, name)
    if rng.random() < 0.3:
        _rug_under(world, rng, None)
    for name in rng.choices(
        ["big ball", "box", "stool", "stool", "plant", "suitcase", "bin", "bin", "chair"], k=round(area / 10)
    ):
        in_the_open(world, rng, make(name, rng))


def _ahead(placed: Placed) -> tuple[float, float]:
    """The direction in which a thing looks."""
    return math.sin(placed.yaw), -math.cos(placed.yaw)


def _middle(placed: Placed) -> tuple[float, float]:
    return (placed.low[0] + placed.high[0]) / 2, (placed.low[1] + placed.high[1]) / 2


def _in_front(world: World, rng: Random, of: Placed, name: str, gap: float) -> Placed | None:
    """Put a thing squarely in front of another."""
    model = make(name, rng)
    low, high = model.bounds
    ahead, (x, y) = _ahead(of), _middle(of)
    reach = abs(ahead[0]) * (of.high[0] - of.low[0]) / 2 + abs(ahead[1]) * (of.high[1] - of.low[1]) / 2
    distance = reach + gap + (high[1] - low[1]) / 2
    return world.try_put(model, (x + ahead[0] * distance, y + ahead[1] * distance, 0.0), of.yaw)


def _rug_under(world: World, rng: Random, of: Placed | None) -> None:
    """A rug in front of something, or in the middle of the room; furniture may stand on its edge."""
    rug = make("rug", rng)
    _, high = rug.bounds
    yaw = rng.choice([0.0, math.pi / 2])
    x, y = world.size[0] / 2, world.size[1] / 2
    if of:
        ahead, (x, y) = _ahead(of), _middle(of)
        x, y, yaw = x + ahead[0] * 0.9, y + ahead[1] * 0.9, of.yaw
    half_x = abs(math.cos(yaw)) * high[0] + abs(math.sin(yaw)) * high[1] + 0.05
    half_y = abs(math.sin(yaw)) * high[0] + abs(math.cos(yaw)) * high[1] + 0.05
    if 2 * half_x > world.size[0] or 2 * half_y > world.size[1]:
        return
    x = min(max(x, half_x), world.size[0] - half_x)
    y = min(max(y, half_y), world.size[1] - half_y)
    world.put(rug, (x, y, 0.0), yaw, block=False)


def _desk(world: World, rng: Random) -> None:
    """A table against a wall, a chair drawn up to it, a screen or a laptop on it."""
    desk = _wall(world, rng, "table")
    if not desk:
        return
    _chair_at(world, rng, desk, 0.0, 1.0)
    _stand_on(world, rng, desk, rng.choice(["tv", "laptop", "laptop"]))


def _chair_at(
    world: World, rng: Random, table: Placed, along: float, side: float, name: str = "chair"
) -> None:
    """A seat at a table's side (`side` 1 = front, -1 = back), facing it, `along` the side, partly under the top."""
    ahead, (x, y) = _ahead(table), _middle(table)
    reach = (
        abs(ahead[0]) * (table.high[0] - table.low[0]) / 2
        + abs(ahead[1]) * (table.high[1] - table.low[1]) / 2
    )
    distance = (reach + rng.uniform(0.08, 0.3)) * side
    x, y = x + ahead[0] * distance - ahead[1] * along, y + ahead[1] * distance + ahead[0] * along
    yaw = table.yaw + (math.pi if side > 0 else 0.0) + rng.uniform(-0.25, 0.25)
    model = make(name, rng)
    low, high = world.bounds_at(model, (x, y, 0.0), yaw)
    others = [block for block in world.blocks if block.low != table.low]
    inside = all(low[a] > 0 and high[a] < world.size[a] for a in range(2))
    if inside and not any(block.meets(low, high, 0.01) for block in others):
        world.put(model, (x, y, 0.0), yaw)


def _table_with_seats(world: World, rng: Random, seat: str) -> None:
    table = None
    for _ in range(20):
        model = make("table", rng)
        at = (world.size[0] * rng.uniform(0.35, 0.65), world.size[1] * rng.uniform(0.35, 0.65), 0.0)
        table = world.try_put(model, at, rng.choice([0.0, math.pi / 2]), margin=0.3)
        if table:
            break
    if not table:
        return
    if rng.random() < 0.25:
        _rug_under(world, rng, None)
    width = max(table.high[0] - table.low[0], table.high[1] - table.low[1])
    places = [0.0] if width < 1.25 else [-width / 4, width / 4]
    state = rng.getrandbits(32)
    for side in (-1.0, 1.0):
        for along in places:
            if rng.random() < 0.85:
                twin = Random(state)  # the seats of one table are alike
                _chair_at(world, twin, table, along + rng.uniform(-0.05, 0.05), side, seat)


def _stand_on(world: World, rng: Random, support: Placed, name: str) -> None:
    """One thing in the middle of a support's top; the top then counts as taken."""
    for index, top in enumerate(support.tops):
        model = make(name, rng)
        low, high = model.bounds
        if high[0] - low[0] > top.width * 1.05 or high[2] > top.room:
            continue
        aside = rng.uniform(-0.2, 0.2) * max(0.0, top.width - (high[0] - low[0]))
        at = (top.x + math.cos(support.yaw) * aside, top.y + math.sin(support.yaw) * aside, top.z)
        world.put(model, at, support.yaw, block=False)
        del support.tops[index]
        left = (top.width - (high[0] - low[0])) / 2 - abs(aside)
        if left > 0.15:
            for side in (-1, 1):
                offset = side * (top.width - left) / 2
                x, y = top.x + math.cos(support.yaw) * offset, top.y + math.sin(support.yaw) * offset
                support.tops.append(Top(x, y, top.z, left, top.depth, top.room))
        return


def _fill_tops(world: World, rng: Random) -> None:
    """Small things on whatever carries them."""
    weights = {
        "table": ON_TABLE, "cabinet": ON_CABINET, "bookshelf": ON_SHELF, "sofa": ON_SOFT, "bed": ON_SOFT,
        "fridge": ON_WORKTOP, "stove": ON_WORKTOP, "stool": ON_TABLE, "box": ON_SHELF,
    }  # fmt: skip
    for placed in list(world.placed):
        for top in placed.tops:
            area = top.width * top.depth
            count = rng.randint(0, 2) + round(area * rng.uniform(3, 9))
            if placed.name in ("sofa", "bed"):
                count = rng.randint(0, 2) + (1 if top.width > 1.0 else 0)
            fill_top(world, rng, top, placed.yaw, weights[placed.name], count=min(count, 8))
        if placed.tops:
            top = placed.tops[0]
            world.focus.append((top.x, top.y, top.z))
        placed.tops.clear()


def _lay_table(world: World, rng: Random) -> None:
    """A table in the middle of the room with many things on it, some furniture behind."""
    x, y = world.size[0] * rng.uniform(0.42, 0.58), world.size[1] * rng.uniform(0.42, 0.58)
    model = make(rng.choice(["table", "table", "coffee table"]), rng)
    table = world.put(model, (x, y, 0.0), rng.choice([0.0, math.pi / 2, rng.uniform(-0.4, 0.4)]))
    top = table.tops.pop()
    world.focus = [(top.x, top.y, top.z)]
    fill_top(world, rng, top, table.yaw, ON_TABLE, count=rng.randint(7, 16))
    for name in rng.sample(
        ["bookshelf", "cabinet", "wardrobe", "sofa", "plant", "lamp", "fridge", "chair", "stove"], 5
    ):
        _wall(world, rng, name)
    if rng.random() < 0.5:
        _chair_at(world, rng, table, 0.0, rng.choice([-1.0, 1.0]))


def fill_top(
    world: World, rng: Random, top: Top, yaw: float, weights: Mapping[str, float], *, count: int
) -> list[Placed]:
    """Put up to `count` things on a top without touching; things keep their front towards the top's front."""
    placed: list[Placed] = []
    cosine, sine = math.cos(yaw), math.sin(yaw)
    names, odds = list(weights), list(weights.values())
    for _ in range(count * 3):
        if len(placed) == count:
            break
        name = rng.choices(names, odds)[0]
        model = make(name, rng)
        low, high = model.bounds
        half_x, half_y = max(-low[0], high[0]), max(-low[1], high[1])
        free_x, free_y = top.width / 2 - half_x * 0.9, top.depth / 2 - half_y * 0.9
        if free_x < 0 or free_y < 0 or high[2] > top.room:
            continue
        x, y = rng.uniform(-free_x, free_x), rng.uniform(-free_y, free_y)
        turn = (
            rng.uniform(-0.35, 0.35)
            if name in ("laptop", "tv", "clock", "pillow", "book")
            else rng.uniform(-3, 3)
        )
        at = (top.x + cosine * x - sine * y, top.y + sine * x + cosine * y, top.z)
        lowest, highest = world.bounds_at(model, at, yaw + turn)
        if any(_overlap(lowest, highest, other) for other in placed):
            continue
        placed.append(world.put(model, at, yaw + turn, block=False))
    return placed


def _overlap(low: Corner, high: Corner, other: Placed) -> bool:
    return all(other.low[a] - 0.004 < high[a] and low[a] < other.high[a] + 0.004 for a in range(3))
