"""Furnished rooms and laid tables, drawn from a seed: which things belong together and where they stand.

What rooms hold is written in catalogue/rooms.yaml, in rows (see rows.py) of these words:

    against_wall: names             with their backs to a wall, one after another; at height `z`, `gap` from it
    in_the_open: names              anywhere on the floor
    put: name                       with `in_front_of` something and a `gap` of metres to it, or `on_top_of` it
    rug: before NAME                or: in the middle
    desks: number                   against walls, a chair drawn up to each, a screen or a laptop on it
    table_with: names               a table in the middle with seats of one of these kinds around it

Of several things there is each with a `share` of chances, or a `sample` of so many, or so many `times` any of them.
With `as`, the first that finds room is all, and has that name afterwards (nothing has it when none does).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Any

from manyview.data.synthetic import rooms, wild
from manyview.data.synthetic.formulas import read_catalogue
from manyview.data.synthetic.models import Top
from manyview.data.synthetic.models import build as make
from manyview.data.synthetic.rooms import against_wall, in_the_open
from manyview.data.synthetic.rows import Row, Word, Work, read_rows
from manyview.data.synthetic.world import Placed, World

KINDS = ("room", "tabletop", *wild.KINDS)
FACE_FRONT = ("laptop", "tv", "clock", "pillow", "book")  # on a top; all else is turned anyhow


def build(seed: int, kind: str) -> World:
    """The world of a seed: `kind` is one of KINDS."""
    if kind in wild.KINDS:
        return wild.build(seed, kind)
    rng = Random(f"manyview world {seed}")
    world = rooms.shell(rng, kind)
    rooms.doors_and_windows(world, rng)
    work = Work(world, _WORDS, {"area": world.size[0] * world.size[1]}, rng)
    if kind == "tabletop":
        _lay_table(work)
    else:
        # In turn, so that any run of seeds holds them all; every third seed is a table's.
        themes = list(_catalogue()["themes"].values())
        work.do(themes[(2 * (seed // 3) + seed % 3) % len(themes)])
        work.do(_catalogue()["extras"])
    _fill_tops(world, rng)
    work.do(_catalogue()["on the walls"])
    rooms.light(world, rng)
    return world


@cache
def _catalogue() -> dict[str, Any]:
    """rooms.yaml, its rows read."""
    content = read_catalogue("rooms.yaml")
    rows = {key: read_rows(content[key], _WORDS) for key in ("extras", "behind a laid table", "on the walls")}
    return content | rows | {"themes": {name: read_rows(theme, _WORDS) for name, theme in content["themes"].items()}}


def _each_of(word: str, place: Callable[..., Placed | None], *more: str) -> Word:
    def act(work: Work[World], row: Row) -> None:
        names, rng = row[word].split(", "), work.rng
        if "sample" in row:
            names = rng.sample(names, row["sample"])
        elif "times" in row:
            names = rng.choices(names, k=work.value(row["times"]))
        placed = None
        for name in names:
            if "share" not in row or rng.random() < row["share"]:
                model = make(name, rng)
                placed = place(
                    work.target, rng, model, **{key: work.value(row[key]) for key in ("z", "gap") if key in row}
                )
            if placed and "as" in row:
                break
        if "as" in row:
            work.names[row["as"]] = placed

    return Word(act, {"as", "share", "sample", "times", *more})


def _put(work: Work[World], row: Row) -> None:
    if "on_top_of" in row:
        _stand_on(work.target, work.rng, work.names[row["on_top_of"]], row["put"])
    else:
        gap = work.value(row["gap"])
        _in_front(work.target, work.rng, work.names[row["in_front_of"]], row["put"], gap)


def _rug(work: Work[World], row: Row) -> None:
    _put_rug(work.target, work.rng, work.names.get(row["rug"].removeprefix("before ")))


def _desks(work: Work[World], row: Row) -> None:
    for _ in range(work.value(row["desks"])):
        desk = against_wall(work.target, work.rng, make("table", work.rng))
        if desk:
            _seat_at(work.target, work.rng, desk, 0.0, 1.0, "chair")
            _stand_on(work.target, work.rng, desk, work.rng.choice(["tv", "laptop", "laptop"]))


def _table_with(work: Work[World], row: Row) -> None:
    seats, world, rng = row["table_with"].split(", "), work.target, work.rng
    seat = rng.choice(seats) if len(seats) > 1 else seats[0]
    table = next(filter(None, (_table_in_the_middle(world, rng) for _ in range(20))), None)
    if not table:
        return
    if rng.random() < 0.25:
        _put_rug(world, rng, None)
    width = max(table.high[0] - table.low[0], table.high[1] - table.low[1])
    state = rng.getrandbits(32)
    for side in (-1.0, 1.0):
        for along in [0.0] if width < 1.25 else [-width / 4, width / 4]:
            if rng.random() < 0.85:
                twin = Random(state)  # the seats of one table are alike
                _seat_at(world, twin, table, along + rng.uniform(-0.05, 0.05), side, seat)


_WORDS = {
    "against_wall": _each_of("against_wall", against_wall, "z", "gap"),
    "in_the_open": _each_of("in_the_open", in_the_open),
    "put": Word(_put, {"on_top_of", "in_front_of", "gap"}),
    "rug": Word(_rug, set()),
    "desks": Word(_desks, set()),
    "table_with": Word(_table_with, set()),
}


def _table_in_the_middle(world: World, rng: Random) -> Placed | None:
    model = make("table", rng)
    at = (world.size[0] * rng.uniform(0.35, 0.65), world.size[1] * rng.uniform(0.35, 0.65), 0.0)
    return world.try_put(model, at, rng.choice([0.0, math.pi / 2]), margin=0.3)


def _in_front(world: World, rng: Random, of: Placed, name: str, gap: float) -> None:
    """Put a thing squarely in front of another."""
    model = make(name, rng)
    low, high = model.bounds
    distance = of.reach + gap + (high[1] - low[1]) / 2
    (x, y), (ahead_x, ahead_y) = of.middle, of.ahead
    world.try_put(model, (x + ahead_x * distance, y + ahead_y * distance, 0.0), of.yaw)


def _put_rug(world: World, rng: Random, of: Placed | None) -> None:
    """A rug in front of something, or in the middle of the room; furniture may stand on its edge."""
    rug = make("rug", rng)
    _, high = rug.bounds
    yaw = rng.choice([0.0, math.pi / 2])
    x, y = world.size[0] / 2, world.size[1] / 2
    if of:
        (x, y), (ahead_x, ahead_y) = of.middle, of.ahead
        x, y, yaw = x + ahead_x * 0.9, y + ahead_y * 0.9, of.yaw
    half_x = abs(math.cos(yaw)) * high[0] + abs(math.sin(yaw)) * high[1] + 0.05
    half_y = abs(math.sin(yaw)) * high[0] + abs(math.cos(yaw)) * high[1] + 0.05
    if 2 * half_x <= world.size[0] and 2 * half_y <= world.size[1]:
        x = min(max(x, half_x), world.size[0] - half_x)
        y = min(max(y, half_y), world.size[1] - half_y)
        world.put(rug, (x, y, 0.0), yaw, block=False)


def _seat_at(world: World, rng: Random, table: Placed, along: float, side: float, name: str) -> None:
    """A seat at a table's side (`side` 1 = front, -1 = back), facing it, `along` the side, partly under the top."""
    (x, y), (ahead_x, ahead_y) = table.middle, table.ahead
    distance = (table.reach + rng.uniform(0.08, 0.3)) * side
    x, y = x + ahead_x * distance - ahead_y * along, y + ahead_y * distance + ahead_x * along
    yaw = table.yaw + (math.pi if side > 0 else 0.0) + rng.uniform(-0.25, 0.25)
    model = make(name, rng)
    low, high = world.bounds_at(model, (x, y, 0.0), yaw)
    others = [block for block in world.blocks if block.low != table.low]
    inside = all(low[a] > 0 and high[a] < world.size[a] for a in range(2))
    if inside and not any(block.meets(low, high, 0.01) for block in others):
        world.put(model, (x, y, 0.0), yaw)


