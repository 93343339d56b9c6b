"""Where frames come from, one small file per format; `scan` turns any of them into a manifest."""

from __future__ import annotations

import warnings
from pathlib import Path

from manyview.data.manifest import Manifest
from manyview.data.sources.base import SOURCES, Problem, Scanned, ScanOptions
from manyview.errors import UserError

__all__ = ["SOURCES", "Problem", "ScanOptions", "Scanned", "scan"]

_LISTED = 1000  # problems kept in the manifest itself


def scan(
    src: str | Path, *, format: str, options: ScanOptions | None = None
) -> tuple[Manifest, list[Problem]]:
    """Look at all of `src`: the manifest of what is good (not saved yet), and what was left out and why.

    Raises UserError when nothing is good, and for poses, intrinsics or depth files that cannot be right.
    """
    src, options = Path(src), options or ScanOptions()
    source = SOURCES.get(format)
    if not src.exists():
        raise UserError(f"nothing to scan: {src} does not exist; check the path")
    if format != "video" and options.fps is not None:
        raise UserError(f"--fps is for videos, not for --format {format}; use --stride")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # damaged files are listed with the reason
        found = source(src, options)
    if not found.frames:
        first = f"; first: {found.problems[0].path}: {found.problems[0].reason}" if found.problems else ""
        raise UserError(f"no usable frame in {src} ({len(found.problems)} left out{first})")
    skipped = [[problem.path, problem.reason] for problem in found.problems[:_LISTED]]
    info = {"format": format, **found.info, "left_out": len(found.problems), "problems": skipped}
    return Manifest(found.frames, found.root, info), found.problems
