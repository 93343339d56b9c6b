"""Is a cache whole? Every checksum, every frame decoded, every shape, every valid value finite."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manyview.cache import codec
from manyview.cache.store import FOLDER, META, Cache, Entry, Meta
from manyview.progress import track


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file of a cache."""

    file: str
    reason: str


def verify(folder: str | Path) -> list[Problem]:
    """Everything that is wrong with a cache; empty when whole. Raises UserError when there is none."""
    cache = Cache.open(folder)
    problems = []
    for entry in track(cache.entries, label="verify", unit="sample"):
        reason = _archive_problem(cache.folder / entry.archive, entry, cache.meta)
        if reason:
            problems.append(Problem(entry.archive, reason))
    indexed = {entry.archive for entry in cache.entries}
    for path in sorted((cache.folder / FOLDER).glob("*.zip")):
        if f"{FOLDER}/{path.name}" not in indexed:
            problems.append(Problem(f"{FOLDER}/{path.name}", "is not in the index (an interrupted build)"))
    if len(cache) != cache.meta.samples:
        problems.append(Problem(META, f"{len(cache)} of {cache.meta.samples} samples are there"))
    return problems


def _archive_problem(path: Path, entry: Entry, meta: Meta) -> str | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if len(content) != entry.bytes:
        return f"has {len(content)} bytes instead of {entry.bytes}"
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        return "its checksum differs from the index: the content has changed"
    try:
        header, fields = codec.decode_archive(io.BytesIO(content))
        if header["frames"] != entry.frames:
            return "holds other frames than the index says"
        if header["digest"] != meta.digest:
            return "was made by another teacher than the cache"
        return _content_problem(header["signals"], fields, entry, meta)
    except (codec.BrokenArchive, KeyError, TypeError) as error:
        return f"cannot be read ({error})"


def _content_problem(
    parts: dict[str, dict[str, str]], fields: dict[str, np.ndarray], entry: Entry, meta: Meta
) -> str | None:
    for name, part in parts.items():
        value, valid = fields[part["value"]], fields[part["valid"]]
        if len(value) != len(entry.frames):
            return f"{name} has {len(value)} views for {len(entry.frames)} frames"
        if valid.shape != value.shape[:3]:
            return f"{name} has shape {value.shape}, its mask {valid.shape}"
        if name in (*meta.weighted_by, *meta.weighted_by.values()) and valid.shape[1:] != meta.size:
            return f"{name} is {valid.shape[1]}x{valid.shape[2]}, the cache {meta.size[0]}x{meta.size[1]}"
        if not np.isfinite(value[valid]).all():
            return f"{name} has NaN or infinite values where it is valid"
    return None
