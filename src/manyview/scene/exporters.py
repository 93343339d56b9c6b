"""What a scene can be written as: the base of all exporters, and the registry that knows them by name.

An exporter is one file `export_NAME.py` here, or the entry point NAME in `manyview.exporters` of another package.
"""

from __future__ import annotations

import abc
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from manyview.config import from_dict
from manyview.errors import UserError
from manyview.registry import Registry

if TYPE_CHECKING:
    from manyview.scene.scene import Scene


@dataclass(frozen=True, kw_only=True)
class Exporter(abc.ABC):
    """One format. Its options are the fields of a frozen dataclass, these two and its own."""

    line: ClassVar[str]
    """What it writes and for whom, in a few words."""
    suffix: ClassVar[str] = ""
    """How its files end, such as `.ply`; empty for a format that is a directory."""

    min_confidence: float | None = None
    """Keep points of at least this confidence."""
    quantile: float | None = None
    """Leave out this share of the least confident points; none is 0.1, or 0 when min_confidence is given."""

    @abc.abstractmethod
    def write(self, scene: Scene, path: Path) -> Path:
        """Write the scene to `path`, whole or not at all; returns what was written."""

    def place(self, path: Path) -> Path:
        """The path with the format's suffix. Raises UserError when it ends like another format."""
        if self.suffix and not path.suffix:
            return path.with_suffix(self.suffix)
        if self.suffix and path.suffix.lower() != self.suffix:
            raise UserError(f"{path} does not end in {self.suffix}, as this format does; change one of them")
        return path

    def next_step(self, path: Path) -> str:
        """What to do with the written file or directory, in one line."""
        return f"open {shlex.quote(str(path))}"


@dataclass(frozen=True, kw_only=True)
class PictureExporter(Exporter):
    """A format that holds pictures beside the points."""

    size: Literal["original", "model"] = "original"
    """Cameras and pictures at the original size, or at the model's."""


EXPORTERS: Registry[type[Exporter]] = Registry(
    "export format", package="manyview.scene", group="manyview.exporters", subclass_of=Exporter
)


def export(scene: Scene, path: Path, to: str | None, options: Mapping[str, Any]) -> Path:
    """Write a scene's largest component in the format `to`, or in that of the path's suffix; returns what was written.

    A path without a suffix gets the format's. Raises UserError for an unknown format, suffix or option.
    """
    exporter = from_dict(EXPORTERS.get(to or _format_of(path)), dict(options))
    return exporter.write(scene.part(), exporter.place(path))


def _format_of(path: Path) -> str:
    suffixes = {EXPORTERS.get(name).suffix: name for name in EXPORTERS.names() if EXPORTERS.get(name).suffix}
    if path.suffix.lower() not in suffixes:
        raise UserError(
            f"{path}: cannot export to {path.suffix or 'a path without a suffix'!r}; end it in "
            f"{' or '.join(sorted(suffixes))}, or name a format: to={' or '.join(EXPORTERS.names())}"
        )
    return suffixes[path.suffix.lower()]
