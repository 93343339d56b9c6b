"""How a cache is written so that a killed build loses at most the sample in work.

An archive is put whole into its place, then its line is appended to the shard's index. Opening the journal
again drops what a crash left half done; closing it puts the lines in order, so that an interrupted and an
uninterrupted build end with the same bytes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from manyview.cache.store import FOLDER, META, Entry, Meta, index_files, read_lines, read_meta
from manyview.errors import UserError
from manyview.files import write_bytes


def archive_name(number: int) -> str:
    return f"{FOLDER}/{number:06d}.zip"


class Journal:
    """The index of one shard of a cache while it is being built."""

    def __init__(self, out: Path, index: Path, done: set[str]) -> None:
        self.out = out
        self.index = index
        self.done = done
        """Archives of this shard that lie whole in their place."""

    def add(self, entry: Entry, content: bytes) -> None:
        """Archive first, then its line: the index never names what is not there."""
        try:
            write_bytes(self.out / entry.archive, content)
            with open(self.index, "ab") as handle:
                handle.write(entry.to_line().encode())
                handle.flush()
                os.fsync(handle.fileno())
        except (OSError, UserError) as error:
            reason = str(error)
            if isinstance(error, OSError):
                reason = f"cannot write {self.index}: {error.strerror}; free some space"
            kept = f"the {len(self.done)} samples written before are kept, run the same line again"
            raise UserError(f"{reason}; {kept}") from error
        self.done.add(entry.archive)


@contextmanager
def journal(out: Path, meta: Meta, shard: tuple[int, int]) -> Iterator[Journal]:
    """The journal of shard (i, n) of the cache `out`, made if it is not there.

    Raises UserError when `out` was made with other settings, holds other things, cannot be written, or is
    being built by somebody else.
    """
    part, parts = shard
    with _owned(out, shard):
        _begin(out, meta)
        index = out / ("index.jsonl" if parts == 1 else f"index-{part}-of-{parts}.jsonl")
        done = _resume(out, index, range(part, meta.samples, parts), whole=parts == 1)
        yield Journal(out, index, done)
        _rewrite(index, {entry.archive: entry for entry in read_lines(index)})


@contextmanager
def _owned(out: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Keep a second build of the same shard out; the hold ends with the process, however it ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = open(out / f".building-{shard[0]}-of-{shard[1]}", "ab")  # noqa: SIM115
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot write to {out}: {reason}; choose another folder with -o") from error
    with handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on Windows
            pass
        except OSError as error:
            raise UserError(
                f"another build of {out} (shard {shard[0]}/{shard[1]}) is running; wait for it, or give each "
                "its own --shard i/n"
            ) from error
        try:
            yield
        finally:
            Path(handle.name).unlink(missing_ok=True)


def _begin(out: Path, meta: Meta) -> None:
    """Make the cache, or see that the one that is there has the same settings; an empty one is replaced."""
    there = read_meta(out)
    if there is not None and any((out / FOLDER).glob("*.zip")):
        _check_same(out, there, meta)
    else:
        ours = re.compile(rf"\..*|{re.escape(META)}|{FOLDER}|index.*\.jsonl")
        foreign = sorted(path.name for path in out.iterdir() if not ours.fullmatch(path.name))
        if there is None and foreign:
            raise UserError(
                f"{out} holds other files ({foreign[0]}) and no cache; choose another folder with -o"
            )
        text = json.dumps(meta.to_json(), indent=1, ensure_ascii=False) + "\n"
        write_bytes(out / META, text.encode())
    (out / FOLDER).mkdir(exist_ok=True)


def _check_same(out: Path, there: Meta, wanted: Meta) -> None:
    found, asked = _flat(asdict(there)), _flat(asdict(wanted))
    # The digest and the number of samples follow from the others: named only when nothing else differs.
    last = ("samples", "digest")
    for name in [*(name for name in {**found, **asked} if name not in last), *last]:
        ours, theirs = found.get(name), asked.get(name)
        if name != "manifest_path" and ours != theirs:
            raise UserError(
                f"{out} is a cache with {name} = {_short(ours)}, this build has {_short(theirs)}; choose "
                "another folder with -o, or build with the cache's settings"
            )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat = {}
    for name, value in values.items():
        parts = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else None
        flat.update({name: value} if parts is None else parts)
    return flat


def _short(value: Any) -> str:
    text = "x".join(map(str, value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _resume(out: Path, index: Path, mine: range, *, whole: bool) -> set[str]:
    """Archives of this shard that lie whole in their place; mends the index and clears half-written files.

    A build of everything takes over the lines that earlier shards have written.
    """
    for path in (out / FOLDER).iterdir():
        match = re.fullmatch(r"\.(\d+)\.zip\.\d+\.tmp", path.name)
        if match and int(match[1]) in mine:
            path.unlink(missing_ok=True)
    numbers = {archive_name(number) for number in mine}
    own = _present(out, read_lines(index), numbers)
    others: dict[str, Entry] = {}
    for path in index_files(out):
        if path != index:
            others |= _present(out, read_lines(path), numbers)
    if whole:
        own, others = {**others, **own}, {}
    _rewrite(index, own)
    return set(own) | set(others)


def _present(out: Path, entries: list[Entry], numbers: set[str]) -> dict[str, Entry]:
    """The entries of these numbers whose archives are there with the right length."""
    found = {}
    for entry in entries:
        path = out / entry.archive
        if entry.archive in numbers and path.is_file() and path.stat().st_size == entry.bytes:
            found[entry.archive] = entry
    return found


def _rewrite(index: Path, entries: Mapping[str, Entry]) -> None:
    """Exactly these lines, in order of their archives; not touched when they are there already."""
    content = "".join(entries[archive].to_line() for archive in sorted(entries)).encode()
    if not index.exists() or index.read_bytes() != content:
        write_bytes(index, content)
