"""Configuration: typed overrides, round trips, and errors that name the option and the nearest known one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from manyview.config import RunConfig, from_dict, override, sentences_of, to_dict
from manyview.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Outer:
    run: RunConfig = field(default_factory=RunConfig)
    name: str | None = None
    ratios: tuple[float, ...] = (1.0, 2.0)


def test_overrides_are_typed_and_nested():
    changed = override(Outer(), ["run.lr=1e-4", "run.betas=[0.9, 0.99]", "name=x", "ratios=[3]", "run.steps=7"])
    assert changed.run.lr == pytest.approx(1e-4)
    assert changed.run.betas == (0.9, 0.99)
    assert (changed.name, changed.ratios, changed.run.steps) == ("x", (3.0,), 7)
    assert override(changed, ["name=null"]).name is None
    assert Outer().run.lr == RunConfig().lr  # the original is untouched


def test_round_trip_through_a_dictionary():
    config = override(Outer(), ["run.precision=bf16", "ratios=[0.5, 0.25]"])
    assert from_dict(Outer, to_dict(config)) == config


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("run.stepz=3", "did you mean 'steps'"),
        ("run.steps=2.5", "'run.steps' is 2.5"),
        ("run.steps=true", "must be of type int"),
        ("run.precision=fp8", "one of auto, fp32, bf16"),
        ("run.betas=[0.9]", "'run.betas'"),
        ("nonsense", "key=value"),
        ("name.part=3", "has no parts"),
        ("run.lr=fast", "must be of type float"),
    ],
)
def test_mistakes_name_the_option(assignment, message):
    with pytest.raises(UserError, match=message):
        override(Outer(), [assignment])


def test_unknown_key_in_a_file():
    with pytest.raises(UserError, match="did you mean 'steps'"):
        from_dict(Outer, {"run": {"step": 3}})


@dataclass(frozen=True, kw_only=True)
class Pictures:
    size: tuple[int, int] | None = None
    """Rows and columns,
    of every picture."""
    name: str | None = None
    both: int | str = 1
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Videos(Pictures):
    KIND: ClassVar[str] = "video"
    fps: float = 1.0
    """Frames per second."""


def test_sizes_paths_and_names_that_look_like_numbers():
    changed = override(Videos(), ["size=112x154", "name=2024", "folder=x/y", "both=3", "fps=2"])
    assert changed == Videos(size=(112, 154), name="2024", folder=Path("x/y"), both=3, fps=2.0)
    assert override(changed, ["size=[3, 4]", "name=null", "both=a"]) == Videos(
        size=(3, 4), both="a", folder=Path("x/y"), fps=2.0
    )
    assert override(changed, ["size=none", "name=none", "folder=none"]) == Videos(both=3, fps=2.0)
    with pytest.raises(UserError, match=r"'size' is '112-154'"):
        override(Videos(), ["size=112-154"])


def test_texts_are_taken_as_they_are_written():
    @dataclass(frozen=True, kw_only=True)
    class Words:
        words: str = "x"
        maybe: str | None = "x"
        folder: Path = Path("x")

    for text in (",", "{", "a: b", "# wall", "'wall'", "null", "no", "", "  "):
        assert override(Words(), [f"words={text}"]).words == text
    assert [override(Words(), [f"maybe={text}"]).maybe for text in ("", "~", "Null", "none", "{", "nil")] == [
        *(None, None, None, None),
        *("{", "nil"),
    ]
    with pytest.raises(UserError, match="'folder' is None"):
        override(Words(), ["folder="])


def test_dashes_are_underscores_and_class_variables_are_no_options():
    assert override(Outer(), ["run.weight-decay=0.5"]).run.weight_decay == 0.5
    with pytest.raises(UserError, match="unknown option 'KIND'"):
        override(Videos(), ["KIND=x"])


def test_sentences_under_fields_are_read_from_the_class_and_its_bases():
    assert sentences_of(Videos) == {"size": "Rows and columns, of every picture.", "fps": "Frames per second."}
    assert set(sentences_of(RunConfig)) == set(to_dict(RunConfig()))
