"""Is a cache whole? Every checksum, every frame decoded, every shape, every valid value finite."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from manyview.cache import archive
from manyview.cache.codec import BrokenArchive
from manyview.cache.record import RECORD, SAMPLES
from manyview.cache.signals import Parts
from manyview.cache.store import Cache, Entry, Problem, answers_in
from manyview.progress import track


def verify(folder: str | Path) -> list[Problem]:
    """Everything that is wrong with a cache; empty when whole.

    Raises UserError when there is none, and when its record or index is so damaged that it cannot be read.
    """
    cache = Cache.open(folder)
    problems = []
    for entry in track(cache.entries, label="verify", unit="sample"):
        reason = _archive_problem(cache, entry)
        if reason:
            problems.append(Problem(entry.archive, reason))
    indexed = {entry.archive for entry in cache.entries}
    for path in sorted((cache.folder / SAMPLES).glob("*.zip")):
        if f"{SAMPLES}/{path.name}" not in indexed:
            problems.append(Problem(f"{SAMPLES}/{path.name}", "is not in the index (an interrupted build)"))
    for name in cache.record.teachers:
        count = sum(name in entry.teachers for entry in cache.entries)
        if count != cache.meta.samples:
            whose = f" of teacher {name}" if len(cache.record.teachers) > 1 else ""
            problems.append(Problem(RECORD, f"{count} of {cache.meta.samples} samples{whose} are there"))
    return problems


def _archive_problem(cache: Cache, entry: Entry) -> str | None:
    try:
        content = (cache.folder / entry.archive).read_bytes()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if len(content) != entry.bytes:
        return f"has {len(content)} bytes instead of {entry.bytes}"
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        return "its checksum differs from the index: the content has changed"
    try:
        header, fields = archive.decode_archive(io.BytesIO(content), bases=cache.basis)
        if header["frames"] != entry.frames:
            return "holds other frames than the index says"
        answers = answers_in(header)
        if answers.keys() != entry.teachers.keys():
            return "holds the answers of other teachers than the index says"
        for name, answer in answers.items():
            if answer["digest"] != cache.teacher(name).digest:
                return "was made by another teacher than the cache"
            size = entry.size or cache.meta.size
            reason = _content_problem(answer["signals"], fields, cache, name, len(entry.frames), size)
            if reason:
                return reason
    except (BrokenArchive, KeyError, TypeError) as error:
        return f"cannot be read ({error})"
    return None


def _content_problem(
    parts: Parts, fields: dict[str, np.ndarray], cache: Cache, teacher: str, views: int, size: tuple[int, int]
) -> str | None:
    weighted_by = cache.teacher(teacher).weighted_by
    for name, part in parts.items():
        value = fields[part["value"]]
        valid = fields[part["valid"]] if "valid" in part else np.ones(value.shape[:1], bool)
        if len(value) != views:
            return f"{name} has {len(value)} views for {views} frames"
        if valid.shape != value.shape[: valid.ndim]:
            return f"{name} has shape {value.shape}, its mask {valid.shape}"
        if name in (*weighted_by, *weighted_by.values()) and valid.shape[1:] != size:
            return f"{name} is {valid.shape[1]}x{valid.shape[2]}, the cache {size[0]}x{size[1]}"
        if not np.isfinite(value[valid]).all():
            return f"{name} has NaN or infinite values where it is valid"
    return None