def _stand_on(world: World, rng: Random, support: Placed, name: str) -> None:
    """One thing in the middle of a support's top; the top then counts as taken, but for what is left beside it."""
    for index, top in enumerate(support.tops):
        model = make(name, rng)
        low, high = model.bounds
        width = high[0] - low[0]
        if width > top.width * 1.05 or high[2] > top.room:
            continue
        aside = rng.uniform(-0.2, 0.2) * max(0.0, top.width - width)
        world.put(model, (*_beside(top, support.yaw, aside), top.z), support.yaw, block=False)
        del support.tops[index]
        left = (top.width - width) / 2 - abs(aside)
        if left > 0.15:
            for side in (-1, 1):
                x, y = _beside(top, support.yaw, side * (top.width - left) / 2)
                support.tops.append(Top(x, y, top.z, left, top.depth, top.room))
        return


def _beside(top: Top, yaw: float, aside: float) -> tuple[float, float]:
    return top.x + math.cos(yaw) * aside, top.y + math.sin(yaw) * aside


def _lay_table(work: Work[World]) -> None:
    """A table in the middle of the room with many things on it, some furniture behind."""
    world, rng = work.target, work.rng
    x, y = world.size[0] * rng.uniform(0.42, 0.58), world.size[1] * rng.uniform(0.42, 0.58)
    model = make(rng.choice(["table", "table", "coffee table"]), rng)
    table = world.put(model, (x, y, 0.0), rng.choice([0.0, math.pi / 2, rng.uniform(-0.4, 0.4)]))
    top = table.tops.pop()
    world.focus = [(top.x, top.y, top.z)]
    fill_top(world, rng, top, table.yaw, _catalogue()["tops"]["table"], count=rng.randint(7, 16))
    work.do(_catalogue()["behind a laid table"])
    if rng.random() < 0.5:
        _seat_at(world, rng, table, 0.0, rng.choice([-1.0, 1.0]), "chair")


def _fill_tops(world: World, rng: Random) -> None:
    """Small things on whatever carries them."""
    for placed in list(world.placed):
        for top in placed.tops:
            count = rng.randint(0, 2) + round(top.width * top.depth * rng.uniform(3, 9))
            if placed.name in ("sofa", "bed"):
                count = rng.randint(0, 2) + (1 if top.width > 1.0 else 0)
            fill_top(world, rng, top, placed.yaw, _catalogue()["tops"][placed.name], count=min(count, 8))
        if placed.tops:
            top = placed.tops[0]
            world.focus.append((top.x, top.y, top.z))
        placed.tops.clear()


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
        most = 0.35 if name in FACE_FRONT else 3
        turn = yaw + rng.uniform(-most, most)
        at = (top.x + cosine * x - sine * y, top.y + sine * x + cosine * y, top.z)
        bounds = world.bounds_at(model, at, turn)
        if not any(other.meets(*bounds, 0.004) for other in placed):
            placed.append(world.put(model, at, turn, block=False))
    return placed
