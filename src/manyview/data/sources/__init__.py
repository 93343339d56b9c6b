"""Where frames come from, a function per format; `scan` turns any of them into a manifest."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from manyview.data.manifest import Manifest
from manyview.data.sources.base import SOURCES, Reader, ScanOptions, Scenes, Source, images_of, reader
from manyview.data.sources.rows import Camera, Problem, Row
from manyview.errors import UserError

__all__ = [
    "SOURCES",
    "Camera",
    "Problem",
    "Reader",
    "Row",
    "ScanOptions",
    "Scenes",
    "Source",
    "images_of",
    "option_names",
    "options_for",
    "reader",
    "scan",
]

_LISTED = 1000  # problems kept in the manifest itself


def scan(src: str | Path, *, format: str, options: ScanOptions | None = None) -> tuple[Manifest, list[Problem]]:
    """Look at all of `src`: the manifest of what is good (not saved yet), and what was left out and why.

    Raises UserError when nothing is good, and for poses, intrinsics or depth files that cannot be right.
    """
    src, chosen = Path(src), SOURCES.get(format)
    if not src.exists():
        raise UserError(f"nothing to scan: {src} does not exist; check the path")
    fitting = options_for(format, **vars(options or ScanOptions()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # damaged files are listed with the reason
        source = chosen.scan(src, fitting, format)
    problems = source.problems
    if not source.frames:
        first = f"; first: {problems[0].path}: {problems[0].reason}" if problems else ""
        raise UserError(f"no usable frame in {src} ({len(problems)} left out{first})")
    listed = [[problem.path, problem.reason] for problem in problems[:_LISTED]]
    info = {"format": format, **source.info, "left_out": len(problems), "problems": listed}
    return Manifest(source.frames, source.root, info), problems


def options_for(format: str, **values: Any) -> ScanOptions:
    """The options that the reader of a format takes; None is an option's default.

    Raises UserError for a value of an option that this format does not have.
    """
    given = {name: value for name, value in values.items() if value is not None}
    own = option_names(format)
    for name in given:
        if name not in own:
            owners = [other for other in SOURCES.names() if name in option_names(other)]
            hint = "videos, not for --format {}; use --stride" if name == "fps" else "{1}, not for --format {0}"
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is for {hint.format(format, ', '.join(owners))}")
    return SOURCES.get(format).options(**given)


def option_names(format: str) -> list[str]:
    """The options that the reader of a format has."""
    return [field.name for field in dataclasses.fields(SOURCES.get(format).options)]
