"""Ask a teacher once and keep its answers: one archive per sample, resumable, in shards.

A killed build loses at most the sample in work; run again, it goes on and ends with the bytes an
uninterrupted build would have written. Samples whose frames lack something are left out and reported, the
others are built.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from manyview.cache import codec, samples
from manyview.cache.journal import archive_name, journal
from manyview.cache.store import Entry, Meta
from manyview.data.loading import load_views
from manyview.data.manifest import Frame, Manifest, pose_problem
from manyview.data.sampling import windows
from manyview.errors import UserError
from manyview.progress import track
from manyview.types import Signal, Views


class Asked(Protocol):
    """What a build needs of a teacher (see manyview.teachers.base)."""

    @property
    def name(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def weight_rule(self) -> Any: ...
    @property
    def weighted_by(self) -> Mapping[str, str]: ...
    @property
    def requires(self) -> frozenset[str]: ...
    @property
    def uses_given_poses(self) -> bool: ...
    def settings(self) -> dict[str, Any]: ...
    def digest(self) -> str: ...
    def __call__(self, views: Views) -> dict[str, Signal]: ...


@dataclass(frozen=True)
class Problem:
    """A sample that could not be made."""

    sample: str
    reason: str


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
    teacher: Asked,
    out: str | Path,
    *,
    views: int,
    step: int | None = None,
    size: tuple[int, int],
    shard: tuple[int, int] = (0, 1),
) -> BuildReport:
    """Fill the cache `out` with the teacher's answers for windows of `views` frames, a new one every `step`.

    `step` defaults to `views`. `shard` = (i, n): only every n-th window, from the i-th; the shards of one
    cache may run side by side. Raises UserError when `out` was made with other settings, when the disk is
    full (what is written stays), and when not one sample can be made.
    """
    start, out = time.perf_counter(), Path(out)
    hint = None if isinstance(manifest, Manifest) else Path(manifest)
    manifest = manifest if isinstance(manifest, Manifest) else Manifest.load(manifest)
    _check_numbers(size, shard)
    groups = windows(manifest, views, views if step is None else step)
    if not groups:
        raise UserError(
            "the manifest has no frames, so there is nothing to ask the teacher; scan some data first"
        )
    meta = _meta(manifest, teacher, out, groups, views=views, step=step, size=size, hint=hint)
    mine = range(shard[0], len(groups), shard[1])
    problems: list[Problem] = []
    with journal(out, meta, shard) as written:
        todo = [number for number in mine if archive_name(number) not in written.done]
        for number in track(todo, label=f"{teacher.name} cache", unit="sample"):
            try:
                entry, content = _ask(manifest, teacher, meta, groups[number], number)
            except UserError as error:
                problems.append(Problem(archive_name(number), str(error)))
            else:
                written.add(entry, content)
    if problems and not written.done:
        raise UserError(f"not one of {len(problems)} samples could be made; the first: {problems[0].reason}")
    skipped = len(mine) - len(todo)
    return BuildReport(len(todo) - len(problems), skipped, problems, time.perf_counter() - start)


def _check_numbers(size: tuple[int, int], shard: tuple[int, int]) -> None:
    if min(size) < 1:
        raise UserError(f"size {size[0]}x{size[1]} has no pixels; give HxW with both at least 1")
    part, parts = shard
    if not 0 <= part < parts:
        raise UserError(f"shard {part}/{parts} does not exist; give i/n with i from 0 to n-1")


def _meta(
    manifest: Manifest,
    teacher: Asked,
    out: Path,
    groups: list[list[int]],
    *,
    views: int,
    step: int | None,
    size: tuple[int, int],
    hint: Path | None,
) -> Meta:
    return Meta(
        teacher=teacher.name,
        digest=teacher.digest(),
        licence=teacher.licence,
        settings=teacher.settings(),
        weight_rule=asdict(teacher.weight_rule),
        weighted_by=dict(teacher.weighted_by),
        uses_given_poses=teacher.uses_given_poses,
        size=size,
        views=views,
        step=views if step is None else step,
        samples=len(groups),
        manifest=manifest.digest(),
        manifest_path=None if hint is None else _relative(hint, out),
    )


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # two drives
        return path.resolve().as_posix()


def _ask(
    manifest: Manifest, teacher: Asked, meta: Meta, indices: list[int], number: int
) -> tuple[Entry, bytes]:
    """One sample's archive and index line. Raises UserError when a frame lacks what the teacher needs."""
    frames = [manifest[i] for i in indices]
    for frame in frames:
        missing = _missing(manifest, frame, teacher.requires, alone=len(frames) == 1)
        if missing:
            raise UserError(f"frame {frame.image!r} {missing}")
    signals = teacher(load_views(manifest, indices, meta.size))
    for name in {*meta.weighted_by, *meta.weighted_by.values()} & set(signals):
        shape = tuple(signals[name].value.shape[1:4])
        if shape != (len(indices), *meta.size):
            raise RuntimeError(
                f"teacher {meta.teacher}: {name} has (V, H, W) = {shape} for {len(indices)} views"
            )
    confidences = set(meta.weighted_by.values())
    fields, parts = samples.pack(signals, confidences, derived=set(meta.weighted_by))
    names = [frame.image for frame in frames]
    header = {
        "format": "manyview cached sample",
        "teacher": meta.teacher,
        "digest": meta.digest,
        "scene": frames[0].scene,
        "frames": names,
        "signals": parts,
    }
    content = codec.encode_archive(fields, header)
    checksum = hashlib.sha256(content).hexdigest()
    raw = samples.raw_bytes(fields, parts)
    entry = Entry(archive_name(number), checksum, len(content), raw, frames[0].scene, names)
    return entry, content


def _missing(manifest: Manifest, frame: Frame, requires: frozenset[str], *, alone: bool) -> str | None:
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
