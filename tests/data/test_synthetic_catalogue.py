"""Furniture as data: what formulas and rows mean, and that what is not well written is refused."""

from __future__ import annotations

import math
from importlib import resources
from random import Random

import numpy as np
import pytest
import yaml

from manyview.data.synthetic import formulas, furnishing, models, trajectories
from manyview.data.synthetic.formulas import draw, formula
from manyview.data.synthetic.materials import TEXTURES, Material, hsv
from manyview.data.synthetic.models import CLASSES, FILES, Model, build, object_names
from manyview.data.synthetic.rows import Work, read_rows
from manyview.errors import UserError

CATALOGUE = resources.files("manyview.data.synthetic").joinpath("catalogue")


def value(text, *, seed=0, **names):
    return formula(text)(names, Random(seed))


def follow(rows, *, seed=0, **names) -> Model:
    work = Work(Model("box"), models._WORDS, names, Random(seed))
    work.do(read_rows(rows, models._WORDS))
    return work.target


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("0.25", 0.25),
        ("width / 2 - 0.1", 0.9),
        ("-width * (1 + 2)", -6.0),
        ("7 % 4", 3),
        ("'low' if width < 1.5 else 'high'", "high"),
        ("1 < width <= 2 and width == 2", True),
        ("min(width, 3) + max(1, round(1.2))", 3),
        ("sin(pi / 2)", math.sin(math.pi / 2)),
        ("(1, width)", [1, 2]),
        ("hsv(0.1, 0.2, 0.3)", hsv(0.1, 0.2, 0.3)),
        ("plain(wall, 0.5).a", (0.1, 0.2, 0.3)),
    ],
)
def test_formulas_mean_what_they_say(text, result):
    assert value(text, width=2, wall=Material(a=(0.2, 0.4, 0.6), texture="dots")) == result


def test_draws_come_from_left_to_right():
    rng = Random(3)
    expected = [rng.uniform(1, 2), rng.choice([rng.uniform(0, 1), 5]), rng.random() < 0.5, rng.randint(2, 4)]
    assert value("(1 to 2, 0 to 1 or 5, chance(0.5), count(2, 4))", seed=3) == expected
    # A range reaches further than sums and less far than choices and conditions.
    assert 3 <= value("1 + 2 to 2 + 2") <= 4
    assert value("1 to 2 if 1 > 2 else 7") == 7


def test_only_the_branch_that_is_taken_draws():
    rng, twin = Random(1), Random(1)
    formula("any_colour if 1 > 2 else 0.5")({}, rng)
    assert rng.getstate() == twin.getstate()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width +", "no formula"),
        ("white.__class__", "not among what formulas can say"),
        ("hsv.a()", "not among"),
        ("[x for x in y]", "not among"),
        ("lambda: 1", "not among"),
        ("2 ** 9", "not among"),
    ],
)
def test_what_is_no_formula_is_refused_with_its_text(text, message):
    with pytest.raises(ValueError, match=message):
        formula(text)


@pytest.mark.parametrize(
    ("text", "name"), [("breadth / 2", "breadth"), ("open('file')", "open"), ("len(width)", "len")]
)
def test_a_name_that_nobody_gave_is_an_error(text, name):
    with pytest.raises(KeyError, match=name):
        value(text, width=1)


def test_rows_make_parts():
    model = follow(
        [
            {"height": 0.8, "width, depth": "(0.4, 0.2)"},
            {"box": [0, 0, "height / 2", "width", "depth", "height", "white"]},
            {"each": {"side": [-1, 1], "row": 2}, "ball": ["side", 0, "row", 0.1, 0.1, 0.1, "black"], "label": "ball"},
            {"when": "height > 1", "do": [], "else": [{"post": [0, 0, 0, 1, 0.2, "steel"], "end_radius": 0.1}]},
            {"carries": [0, 0, "height", 0.3, 0.1], "room": 0.5},
            {"n": 0},
            {"while": "n < 2", "do": [{"n": "n + 1"}, {"box": [0, 0, "n", 1, 1, 1, "white"], "shadow": False}]},
        ]
    )
    assert [part.matrix[:, 3].tolist() for part in model.parts[:5]] == [
        [0, 0, 0.4],
        *([side, 0, row] for side in (-1, 1) for row in (0, 1)),
    ]
    np.testing.assert_array_equal(np.diag(model.parts[0].matrix[:, :3]), [0.2, 0.1, 0.4])
    assert [part.label for part in model.parts[:3]] == [None, "ball", "ball"]
    assert model.parts[5].radii == (1.0, 0.5)
    assert [part.shadow for part in model.parts] == [True] * 6 + [False] * 2
    assert (model.tops[0].z, model.tops[0].room) == (0.8, 0.5)


