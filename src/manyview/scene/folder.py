"""Files and folders that appear whole or not at all, and never in the place of something else."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from manyview.errors import UserError


def refuse_other_content(directory: Path, is_ours: Callable[[Path], bool], what: str) -> None:
    """Raise UserError when writing to `directory` would destroy something that is not `what`."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; choose a directory for the {what}")
    if directory.is_dir() and any(directory.iterdir()) and not is_ours(directory):
        raise UserError(f"{directory} is not empty and holds no {what} of ours; choose another directory")


@contextmanager
def fresh_directory(
    directory: Path, *, is_ours: Callable[[Path], bool], own: Sequence[str], what: str
) -> Iterator[Path]:
    """Yield an empty directory beside `directory` that takes its place when the block ends well.

    An older one of ours is replaced; what else a user put there (entries not named in `own`) is carried over.
    """
    directory = directory.absolute()
    refuse_other_content(directory, is_ours, what)
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".tmp", dir=directory.parent))
    try:
        fresh.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        yield fresh
        _move_into_place(fresh, directory, own)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def fresh_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends well."""
    if path.is_dir():
        raise UserError(f"{path} is a directory; give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _move_into_place(fresh: Path, directory: Path, own: Sequence[str]) -> None:
    if not directory.exists():
        fresh.rename(directory)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".old", dir=directory.parent))
    directory.replace(old / "kept")
    fresh.rename(directory)
    for entry in (old / "kept").iterdir():
        if entry.name not in own:
            entry.rename(directory / entry.name)
    shutil.rmtree(old, ignore_errors=True)
