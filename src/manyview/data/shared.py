"""The rows of a large manifest once for the whole machine: whoever comes first writes them down, all others map them.

A run of eight ranks, each with its loading processes, then holds one copy in the memory that the system keeps of files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

from manyview.data.columns import Frames
from manyview.errors import UserError
from manyview.workfolder import WorkFolder

LOG = logging.getLogger(__name__)

LARGE = 1_000_000
"""Rows from which a manifest is shared."""
VERSION = 2
"""Of how rows lie in the file."""


def shared(path: Path, make: Callable[[], Frames]) -> Frames:
    """The frames of the manifest at `path`, mapped; `make` reads and checks them where no process has yet.

    The file is of this user alone, in the folder for temporary files, under a name that a change of the manifest
    changes. The process that wrote it takes it away at its end. Without room for it every process keeps its own rows.
    """
    folder = _folder()
    if folder is None:
        return make()
    about = path.stat()
    key = hashlib.sha256(f"{VERSION} {path.resolve()} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:32]
    rows = folder / f"rows-{key}.arrow"
    try:
        with WorkFolder(folder, "rows of manifests", "none").lock(f".{key}", wait=True):
            if rows.is_file():
                return Frames.mapped(rows)
            frames = make()
            try:
                frames.spill(rows)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                LOG.warning("no room in %s for the rows of %s (%s): every process keeps its own", folder, path, reason)
                return frames
    except UserError:  # a folder that cannot be written
        return make()
    mapped = Frames.mapped(rows)
    weakref.finalize(mapped, rows.unlink, missing_ok=True)
    return mapped


def _folder() -> Path | None:
    """A folder that nobody else can write in, or None."""
    user = os.getuid() if hasattr(os, "getuid") else "rows"
    folder = Path(tempfile.gettempdir()) / f"manyview-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        mine = not hasattr(os, "getuid") or (folder.lstat().st_uid == user and not folder.is_symlink())
    except OSError:
        return None
    return folder if mine else None
