"""Ask a teacher once and keep its answers: one archive per sample, resumable at any moment, in shards if wanted.

A killed build loses at most the sample in work; run again, it goes on and ends with the bytes an uninterrupted build
would have written. Samples whose frames lack something are left out and reported, the others are built.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from manyview.cache import codec, samples
from manyview.cache.store import FOLDER, META, Entry, Meta, index_files, read_lines, read_meta
from manyview.data.files import write_atomically
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
    """Fill the cache `out` with the teacher's answers for windows of `views` frames, every `step` (default: views).

    `shard` = (i, n): only every n-th window, from the i-th; the shards of one cache may run side by side. Raises
    UserError when `out` was made with other settings, when the disk is full (what is written stays), and when not
    one sample can be made.
    """
    start, out = time.perf_counter(), Path(out)
    hint = None if isinstance(manifest, Manifest) else Path(manifest)
    manifest = manifest if isinstance(manifest, Manifest) else Manifest.load(manifest)
    _check_numbers(size, shard)
    groups = windows(manifest, views, views if step is None else step)
    if not groups:
        raise UserError("the manifest has no frames, so there is nothing to ask the teacher; scan some data first")
    meta = _meta(manifest, teacher, out, groups, views=views, step=step, size=size, hint=hint)
    mine = range(shard[0], len(groups), shard[1])
    with _owned(out, shard):
        _begin(out, meta)
        index = out / ("index.jsonl" if shard[1] == 1 else f"index-{shard[0]}-of-{shard[1]}.jsonl")
        done = _resume(out, index, mine, whole=shard[1] == 1)
        problems: list[Problem] = []
        written = 0
        todo = [number for number in mine if _archive(number) not in done]
        for number in track(todo, label=f"{teacher.name} cache", unit="sample"):
            try:
                sample = _ask(manifest, teacher, meta, groups[number], number)
            except UserError as error:
                problems.append(Problem(_archive(number), str(error)))
                continue
            entry = _keep(out, index, sample, kept=len(done) + written)
            written += entry is not None
        _sort(index)
    if problems and not written and not done:
        raise UserError(f"not one of {len(problems)} samples could be made; the first: {problems[0].reason}")
    return BuildReport(written, len(mine) - len(todo), problems, time.perf_counter() - start)


def _check_numbers(size: tuple[int, int], shard: tuple[int, int]) -> None:
    if min(size) < 1:
        raise UserError(f"size {size[0]}x{size[1]} has no pixels; give HxW with both at least 1")
    part, parts = shard
    if not 0 <= part < parts:
        raise UserError(f"shard {part}/{parts} does not exist; give i/n with i from 0 to n-1")


def _archive(number: int) -> str:
    return f"{FOLDER}/{number:06d}.zip"


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


def _begin(out: Path, meta: Meta) -> None:
    """Make the cache, or see that the one that is there was made with the same settings; an empty one is replaced."""
    there = read_meta(out)
    if there is not None and any((out / FOLDER).glob("*.zip")):
        _check_same(out, there, meta)
    else:
        ours = re.compile(rf"\..*|{re.escape(META)}|{FOLDER}|index.*\.jsonl")
        foreign = sorted(path.name for path in out.iterdir() if not ours.fullmatch(path.name))
        if there is None and foreign:
            raise UserError(f"{out} holds other files ({foreign[0]}) and no cache; choose another folder with -o")
        text = json.dumps(meta.to_json(), indent=1, ensure_ascii=False) + "\n"
        write_atomically(out / META, text.encode())
    (out / FOLDER).mkdir(exist_ok=True)


def _check_same(out: Path, there: Meta, wanted: Meta) -> None:
    found, asked = _flat(asdict(there)), _flat(asdict(wanted))
    # The digest and the number of samples follow from the others: named only when nothing else differs.
    last = ("samples", "digest")
    for name in [*(name for name in {**found, **asked} if name not in last), *last]:
        if name != "manifest_path" and found.get(name) != asked.get(name):
            raise UserError(
                f"{out} is a cache with {name} = {_short(found.get(name))}, this build has {_short(asked.get(name))}; "
                "choose another folder with -o, or build with the cache's settings"
            )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat = {}
    for name, value in values.items():
        flat.update({f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value})
    return flat


def _short(value: Any) -> str:
    text = "x".join(map(str, value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@contextmanager
def _owned(out: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Keep a second build of the same shard out; the hold ends with the process, however it ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = open(out / f".building-{shard[0]}-of-{shard[1]}", "ab")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write to {out}: {(error.strerror or str(error)).lower()}; "
                        "choose another folder with -o") from error  # fmt: skip
    with handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on Windows
            pass
        except OSError as error:
            raise UserError(f"another build of {out} (shard {shard[0]}/{shard[1]}) is running; wait for it, or give "
                            "each its own --shard i/n") from error  # fmt: skip
        try:
            yield
        finally:
            Path(handle.name).unlink(missing_ok=True)


def _resume(out: Path, index: Path, mine: range, *, whole: bool) -> set[str]:
    """Archives of this shard that lie whole in their place; mends the index and clears half-written files.

    A build of everything takes over the lines that earlier shards have written.
    """
    for path in (out / FOLDER).iterdir():
        match = re.fullmatch(r"\.(\d+)\.zip\.\d+\.tmp", path.name)
        if match and int(match[1]) in mine:
            path.unlink(missing_ok=True)
    numbers = {_archive(number) for number in mine}
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
    return {entry.archive: entry for entry in entries if entry.archive in numbers and _length(out, entry) == entry.bytes}


def _length(out: Path, entry: Entry) -> int:
    try:
        return (out / entry.archive).stat().st_size
    except FileNotFoundError:
        return -1


def _sort(index: Path) -> None:
    _rewrite(index, {entry.archive: entry for entry in read_lines(index)})


def _rewrite(index: Path, entries: Mapping[str, Entry]) -> None:
    """Put exactly these lines, in order of their archives; the file is not touched when they are there already."""
    content = "".join(entries[archive].to_line() for archive in sorted(entries)).encode()
    if not index.exists() or index.read_bytes() != content:
        write_atomically(index, content)


@dataclass(frozen=True)
class _Sample:
    entry: Entry
    content: bytes


def _ask(manifest: Manifest, teacher: Asked, meta: Meta, indices: list[int], number: int) -> _Sample:
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
            raise RuntimeError(f"teacher {meta.teacher}: {name} has (V, H, W) = {shape} for {len(indices)} views")
    confidences = set(meta.weighted_by.values())
    fields, parts = samples.pack(signals, confidences, derived=set(meta.weighted_by))
    names = [frame.image for frame in frames]
    header = {"format": "manyview cached sample", "teacher": meta.teacher, "digest": meta.digest,
              "scene": frames[0].scene, "frames": names, "signals": parts}  # fmt: skip
    content = codec.encode_archive(fields, header)
    checksum = hashlib.sha256(content).hexdigest()
    raw = samples.raw_bytes(fields, parts)
    return _Sample(Entry(_archive(number), checksum, len(content), raw, frames[0].scene, names), content)


def _missing(manifest: Manifest, frame: Frame, requires: frozenset[str], *, alone: bool) -> str | None:
    """What a frame lacks and how to mend it; looked at before anything is decoded."""
    if "depth" in requires:
        if frame.depth is None:
            return "has no measured depth; scan with a format that has depth, or use another teacher"
        if not manifest.path(frame.depth).is_file():
            return f"has no depth file any more ({manifest.path(frame.depth)}); put it back or scan the data again"
    if "intrinsics" in requires and frame.intrinsics is None:
        return "has no intrinsics (fx, fy, cx, cy); add them to the source and scan again"
    if "cam2world" in requires and not alone:
        if frame.pose is None:
            return "has no pose (cam2world); add poses and scan again, or build with --views 1"
        wrong = pose_problem(frame.pose)
        if wrong:
            return f"has a pose (cam2world) that {wrong}; mend it in the source or leave the frame out"
    return None


def _keep(out: Path, index: Path, sample: _Sample, *, kept: int) -> Entry:
    """Archive first, then its line: the index never names what is not there."""
    try:
        write_atomically(out / sample.entry.archive, sample.content)
        with open(index, "ab") as handle:
            handle.write(sample.entry.to_line().encode())
            handle.flush()
            os.fsync(handle.fileno())
    except (OSError, UserError) as error:
        reason = error if isinstance(error, UserError) else f"cannot write {index}: {error.strerror}; free some space"
        raise UserError(f"{reason}; the {kept} samples written before are kept, run the same line again") from error
    return sample.entry
