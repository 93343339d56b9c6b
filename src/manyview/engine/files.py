"""Writing that is either whole or not there, and a full disk told as the user's problem."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from manyview.errors import UserError

RESUME = "free some space (or mend the folder's rights), then go on with --resume"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` against a second process; the system lets go when this one ends, however it ends.

    Where the file system has no locks, nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is training in {folder}; wait for it or choose another folder with -o"
            ) from error
        except OSError:
            pass
        yield


@contextmanager
def writing(what: str, *, kept: str = "", mend: str = RESUME) -> Iterator[None]:
    """Turn a failed write (disk full, quota, rights) into a UserError that says what is kept.

    PyTorch and safetensors wrap the system's error in RuntimeError and SafetensorError.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
        keeps = f"{kept}; " if kept else ""
        raise UserError(f"could not write {what}: {reason}; {keeps}{mend}") from error


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut (nothing to do where folders cannot be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` at once: readers see the old file or the new one, never a half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
