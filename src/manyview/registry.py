"""Named things with one obvious place each: recipes, teachers, sources, protocols."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from manyview.errors import UserError

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message about an unknown name: a guess, and what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}known: {', '.join(known)}"


class Registry(Generic[T]):
    """A dictionary of one kind of thing, filled by explicit entries.

    `get` raises UserError with the nearest known name.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator: register under `name`. A second entry under the same name is a programming error."""

        def register(entry: T) -> T:
            if name in self._entries:
                raise KeyError(f"two entries for {self.kind} {name!r}")
            self._entries[name] = entry
            return entry

        return register

    def get(self, name: str) -> T:
        if name not in self._entries:
            raise UserError(f"no {self.kind} {name!r}; {did_you_mean(name, self._entries)}")
        return self._entries[name]

    def names(self) -> list[str]:
        return sorted(self._entries)
