"""Named things with one obvious place each: recipes, teachers, readers, protocols, models, exporters.

Each kind has one `Registry`. Ours are the modules of a folder here; other installed packages bring theirs through
an entry-point group such as `manyview.recipes` (CONTRIBUTING.md shows such a package).
"""

from __future__ import annotations

import difflib
import importlib
import logging
import pkgutil
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from manyview.errors import UserError

T = TypeVar("T")
LOG = logging.getLogger(__name__)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The tail of an error message about an unknown name: the nearest choice, and all choices."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}known: {', '.join(choices)}"


class Registry(Generic[T]):
    """A dictionary of one kind of thing, filled when it is first asked.

    package: the folder whose modules add our entries with `@REGISTRY.add("name")`.
    group: the entry-point group of other packages; the name of an entry point is the name here, its object the entry.
    subclass_of, instance_of: what entries of other packages must be; without either, something to call.
    claims: further names that an entry takes for itself (a family of networks: its models); no two may share one.

    An entry point that cannot be imported, is no such entry, or takes a name that is in use is left out with one
    warning that names its package. `get` raises UserError with the nearest name.
    """

    def __init__(
        self,
        kind: str,
        *,
        package: str | None = None,
        group: str | None = None,
        subclass_of: type | None = None,
        instance_of: type | None = None,
        claims: Callable[[T], Iterable[str]] = lambda entry: (),
    ) -> None:
        self.kind = kind
        self._package, self._group = package, group
        self._subclass_of, self._instance_of, self._claims = subclass_of, instance_of, claims
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
        """The entry called `name`."""
        self._fill()
        if name not in self._entries:
            raise UserError(f"no {self.kind} {name!r}; {did_you_mean(name, self._entries)}")
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._fill()
        return sorted(self._entries)

    def _fill(self) -> None:
        """Import every module of the folder, then every entry point of the group; once."""
        package, self._package = self._package, None
        if package is not None:
            folder = importlib.import_module(package)
            for module in pkgutil.iter_modules(folder.__path__, f"{package}."):
                importlib.import_module(module.name)
        group, self._group = self._group, None
        for point in entry_points(group=group) if group else ():
            problem = self._add_from(point)
            if problem:
                owner = point.dist.name if point.dist else "another package"
                LOG.warning("%s: %s %r is left out: %s", owner, self.kind, point.name, problem)

    def _add_from(self, point: EntryPoint) -> str | None:
        """Add the object of an entry point; what is wrong with it, or None."""
        if point.name in self._entries:
            return "the name is taken"
        try:
            entry = point.load()
        except Exception as error:  # whatever a foreign module raises must not end our command
            reason = " ".join(str(error).split())
            return f"{point.value} cannot be imported: {type(error).__name__}: {reason}"
        problem = self._misfit(entry)
        if problem:
            return f"{point.value} is {problem}"
        taken = {name for other in self._entries.values() for name in self._claims(other)}
        for name in self._claims(entry):
            if name in taken:
                return f"the name {name!r} is taken"
        self._entries[point.name] = entry
        return None

    def _misfit(self, entry: Any) -> str | None:
        """Why an object cannot be an entry here, or None."""
        if self._subclass_of:
            fits = isinstance(entry, type) and issubclass(entry, self._subclass_of)
            return None if fits else f"no subclass of {self._subclass_of.__qualname__}"
        if self._instance_of:
            return None if isinstance(entry, self._instance_of) else f"no {self._instance_of.__qualname__}"
        return None if callable(entry) else "nothing that can be called"
