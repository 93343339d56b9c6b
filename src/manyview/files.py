"""Files that are either whole or not there, names in their natural order, and failed writes told in one line.

Everything the package writes goes through here: a reader sees the old file or the new one, never a part.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from manyview.errors import UserError

RESUME = "free some space (or mend the folder's rights), then go on with --resume"
_NUMBER = re.compile(r"([0-9]+)")


def natural_key(name: str | PurePath) -> tuple[tuple[tuple[tuple[str, int], ...], ...], str]:
    """Sort key that puts img2 before img10, folder by folder, whatever the case of the letters."""
    text = name if isinstance(name, str) else name.as_posix()
    parts = tuple(_letters_and_numbers(part.casefold()) for part in text.split("/"))
    return parts, text  # the text breaks ties: img1, img01


def _letters_and_numbers(text: str) -> tuple[tuple[str, int], ...]:
    pieces = [*_NUMBER.split(text), "0"]
    return tuple((pieces[i], int(pieces[i + 1])) for i in range(0, len(pieces), 2))


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Put `content` at `path` in one move, flushed to the disk. Raises OSError; an older file is then kept."""
    with fresh_file(path) as temporary, open(temporary, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    sync_folder(path.parent)


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


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """`replace_file` for what a user asked for: raises UserError when the disk is full or the place is closed."""
    try:
        replace_file(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {_why(error)}") from error


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the disk; free some, or choose another place with -o (the older file is kept)"
    return f"{(error.strerror or str(error)).lower()}; choose another place with -o"


def write_text(path: Path, text: str) -> None:
    """Text as UTF-8; a file's name that is none keeps its bytes."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Indented JSON; NaN and infinities become null."""
    write_text(path, json.dumps(finite(value), indent=2) + "\n")


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line."""
    write_text(path, "".join(json.dumps(finite(row)) + "\n" for row in rows))


def read_json(path: Path, *, mend: str) -> Any:
    """What a JSON file holds. Raises UserError, with `mend` as advice, when it is missing or damaged."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = f"is {found}" if (found := stand_in(path, "file meant")) else f"is missing or damaged; {mend}"
        raise UserError(f"{path} {what}") from error


def read_object(path: Path, *, mend: str) -> dict[str, Any]:
    """What a JSON file of one object holds. Raises UserError, with `mend` as advice, for any other."""
    content = read_json(path, mend=mend)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not an object; {mend}")
    return content


def checksum(values: Mapping[str, Any]) -> str:
    """SHA-256 of JSON-able values, their own "sha256" left out."""
    content = {key: value for key, value in values.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parse_json(text: str | bytes) -> Any:
    """What a text of JSON says. Raises ValueError for any other, and for one that is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def stand_in(path: Path, wanted: str) -> str | None:
    """What lies in the place of a file that a download or a copy did not bring, and the mend; None for any other."""
    try:
        with path.open("rb") as file:
            return stand_in_of(file.read(200), wanted)
    except OSError:
        return None


def stand_in_of(head: bytes, wanted: str) -> str | None:
    """The same of a file's first bytes: a pointer of Git LFS or git-annex, a web page."""
    start = head.removeprefix(b"\xef\xbb\xbf").removeprefix(b"\xff\xfe").replace(b"\0", b"").lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return f"a Git LFS pointer, not the {wanted}; `git lfs pull` fetches what it points to, or download again"
    if b"annex/objects/" in start:
        return f"a git-annex pointer, not the {wanted}; `git annex get` fetches what it points to, or download again"
    if start.startswith(b"<"):
        return f"a web page, not the {wanted}: the download was refused or asks for a login; get it again"
    return None


def finite(value: Any) -> Any:
    """The same plain value with NaN and infinities as None: JSON knows neither."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return finite(value.tolist())
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """A compressed npz, without pickle."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getbuffer())


def write_npy(path: Path, values: np.ndarray) -> None:
    """One array as .npy. Unlike numpy's own writer a full disk raises an OSError that says so."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    path.write_bytes(buffer.getbuffer())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote. Raises UserError for a missing or damaged file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged data
        raise UserError(f"{path} is missing or damaged; delete it and run the same line again") from error


@contextmanager
def writing(what: str, *, kept: str = "", mend: str = RESUME) -> Iterator[None]:
    """Turn a failed write (disk full, quota, rights) into a UserError that says what is kept.

    PyTorch and safetensors wrap the system's error in RuntimeError and SafetensorError.
    """
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
        keeps = f"{kept}; " if kept else ""
        raise UserError(f"could not write {what}: {reason}; {keeps}{mend}") from error


BEFORE_MOVING: list[Callable[[Path, Path], None]] = []
"""Told of every whole draft and of the place that it is about to take; for `manyview.written` alone."""


@contextmanager
def fresh_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends well; what a link points to, not the link."""
    if path.is_dir():
        raise UserError(f"{path} is a directory; give the name of a file")
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(draft_name(path.name))
    try:
        yield temporary
        for tell in tuple(BEFORE_MOVING):
            tell(temporary, path)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


DRAFT = ".manyview-draft-"
"""How the names of half-written files and folders begin."""


def draft_name(name: str) -> str:
    """The name of this process's draft of `name`, short however long that is."""
    return f"{_drafts_of(name)}{_host()}.{os.getpid()}"


def clear_drafts(folder: Path, names: Iterable[str] | None = None) -> None:
    """Remove what killed processes of this machine left half-written in a folder; of `names`, whoever wrote it."""
    begins = None if names is None else tuple(map(_drafts_of, names))
    for path in folder.glob(f"{DRAFT}*"):
        *_, host, number = path.name.split(".")
        dead = host == _host() and number.isdigit() and not _alive(int(number))
        if dead if begins is None else path.name.startswith(begins):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _drafts_of(name: str) -> str:
    return f"{DRAFT}{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:12]}."


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # it is there, and somebody else's
    return True
