"""Names and files: the natural order of names, and writes that are either whole or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path, PurePath

from manyview.errors import UserError

_NUMBER = re.compile(r"([0-9]+)")


def natural_key(name: str | PurePath) -> tuple[tuple[tuple[tuple[str, int], ...], ...], str]:
    """Sort key that puts img2 before img10, folder by folder, whatever the case of the letters."""
    text = name if isinstance(name, str) else name.as_posix()
    return tuple(
        _runs(part.casefold()) for part in text.split("/")
    ), text  # the text breaks ties: img1, img01


def _runs(text: str) -> tuple[tuple[str, int], ...]:
    """Text as alternating (letters, number) pairs."""
    pieces = _NUMBER.split(text)
    pieces.append("0")
    return tuple((pieces[i], int(pieces[i + 1])) for i in range(0, len(pieces), 2))


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` so that readers see the old file or the whole new one, never a part.

    Raises UserError when the disk is full or the place cannot be written; an older file is then kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {_why(error)}") from error


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "no space left on the disk; free some, or choose another place with -o (the older file is kept)"
        )
    return f"{(error.strerror or str(error)).lower()}; choose another place with -o"
