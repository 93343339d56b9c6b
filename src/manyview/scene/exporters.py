"""What a scene can be written as: the base of all exporters, and the registry that knows them by name.

An exporter is one file `export_NAME.py` here, or the entry point NAME in `manyview.exporters` of another package.
"""

from __future__ import annotations

import abc
import re
import shlex
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from manyview.config import Share, from_dict
from manyview.errors import UserError
from manyview.registry import Registry
from manyview.written import one_file

if TYPE_CHECKING:
    from manyview.scene.scene import Scene


@dataclass(frozen=True, kw_only=True)
class Exporter(abc.ABC):
    """One format. Its options are the fields of a frozen dataclass, these two and its own."""

    line: ClassVar[str]
    """What it writes and for whom, in a few words."""
    several: ClassVar[bool] = False
    """Whether one export holds several sets of views, each in a frame of its own."""
    suffix: ClassVar[str] = ""
    """How its files end, such as `.ply`; empty for a format that is a directory."""

    min_confidence: float | None = None
    """Keep points of at least this confidence."""
    quantile: Share | None = None
    """Leave out this share of the least confident points; none is 0.1, or 0 when min_confidence is given."""

    component: int | None = None
    """Which set of views that share a frame, 0 the largest; none is 0, or all sets where the format holds several."""

    overwrite: bool = False
    """Replace files that are not from an earlier export."""

    @abc.abstractmethod
    def write(self, scene: Scene, path: Path) -> Path:
        """Write the scene to `path`, whole or not at all; returns what was written.

        Every view has a camera, and all share a frame unless the format holds several; `scene.info["left_out"]` says
        what is missing.
        """

    def place(self, path: Path) -> Path:
        """The path with the format's suffix. Raises UserError when it ends like another format."""
        if self.suffix and not path.suffix:
            return path.with_suffix(self.suffix)
        if self.suffix and path.suffix.lower() != self.suffix:
            raise UserError(f"{path} does not end in {self.suffix}, as this format does; change one of them")
        return path

    def next_step(self, path: Path) -> str:
        """What to do with the written file or directory, in one line."""
        return f"look at {shlex.quote(str(path))} in a viewer of your own, or at the scene: manyview view SCENE"


@dataclass(frozen=True, kw_only=True)
class PictureExporter(Exporter):
    """A format that holds pictures beside the points."""

    size: Literal["original", "model"] = "original"
    """Cameras and pictures at the original size, or at the model's."""


EXPORTERS: Registry[type[Exporter]] = Registry(
    "export format", package="manyview.scene", group="manyview.exporters", subclass_of=Exporter
)


def export(scene: Scene, path: Path, to: str | None, options: Mapping[str, Any]) -> Path:
    """Write a scene in the format `to`, or in that of the path's suffix; returns what was written.

    A path without a suffix gets the format's. Raises UserError for an unknown format, suffix or option, and for a scene
    without a camera.
    """
    return write(from_dict(EXPORTERS.get(to or format_of(path)), dict(options)), scene, path)


def write(exporter: Exporter, scene: Scene, path: Path) -> Path:
    """Write the views that have a camera and share a frame; what is left out is warned about. Returns the path."""
    path = exporter.place(path)
    with one_file(path, overwrite=exporter.overwrite) if exporter.suffix else nullcontext():
        chosen, notes = presentable(exporter, scene)
        for note in notes:
            warnings.warn(note, stacklevel=3)
        return exporter.write(chosen, path)


def presentable(exporter: Exporter, scene: Scene) -> tuple[Scene, list[str]]:
    """The part of a scene that an exporter writes, and a sentence each for what is missing or doubtful in it."""
    lost = [view.name for view in scene.views if view.cam2world is None]
    if len(lost) == len(scene):
        raise UserError(
            "no photo of this scene has a camera, so there is nothing to export: take photos that overlap more, or "
            "reconstruct with --cameras model for the network's own unchecked guess"
        )
    notes = []
    if lost:
        notes.append(f"{len(lost)} of {len(scene)} photos have no camera and are left out: {_few(lost)}")
    placed = scene.of([index for index, view in enumerate(scene.views) if view.cam2world is not None])
    sizes = Counter(view.component for view in placed.views)
    if exporter.component is not None or not exporter.several:
        number = min(sizes, key=lambda n: (-sizes[n], n)) if exporter.component is None else exporter.component
        if number not in sizes:
            known = ", ".join(f"{n} ({sizes[n]} photos)" for n in sorted(sizes))
            raise UserError(f"component {number} has no photo with a camera; choose one of {known}")
        placed = placed.part(number)
        if len(sizes) > 1:
            notes.append(
                f"this is set {number} of {len(sizes)} that nothing joins, {len(placed)} of {len(scene)} photos; "
                "component=N (--component N) takes another"
            )
    if not len(placed.cloud(min_confidence=exporter.min_confidence, quantile=exporter.quantile, most=1)):
        notes.append(
            "not one point is left to write: all are masked, contradicted by other views, or below min_confidence"
        )
    guessed = [view.name for view in placed.views if view.rests_on == "model"]
    if guessed and len(scene) > 1:
        notes.append(f"the cameras of {len(guessed)} photos are the network's word, unchecked: {_few(guessed)}")
    return replace(placed, info={**placed.info, "left_out": notes}), notes


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def format_of(path: Path) -> str:
    """The format that a path says: by its suffix, or by a folder's name that is or ends like that of a format."""
    kinds = {name: EXPORTERS.get(name).suffix for name in EXPORTERS.names()}
    for name, suffix in kinds.items():
        if suffix and path.suffix.lower() == suffix:
            return name
        if not suffix and re.search(rf"(^|[-_. ]){re.escape(name)}$", path.name.lower()):
            return name
    suffixes = sorted(suffix for suffix in kinds.values() if suffix)
    folders = [name for name, suffix in kinds.items() if not suffix]
    raise UserError(
        f"{path} does not say which format it is: end it in {' or '.join(suffixes)}, call a folder "
        f"{' or '.join(folders)}, or name a format with --to {'|'.join(kinds)} (to=…)"
    )
