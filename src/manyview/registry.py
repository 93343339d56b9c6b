"""Named things with one obvious place each: recipes, teachers, sources, protocols."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
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

    `package` is the folder whose modules hold the entries; they are imported when the registry is first asked.
    `get` raises UserError with the nearest known name.
    """

    def __init__(self, kind: str, *, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator: register under `name`. A second entry under the same name is a programming error."""

        def register(entry: T) -> T:
            if name in self._entries:
                raise KeyError(f"two entries for {self.kind} {name!r}")
            self._entries[name] = entry
            return entry

        return register

    def _fill(self) -> None:
        """Import every module of the package, once."""
        if self._package is None:
            return
        package, self._package = importlib.import_module(self._package), None
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)

    def get(self, name: str) -> T:
        self._fill()
        if name not in self._entries:
            raise UserError(f"no {self.kind} {name!r}; {did_you_mean(name, self._entries)}")
        return self._entries[name]

    def names(self) -> list[str]:
        self._fill()
        return sorted(self._entries)
