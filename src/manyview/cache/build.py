"""Ask teachers once and keep their answers: one archive per sample, resumable, in shards.

A killed build loses at most the sample in work; run again, it goes on and ends with the bytes an uninterrupted build
would have written. Samples whose frames lack something, and teachers that say nothing of a sample, are left out and
reported, the others are built. A build with another teacher adds its answers to the samples of a cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from manyview.cache import archive, signals
from manyview.cache.codec import ON_AXES, BrokenArchive
from manyview.cache.journal import journal
from manyview.cache.options import Keep, KeepMaps
from manyview.cache.record import Record, TeacherCard, claim, read_record, work_folder
from manyview.cache.signals import Packed
from manyview.cache.store import Entry, Problem, Store, answers_in, archive_name
from manyview.data.loading import load_views
from manyview.data.manifest import Frame, Manifest, pose_problem
from manyview.data.sampling import windows
from manyview.errors import UserError
from manyview.images.fit import same_pixels
from manyview.progress import track
from manyview.types import Signal, Teacher

FITTED, MOST_ROWS = 16, 32_768
"""Samples, evenly spread, and (D,) values of them to which principal axes are fitted, at most."""
WORTH_SAYING = 10.0
"""Seconds; shorter builds are over before anybody could stop them."""


@dataclass(frozen=True)
class BuildReport:
    """What one call of `build` did."""

    written: int
    skipped: int
    """Samples that were there already."""
    problems: list[Problem] = field(default_factory=list)
    """Samples that could not be made, or that a teacher has no answer to."""
    seconds: float = 0.0


def build(
    manifest: Manifest | str | Path,
    teachers: Teacher | Sequence[Teacher],
    out: str | Path,
    *,
    views: int,
    step: int | None = None,
    size: tuple[int, int],
    aspect: Literal["size", "own"] = "size",
    samples: Sequence[Sequence[int]] | None = None,
    shard: tuple[int, int] = (0, 1),
    keep: Keep = "float16",
    maps: KeepMaps | None = None,
    device: str | torch.device = "cpu",
    say: Callable[[str], None] | None = None,
) -> BuildReport:
    """Fill the cache `out` with the teachers' answers for windows of `views` frames, a new one every `step`.

    `step` defaults to `views`. `shard` = (i, n): only every n-th window, from the i-th; the shards of one cache may
    run side by side. aspect "own": `size` is a number of pixels, samples take the aspect of their first frame. samples:
    rows of the manifest instead of windows, at most `views` each. keep, maps: how features and maps are kept (maps
    None: as `out` keeps them, compact in a new one). device: where the teachers' networks run. say: is told the time
    and the space that a long build will take, once its first sample is there.

    Raises UserError when `out` was made with other settings, when the disk is full (what is written stays), and when
    not one sample can be made.
    """
    start, out, step = time.perf_counter(), Path(out), views if step is None else step
    asked = list(teachers) if isinstance(teachers, Sequence) else [teachers]
    part, parts = shard
    _check(size, shard, [teacher.name for teacher in asked])
    place = None if isinstance(manifest, Manifest) else _relative(Path(manifest), out)
    manifest = manifest if isinstance(manifest, Manifest) else Manifest.load(manifest)
    groups = windows(manifest, views, step) if samples is None else [list(rows) for rows in samples]
    if not groups:
        raise UserError("the manifest has no frames, so there is nothing to ask the teacher; scan some data first")
    about = {
        "size": list(size),
        "views": views,
        "step": step,
        "samples": len(groups),
        "manifest": manifest.digest(),
        "files": manifest.files_digest(),
        "manifest_path": place,
        **({"aspect": "own"} if aspect == "own" else {}),
        **({} if samples is None else {"rows": hashlib.sha256(repr(groups).encode()).hexdigest()}),
    }
    here = read_record(out)
    cards = {teacher.name: TeacherCard.of(teacher, keep, maps or _maps_of(here, teacher.name)) for teacher in asked}
    record = Record(about, cards)
    busy = f"another build of {out} (shard {part}/{parts}) is running; wait for it, or give each its own --shard i/n"
    mine, problems, written = range(part, len(groups), parts), list[Problem](), 0
    with work_folder(out).lock(f".building-{part}-of-{parts}", busy=busy):
        record = claim(out, record, mend="choose another folder with -o, or build with the cache's settings")
        maker = _Maker(manifest, groups, asked, Store(out, record), size, aspect, torch.device(device), problems)
        with journal(out, record, shard) as kept:
            todo = [n for n in mine if maker.missing(kept.entries.get(archive_name(n)))]
            begun = time.perf_counter()
            for number in track(todo, label=f"{', '.join(record.teachers)} cache", unit="sample"):
                made = maker.sample(number, kept.entries.get(archive_name(number)))
                if made is not None:
                    kept.add(*made)
                    written += 1
                    if written == 1 and say is not None:
                        _estimate(len(todo) - 1, time.perf_counter() - begun, made[0].bytes, out, say)
        if problems and not kept.entries:
            raise UserError(f"not one of {len(problems)} samples could be made; the first: {problems[0].reason}")
    return BuildReport(written, len(mine) - len(todo), problems, time.perf_counter() - start)


def _maps_of(here: Record | None, teacher: str) -> KeepMaps:
    return here.teachers[teacher].maps if here is not None and teacher in here.teachers else "compact"


def _check(size: tuple[int, int], shard: tuple[int, int], names: list[str]) -> None:
    if min(size) < 1:
        raise UserError(f"size {size[0]}x{size[1]} has no pixels; give HxW with both at least 1")
    if not 0 <= shard[0] < shard[1]:
        raise UserError(f"shard {shard[0]}/{shard[1]} does not exist; give i/n with i from 0 to n-1")
    if not names:
        raise UserError("no teacher is named; give at least one, such as sensor")
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


def _estimate(left: int, seconds: float, size: int, out: Path, say: Callable[[str], None]) -> None:
    """Say what so many more samples like the first one will take, when that is long or does not fit."""
    free = shutil.disk_usage(out).free
    short = "; that is more than is free" if free < size * left else ""
    if left and (seconds * left > WORTH_SAYING or short):
        say(
            f"{left} more samples will take about {seconds * left / 60:.1f} minutes and {size * left / 1e6:.1f} MB; "
            f"{free / 1e6:.0f} MB are free on this disk{short}"
        )


@dataclass(frozen=True)
class _Maker:
    """Makes the samples of a cache, which are windows of a manifest's frames."""

    manifest: Manifest
    windows: list[list[int]]
    teachers: list[Teacher]
    store: Store
    size: tuple[int, int]
    aspect: str
    device: torch.device
    problems: list[Problem]

    def missing(self, before: Entry | None) -> list[Teacher]:
        """The teachers whose answers a sample does not have yet."""
        return [teacher for teacher in self.teachers if before is None or teacher.name not in before.teachers]

    def sample(self, number: int, before: Entry | None) -> tuple[Entry, bytes] | None:
        """Index line and archive of a sample, with the answers that it had before; None when nothing is new."""
        answers = {}
        for teacher in self.missing(before):
            try:
                answers[teacher.name] = self._answer(teacher, number)
            except UserError as error:
                reason = str(error) if len(self.teachers) == 1 else f"teacher {teacher.name}: {error}"
                self.problems.append(Problem(archive_name(number), reason))
        try:
            return self._joined(number, before, answers) if answers else None
        except BrokenArchive as error:
            reason = f"{archive_name(number)} is damaged: {error}; delete it and ask all its teachers again"
            self.problems.append(Problem(archive_name(number), reason))
            return None

    def size_of(self, number: int) -> tuple[int, int]:
        """(H, W) of a sample."""
        if self.aspect == "size":
            return self.size
        first = self.manifest[self.windows[number][0]]
        return same_pixels(self.size, (first.height, first.width))

    def _ask(self, teacher: Teacher, number: int) -> dict[str, Signal]:
        """Raises UserError when a frame lacks what the teacher needs."""
        indices = self.windows[number]
        for frame in (self.manifest[i] for i in indices):
            lack = _lack(self.manifest, frame, teacher.requires, alone=len(indices) == 1)
            if lack:
                raise UserError(f"frame {frame.image!r} {lack}")
        views = load_views(self.manifest, indices, self.size_of(number), depth="depth" in teacher.requires)
        return teacher(views.to(self.device) if teacher.has_network else views)

    def _answer(self, teacher: Teacher, number: int) -> Packed:
        card, answers = self.store.teacher(teacher.name), self._ask(teacher, number)
        expected = (len(self.windows[number]), *self.size_of(number))
        for name in {*card.weighted_by, *card.weighted_by.values()} & set(answers):
            shape = tuple(answers[name].value.shape[1:4])
            if shape != expected:
                raise RuntimeError(f"teacher {card.name}: {name} has (V, H, W) = {shape}, not {expected}")
        packed = signals.pack(card, answers)
        for name, encoding in packed.encodings.items():
            if encoding in ON_AXES:
                rows = partial(self._rows, teacher, name.partition("/")[2])
                self.store.fit_basis(name, rows, share=ON_AXES[encoding])
        return packed

    def _rows(self, teacher: Teacher, signal: str) -> np.ndarray:
        """(N, D) values of a signal over windows that are spread evenly: the same ones whichever shard asks."""
        spread = np.linspace(0, len(self.windows) - 1, min(FITTED, len(self.windows)))
        parts = []
        for number in spread.round().astype(int).tolist():
            with suppress(UserError):  # a window that this teacher cannot answer
                values = self._ask(teacher, number)[signal].value.float().cpu().flatten(0, -2).numpy()
                parts.append(values[:: -(-len(values) * len(spread) // MOST_ROWS)])
        return np.concatenate(parts)

    def _joined(self, number: int, before: Entry | None, answers: dict[str, Packed]) -> tuple[Entry, bytes]:
        """Raises BrokenArchive when what was there before cannot be read."""
        frames = [self.manifest[i] for i in self.windows[number]]
        onto = None if before is None else self.store.folder / before.archive
        teachers = {} if onto is None else answers_in(archive.decode_archive(onto, wanted=lambda header: ())[0])
        for name, packed in answers.items():
            teachers[name] = {"digest": self.store.teacher(name).digest, "signals": packed.parts}
        names, scene = [frame.image for frame in frames], frames[0].scene
        content = archive.encode_archive(
            {name: values for packed in answers.values() for name, values in packed.fields.items()},
            {"format": "manyview cached sample", "scene": scene, "frames": names, "teachers": teachers},
            encodings={name: how for packed in answers.values() for name, how in packed.encodings.items()},
            bases=self.store.basis,
            onto=onto,
        )
        raw = sum(packed.raw_bytes for packed in answers.values()) + (before.raw_bytes if before else 0)
        units = {**(before.teachers if before else {}), **{name: p.units for name, p in answers.items()}}
        units = {name: units[name] for name in self.store.record.teachers if name in units}
        digest = hashlib.sha256(content).hexdigest()
        size = None if self.aspect == "size" else self.size_of(number)
        return Entry(archive_name(number), digest, len(content), raw, scene, names, units, size), content


def _lack(manifest: Manifest, frame: Frame, requires: frozenset[str], *, alone: bool) -> str | None:
    """What a frame lacks and how to mend it; looked at before anything is decoded."""
    if "depth" in requires:
        if frame.depth is None:
            return "has no measured depth; scan with a format that has depth, or use another teacher"
        if not manifest.path(frame.depth).is_file():
            return f"has no depth file at {manifest.path(frame.depth)}; put it back or scan the data again"
    if "intrinsics" in requires and frame.intrinsics is None:
        return "has no intrinsics (fx, fy, cx, cy); add them to the source and scan again"
    if "cam2world" in requires and not alone:
        if frame.pose is None:
            return "has no pose (cam2world); add poses and scan again, or build with --views 1"
        wrong = pose_problem(frame.pose)
        if wrong:
            return f"has a pose (cam2world) that {wrong}; mend it in the source or leave the frame out"
    return None
