"""Ask teachers once and keep their answers: one archive per sample, resumable, in shards.

A killed build loses at most the sample in work; run again, it goes on and ends with the bytes an uninterrupted build
would have written. Samples whose frames lack something, and teachers that say nothing of a sample, are left out and
reported, the others are built. A build with another teacher adds its answers to the samples of a cache.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from manyview.cache.journal import journal
from manyview.cache.making import Maker, Problem
from manyview.cache.options import Keep
from manyview.cache.record import Asked, Record, TeacherCard, claim, work_folder
from manyview.cache.store import Store, archive_name
from manyview.data.manifest import Manifest
from manyview.data.sampling import windows
from manyview.errors import UserError
from manyview.progress import track

WORTH_SAYING = 10.0
"""Seconds; shorter builds are over before anybody could stop them."""


@dataclass(frozen=True)
class BuildReport:
    """What one call of `build` did."""

    written: int
    skipped: int
    """Samples that were there already."""
    problems: list[Problem] = field(default_factory=list)
    seconds: float = 0.0


def build(
    manifest: Manifest | str | Path,
    teachers: Asked | Sequence[Asked],
    out: str | Path,
    *,
    views: int,
    step: int | None = None,
    size: tuple[int, int],
    shard: tuple[int, int] = (0, 1),
    keep: Keep = "float16",
    device: str | torch.device = "cpu",
    say: Callable[[str], None] | None = None,
) -> BuildReport:
    """Fill the cache `out` with the teachers' answers for windows of `views` frames, a new one every `step`.

    `step` defaults to `views`. `shard` = (i, n): only every n-th window, from the i-th; the shards of one cache may
    run side by side. keep: how tokens and features are kept. device: where the teachers' networks run. say: is told
    the time and the space that a long build will take, once its first sample is there.

    Raises UserError when `out` was made with other settings, when the disk is full (what is written stays), and when
    not one sample can be made.
    """
    start, out = time.perf_counter(), Path(out)
    hint = None if isinstance(manifest, Manifest) else Path(manifest)
    manifest = manifest if isinstance(manifest, Manifest) else Manifest.load(manifest)
    asked = list(teachers) if isinstance(teachers, Sequence) else [teachers]
    _check(size, shard, asked)
    step = views if step is None else step
    groups = windows(manifest, views, step)
    if not groups:
        raise UserError(
            "the manifest has no frames, so there is nothing to ask the teacher; scan some data first"
        )
    about = {
        "size": list(size), "views": views, "step": step, "samples": len(groups), "manifest": manifest.digest(),
        "manifest_path": None if hint is None else _relative(hint, out),
    }  # fmt: skip
    record = Record(about, {teacher.name: TeacherCard.of(teacher, keep) for teacher in asked})
    part, parts = shard
    busy = f"another build of {out} (shard {part}/{parts}) is running; wait for it, or give each its own --shard i/n"
    problems: list[Problem] = []
    with work_folder(out).lock(f".building-{part}-of-{parts}", busy=busy):
        record = claim(out, record, mend="choose another folder with -o, or build with the cache's settings")
        maker = Maker(manifest, groups, asked, Store(out, record), size, torch.device(device))
        with journal(out, record, shard) as written:
            mine = range(part, len(groups), parts)
            todo = [n for n in mine if maker.missing(written.entries.get(archive_name(n)))]
            progress = _Progress(out, len(todo), say)
            for number in track(todo, label=f"{', '.join(record.teachers)} cache", unit="sample"):
                made = maker.sample(number, written.entries.get(archive_name(number)), problems)
                if made is not None:
                    written.add(*made)
                    progress.after(made[0].bytes)
            nothing = problems and not written.entries
    if nothing:
        raise UserError(f"not one of {len(problems)} samples could be made; the first: {problems[0].reason}")
    return BuildReport(progress.written, len(mine) - len(todo), problems, time.perf_counter() - start)


def _check(size: tuple[int, int], shard: tuple[int, int], teachers: Sequence[Asked]) -> None:
    if min(size) < 1:
        raise UserError(f"size {size[0]}x{size[1]} has no pixels; give HxW with both at least 1")
    part, parts = shard
    if not 0 <= part < parts:
        raise UserError(f"shard {part}/{parts} does not exist; give i/n with i from 0 to n-1")
    names = [teacher.name for teacher in teachers]
    for name in names:
        if names.count(name) > 1 or not re.fullmatch(r"[\w-]+", name):
            raise UserError(
                f"a teacher is called {name!r}; give each a name of its own, of letters, digits, - and _: "
                "--teacher NAME=SOURCE"
            )


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # two drives
        return path.resolve().as_posix()


class _Progress:
    """Counts what is written and says, after the first sample, what the others will take."""

    def __init__(self, out: Path, todo: int, say: Callable[[str], None] | None) -> None:
        self.out, self.todo, self.say = out, todo, say
        self.start, self.written = time.perf_counter(), 0

    def after(self, size: int) -> None:
        """A sample of so many bytes was written."""
        self.written += 1
        if self.written == 1 and self.todo > 1 and self.say is not None:
            left = self.todo - 1
            seconds = (time.perf_counter() - self.start) * left
            free = shutil.disk_usage(self.out).free
            short = "; that is more than is free" if free < size * left else ""
            if seconds > WORTH_SAYING or short:
                self.say(
                    f"{left} more samples will take about {seconds / 60:.1f} minutes and {size * left / 1e6:.1f} MB; "
                    f"{free / 1e6:.0f} MB are free on this disk{short}"
                )
