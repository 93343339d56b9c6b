"""Rows of the catalogue: what is done in turn, under conditions and repeatedly, to a model or a room.

A row is a mapping with one word that says what it does (see models.py and furnishing.py), or with names that formulas
give values to, and perhaps with

    when: formula                   it is done only then; `else` has the rows for otherwise
    each: {name: values}            once for every value of a list, or for 0 .. n - 1; several names are nested
    while: formula                  again and again

`when` is asked first, once. `do: rows` stands for several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, NamedTuple, TypeVar

from manyview.data.synthetic.formulas import Names, give, value

T = TypeVar("T")
Row = dict[str, Any]
COMMON = {"when", "else", "each", "while"}


class Word(NamedTuple):
    """What a word of a row does, and what other entries such a row may have (None: any)."""

    act: Callable[[Work[Any], Row], None]
    options: set[str] | None


def read_rows(rows: list[Row], words: Mapping[str, Word]) -> list[Row]:
    """Rows with every list of formulas made one formula. Raises ValueError when one has what it cannot use."""
    return [_read_row(row, words) for row in rows]


def _read_row(row: Row, words: Mapping[str, Word]) -> Row:
    result = {key: _joined(entry) for key, entry in row.items()}
    result |= {key: read_rows(row[key], words) for key in ("do", "else") if key in row}
    if "each" in row:
        result["each"] = {name: _joined(values) for name, values in row["each"].items()}
    for key in row:
        if key in words:
            options = words[key].options
            if options is not None and not row.keys() - COMMON - {key} <= options:
                raise ValueError(f"{key!r} cannot use all of {', '.join(row)}")
    return result


def _joined(entry: Any) -> Any:
    return f"({', '.join(str(_joined(item)) for item in entry)},)" if isinstance(entry, list) else entry


@dataclass
class Work(Generic[T]):
    """Rows being done to a target, with the names given so far."""

    target: T
    words: Mapping[str, Word]
    names: Names
    rng: Random

    def value(self, text: Any) -> Any:
        return value(text, self.names, self.rng)

    def do(self, rows: list[Row]) -> None:
        """Rows in turn. Raises KeyError for a name that nobody gave."""
        for row in rows:
            if "when" in row and not self.value(row["when"]):
                self.do(row.get("else", []))
            elif "while" in row:
                while self.value(row["while"]):
                    self._act(row)
            elif "each" in row:
                self._repeat(row, list(row["each"].items()))
            else:
                self._act(row)

    def _repeat(self, row: Row, loops: list[tuple[str, Any]]) -> None:
        (name, text), *inner = loops
        values = self.value(text)
        for item in range(values) if isinstance(values, int) else values:
            give(self.names, name, item)
            if inner:
                self._repeat(row, inner)
            else:
                self._act(row)

    def _act(self, row: Row) -> None:
        for key in row:
            if key in self.words:
                self.words[key].act(self, row)
                return
        if "do" in row:
            self.do(row["do"])
            return
        for key, text in row.items():
            if key not in COMMON:
                give(self.names, key, self.value(text))
