"""Every numeric option of every command, recipe, protocol, reader, exporter and study: numbers that cannot be meant."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from manyview.cli.main import COMMANDS, build_parser
from manyview.cli.options import _Assign
from manyview.config import Positive, Range, Share, override, range_of
from manyview.data.sources import SOURCES
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS
from manyview.recipes.base import RECIPES
from manyview.scene.exporters import EXPORTERS
from manyview.studies.base import STUDIES

LINES = [
    *((name,) for name in COMMANDS),
    *(("train", name) for name in RECIPES.names()),
    *(("eval", name) for name in PROTOCOLS.names()),
    *(("study", name) for name in STUDIES.names()),
    *(("export", "SCENE", "--to", name) for name in EXPORTERS.names()),
    *(("data", "scan", "SRC", "--format", name) for name in SOURCES.names()),
]
BELOW_ZERO = {"augment", "block", "layers"}
"""Options with a meaning below zero (-1: none or the last), or a text."""
COUNTS_FROM_ZERO = {
    *("classes", "component", "crops", "images", "most", "pairs", "pixels", "queries", "seed", "stride"),
    *("test-images", "train-images", "judge-every", "workers", "seeds"),
}
"""Whole numbers of which 0 says something, in the sentence of the option."""


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


@cache
def actions(line: tuple[str, ...]) -> list[tuple[argparse.ArgumentParser, Any]]:
    """The options of a line that take numbers."""
    top = build_parser(line[0], line[1:])
    found = {id(action): (parser, action) for parser in parsers(top) for action in parser._actions}
    return [
        (parser, action)
        for parser, action in found.values()
        if (isinstance(action, _Assign) and takes_numbers(action.option.hint))
        or getattr(action.type, "__name__", "") in ("int", "float")
    ]


def takes_numbers(hint: Any) -> bool:
    return hint in (int, float) or any(takes_numbers(inner) for inner in getattr(hint, "__args__", ()))


def taken(parser: argparse.ArgumentParser, action: Any, text: str) -> bool:
    """Whether an option takes a text, as it is or as the numbers of a list."""
    try:
        if isinstance(action, _Assign):
            action(parser, argparse.Namespace(settings=[]), spelled(str(action.option.hint), text), "--x")
        else:
            action.type(text)
    except (UserError, argparse.ArgumentTypeError, ValueError):
        return False
    return True


def spelled(hint: str, text: str) -> str:
    """A text in the place of every number of a value of this type."""
    if hint.startswith("dict"):
        return "{a: " + text + "}"
    if hint.startswith("tuple[tuple"):
        return f"[[{text}, {text}]]"
    count = 1 if "..." in hint else hint.count("float") + hint.count("int")
    return f"[{', '.join([text] * count)}]" if hint.startswith("tuple") else text


def name_of(action: Any) -> str:
    return action.option.key.rpartition(".")[2].replace("_", "-") if isinstance(action, _Assign) else action.dest


def test_there_are_many():
    assert sum(len(actions(line)) for line in LINES) > 600


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_no_option_takes_what_is_no_number_or_without_end(line):
    for parser, action in actions(line):
        if name_of(action) not in BELOW_ZERO:
            texts = [
                "nan",
                ".nan",
                "inf",
                ".inf",
                "-.inf",
                "1e999",
                "-1",
                "-0.5",
                *(["9" * 30] if whole(action) else []),
            ]
            wrong = [text for text in texts if taken(parser, action, text)]
            assert not wrong, (action.option_strings, wrong)


def test_counts_begin_at_one_unless_zero_says_something():
    found = set()
    for line in LINES:
        for parser, action in actions(line):
            if whole(action) and name_of(action) not in BELOW_ZERO:
                assert taken(parser, action, "3"), action.option_strings
                found |= {name_of(action)} if taken(parser, action, "0") else set()
    assert found == COUNTS_FROM_ZERO


def whole(action: Any) -> bool:
    kinds = str(action.option.hint) if isinstance(action, _Assign) else action.type.__name__
    return "int" in kinds and not any(other in kinds for other in ("float", "str", "Literal"))


@dataclass(frozen=True, kw_only=True)
class Some:
    """Options of every kind."""

    steps: int = 5
    """Steps."""
    copies: int = 2
    """Copies; 0 for none."""
    below: int = -1
    """The last."""
    least: int | None = None
    """The fewest."""
    seed: int = 7
    """Where chance begins."""
    flip: float = 0.5
    """Share of the pictures that are mirrored."""
    noise: float = 0.1
    """Largest deviation."""
    heat: Positive = 0.1
    """What is divided by."""
    kept: Share | None = None
    """How much is kept."""
    sizes: tuple[int, ...] = (2, 3)
    """Of views."""
    weights: dict[str, float] | None = None
    """Of data."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("steps", Range(1)),
        ("copies", Range(0)),
        ("below", Range()),
        ("least", Range(1)),
        ("seed", Range(0)),
        ("flip", Range(0, 1)),
        ("noise", Range(0)),
        ("heat", Range(0, above=True)),
        ("kept", Range(0, 1)),
        ("sizes", Range(1)),
    ],
)
def test_what_an_option_takes_comes_from_its_kind_default_and_sentence(name, expected):
    assert range_of(Some, name) == expected


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("steps=0", "option 'steps' 0 is out of range: give a number from 1 up"),
        ("heat=0", "option 'heat' 0.0 is out of range: give a number above 0"),
        ("flip=1.5", "option 'flip' 1.5 is out of range: give a number from 0 to 1"),
        ("sizes=[2, 0]", "option 'sizes' 0 is out of range: give a number from 1 up"),
        ("below=.nan", "option 'below' is '.nan'; it must be of type int"),
        ("noise=.inf", "option 'noise' inf is out of range: give a number from 0 up"),
    ],
)
def test_a_setting_out_of_range_is_one_line(setting, line):
    with pytest.raises(UserError) as caught:
        override(Some(), [setting])
    assert str(caught.value).startswith(line.partition(" is '")[0])
    if "must be" not in line:
        assert str(caught.value) == line
