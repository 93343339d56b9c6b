"""A large file from a plain link: resumed after an interruption, checked, visible only when whole."""

from __future__ import annotations

import errno
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

from manyview.progress import track

CHUNK = 1 << 20
TIMEOUT = 30.0
TRIES = 3


class FetchError(Exception):
    """Why a file could not be had, in one line without its end."""


def fetch(
    url: str, target: Path, *, size: int | None = None, sha256: str | None = None, timeout: float = TIMEOUT
) -> Path:
    """Download `url` to `target`; an earlier attempt that broke off (`target`.part) is continued.

    Raises FetchError when the link does not answer, the disk is full, or size or hash are not the expected.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(TRIES):
            total = _go_on(url, part, timeout)
            have = part.stat().st_size
            if total is None or have >= total:
                break
            if attempt == TRIES - 1:
                raise FetchError(
                    f"the connection broke after {have} of {total} bytes; run the same again to go on from there"
                )
        _check(part, size if size is not None else total, sha256)
        os.replace(part, target)
        _tag(part).unlink(missing_ok=True)
    except urllib.error.HTTPError as error:
        raise FetchError(f"{url} answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise FetchError(f"{url} cannot be reached ({error.reason}); is there a network?") from error
    except (TimeoutError, HTTPException, ConnectionError) as error:
        raise FetchError(
            f"{url} stopped answering ({error or type(error).__name__}); run the same again to go on"
        ) from error
    except OSError as error:
        full = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise FetchError(f"cannot write {part}: {full}") from error
    return target


def _tag(part: Path) -> Path:
    """Where the server's name for this version of the file is kept, so that two versions are never mixed."""
    return part.with_name(f"{part.name}.etag")


def _go_on(url: str, part: Path, timeout: float) -> int | None:
    """Append what is missing; the whole size when the server tells it."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "manyview"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if _tag(part).is_file():
            request.add_header("If-Range", _tag(part).read_text(encoding="utf-8"))
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing is left to send, or the part is none of this file
            raise
        whole = error.headers.get("Content-Range", "").rpartition("/")[2]
        if whole == str(have):
            return have
        part.unlink()
        return _go_on(url, part, timeout)
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        if etag := response.headers.get("ETag"):
            _tag(part).write_text(etag, encoding="utf-8")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        steps = None if total is None else -(-(total - have) // CHUNK)
        with part.open("ab" if resumed else "wb") as stream:
            label = f"{part.name.removesuffix('.part')} (MiB)"
            for chunk in track(_chunks(response), total=steps, label=label, unit="MiB"):
                stream.write(chunk)
    return total


def _chunks(response: Any) -> Iterator[bytes]:
    while chunk := response.read(CHUNK):
        yield chunk


def _check(part: Path, size: int | None, sha256: str | None) -> None:
    """Remove a file that is not the expected one: going on with it could never mend it."""
    have = part.stat().st_size
    if size is not None and have != size:
        part.unlink()
        raise FetchError(f"it is {have} bytes long and should be {size}; it was removed, try again")
    if sha256 is None:
        return
    if (digest := sha256_of(part)) != sha256:
        part.unlink()
        raise FetchError(f"its sha256 is {digest[:12]}… and should be {sha256[:12]}…; it was removed, try again")


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
