"""How a cache is written so that a killed build loses at most the sample in work.

An archive is put whole into its place, then its line is appended to the shard's index. Opening the journal again drops
what a crash left half done; closing it puts the lines in order, and joins the shards of a finished cache, so that an
interrupted, a sharded and an uninterrupted build end with the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from manyview.cache.record import SAMPLES, Record, work_folder
from manyview.cache.store import Entry, archive_name, index_files, read_index, read_lines
from manyview.files import clear_drafts, replace_file, write_bytes, writing


class Journal:
    """The index of one shard of a cache while it is being built."""

    def __init__(self, out: Path, index: Path, entries: dict[str, Entry]) -> None:
        self.out, self.index = out, index
        self.entries = entries
        """Archives of this shard that lie whole in their place."""

    def add(self, entry: Entry, content: bytes) -> None:
        """Archive first, then its line: the index never names what is not there.

        An archive that gets another teacher's answers is replaced after its new line: of two lines that one counts
        whose archive is there, so that what was answered before is never asked again.
        """
        steps = [lambda: replace_file(self.out / entry.archive, content), lambda: self._append(entry)]
        kept = f"the {len(self.entries)} samples written before are kept"
        with writing(str(self.out), kept=kept, mend="free some space, then run the same line again"):
            for step in steps[::-1] if entry.archive in self.entries else steps:
                step()
        self.entries[entry.archive] = entry

    def _append(self, entry: Entry) -> None:
        with open(self.index, "ab") as handle:
            handle.write(entry.to_line().encode())
            handle.flush()
            os.fsync(handle.fileno())


@contextmanager
def journal(out: Path, record: Record, shard: tuple[int, int]) -> Iterator[Journal]:
    """The journal of shard (i, n) of the cache `out`, whose record is written. Closing it leaves the index in order."""
    part, parts = shard
    first, count = next(iter(record.teachers)), record.about["samples"]
    index = out / ("index.jsonl" if parts == 1 else f"index-{part}-of-{parts}.jsonl")
    numbers = {archive_name(number) for number in range(part, count, parts)}
    yield Journal(out, index, _resume(out, index, numbers, first))
    with work_folder(out).lock(wait=True):
        if index.exists():
            _rewrite(index, _present(out, read_lines(index, first), numbers))
        _join_shards(out, record)


def _resume(out: Path, index: Path, numbers: set[str], first: str) -> dict[str, Entry]:
    """Archives of this shard that lie whole in their place; mends the index and clears half-written files.

    A build of everything takes over the lines that earlier shards have written.
    """
    clear_drafts(out / SAMPLES, [Path(archive).name for archive in numbers])
    own = _present(out, read_lines(index, first), numbers)
    others = [path for path in index_files(out) if path != index]
    rest = _present(out, [entry for path in others for entry in read_lines(path, first)], numbers)
    if index.name == "index.jsonl":
        own = {**rest, **own}
    _rewrite(index, own)
    return {**rest, **own}


def _present(out: Path, entries: list[Entry], numbers: set[str]) -> dict[str, Entry]:
    """The entries of these archives that are there with the right length, the last one that fits of each."""
    present = {}
    for entry in entries:
        with suppress(OSError):
            if entry.archive in numbers and (out / entry.archive).stat().st_size == entry.bytes:
                present[entry.archive] = entry
    return present


def _join_shards(out: Path, record: Record) -> None:
    """One index instead of the shards' once every sample has every answer."""
    entries = read_index(out, next(iter(record.teachers)))
    shards = [path for path in index_files(out) if path.name != "index.jsonl"]
    done = sum(entry.teachers.keys() == record.teachers.keys() for entry in entries)
    if shards and done == record.about["samples"]:
        _rewrite(out / "index.jsonl", {entry.archive: entry for entry in entries})
        for path in shards:
            path.unlink(missing_ok=True)


def _rewrite(index: Path, entries: Mapping[str, Entry]) -> None:
    """Exactly these lines, in order of their archives; not touched when they are there already."""
    content = "".join(entries[archive].to_line() for archive in sorted(entries)).encode()
    if not index.exists() or index.read_bytes() != content:
        write_bytes(index, content)