def test_turned_boxes_shift_along_their_own_axes():
    turned, straight = (
        follow([{"box": [1, 2, 3, 1, 1, 1, "white"], "turn": {"z": angle}, "shift": [0.5, 0, 0]}])
        for angle in ("pi / 2", 0)
    )
    np.testing.assert_allclose(turned.parts[0].matrix[:, 3], [1, 2.5, 3])
    np.testing.assert_allclose(straight.parts[0].matrix[:, 3], [1.5, 2, 3])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"box": [0, 0, 0, 1, 1, 1, "white"], "colour": "red"}, "colour"),
        ({"carries": [0, 0, 0, 1, 1], "do": []}, "do"),
        ({"rod": [0, 0, 0, 0, 0, 1, 0.1, "white"], "turn": {"x": 1}}, "turn"),
        ({"when": "chance(0.5)", "do": [], "else": [{"box": [], "colour": "red"}]}, "colour"),
    ],
)
def test_rows_with_what_they_cannot_use_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        read_rows([row], models._WORDS)


@pytest.mark.parametrize("row", [{"box": ["width +"]}, {"box": ["breadth"]}, {"box": [], "colour": "red"}])
def test_a_mistake_in_a_file_names_the_model(monkeypatch, row):
    monkeypatch.setattr(models, "read_catalogue", lambda file: {"chair": [row]})
    models.plans.cache_clear()
    try:
        with pytest.raises((ValueError, KeyError)) as error:
            build("chair", Random(0))
        assert error.value.__notes__ == ["in the catalogue's 'chair'"]
    finally:
        models.plans.cache_clear()


def test_unknown_models_and_parameters_are_refused():
    with pytest.raises(UserError, match="did you mean 'chair'"):
        build("chiar", Random(0))
    with pytest.raises(TypeError, match="width"):
        build("radiator", Random(0))
    with pytest.raises(TypeError, match="colour"):
        build("chair", Random(0), colour=1)


@pytest.mark.parametrize("file", [*FILES, "materials.yaml", "rooms.yaml", "textures.yaml", "paths.yaml"])
def test_what_yaml_would_take_without_a_word_is_not_in_the_catalogue(file):
    """A key twice in a mapping (the last one stays), a bare `on` (it is true), a comma in a formula that ends it."""

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{node.start_mark}: {keys}"
            assert all(isinstance(key, str) for key in keys), f"{node.start_mark}: {keys}"
            empty = [value for _, value in node.value if value.tag == "tag:yaml.org,2002:null"]
            assert not empty, f"{node.start_mark}: a formula with a comma needs quotes here"
            return super().construct_mapping(node, deep)

    yaml.load(CATALOGUE.joinpath(file).read_text(encoding="utf-8"), Strict)


def texts(
    entry,
    *,
    literal=(
        "class",
        "use",
        "label",
        "shadow",
        "against_wall",
        "in_the_open",
        "put",
        "rug",
        "as",
        "table_with",
        "in_front_of",
        "on_top_of",
    ),
):
    """Every formula below an entry of the catalogue."""
    if isinstance(entry, dict):
        for key, value in entry.items():
            if key not in literal:
                yield from texts(value)
    elif isinstance(entry, list):
        for item in entry:
            yield from texts(item)
    elif isinstance(entry, str):
        yield entry


@pytest.mark.parametrize("file", [*FILES, "materials.yaml", "textures.yaml", "paths.yaml", "rooms.yaml"])
def test_every_formula_of_the_catalogue_is_one(file):
    content = formulas.read_catalogue(file)
    readable = [text for text in texts(content) if formula(text)]
    assert len(readable) > 10


def test_every_path_is_in_the_catalogue():
    assert {*trajectories.NAMES, "around a table"} == set(trajectories._catalogue())


def test_the_shader_knows_every_texture_by_its_number():
    assert {"plain", *formulas.read_catalogue("textures.yaml")} == set(TEXTURES)


def test_everything_in_the_catalogue_can_be_drawn_and_is_of_a_class():
    for name in formulas.read_catalogue("materials.yaml"):
        for seed in range(30):
            material = draw(name, Random(seed))
            assert material.texture in TEXTURES
            assert all(0 <= channel <= 1 for channel in (*material.a, *material.b))
    for name in object_names():
        for seed in range(30):
            model = build(name, Random(seed))
            assert {part.label or model.name for part in model.parts} <= set(CLASSES)
    takes = {name for name, plan in models.plans().items() if plan.takes is not None}
    assert {"window", "curtain", "radiator", "hanging_lamp", "skirting", "walled_corner"} <= takes


def test_rooms_name_things_of_the_catalogue():
    names = set(object_names())
    for weights in furnishing._catalogue()["tops"].values():
        assert set(weights) <= names
    themes = furnishing.read_catalogue("rooms.yaml")
    rows = [
        *themes["extras"],
        *themes["behind a laid table"],
        *(row for rows in themes["themes"].values() for row in rows),
    ]
    lists = [row[word] for row in rows for word in ("against_wall", "in_the_open", "table_with") if word in row]
    assert len(lists) > 10
    assert {name for line in lists for name in line.split(", ")} <= names
