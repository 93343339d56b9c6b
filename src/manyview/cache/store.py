"""A teacher cache on disk: what made it, which samples it holds, and reading them.

    CACHE/cache.json          what made it: teacher, digest, licence, settings, weight rule, size, manifest
    CACHE/index.jsonl         a line per sample: archive, sha256, bytes, raw_bytes, scene, frames
    CACHE/index-I-of-N.jsonl  the same, of one shard of a build; readers merge all of them
    CACHE/samples/000000.zip  one archive per sample, see manyview.cache.codec

A line is appended after its archive lies whole in its place, so whatever the index names is there. A last
line cut off by a crash is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from manyview.cache import codec, samples
from manyview.errors import UserError
from manyview.types import Signal

FORMAT = "manyview teacher cache"
VERSION = 1
META = "cache.json"
FOLDER = "samples"


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What made a cache: two caches with equal Metas hold equal answers."""

    teacher: str
    digest: str
    """SHA-256 of the teacher's name, settings and weights."""
    licence: str
    settings: dict[str, Any]
    weight_rule: dict[str, float]
    """clamp(confidence / scale, low, high)."""
    weighted_by: dict[str, str]
    """Signal -> the confidence its weight is derived from."""
    uses_given_poses: bool
    """Whether the manifest's poses may move "pointmap" to another view's frame."""
    size: tuple[int, int]
    """(H, W) of the images the teacher saw."""
    views: int
    step: int
    samples: int
    """How many a finished cache holds."""
    manifest: str
    """The manifest's digest."""
    manifest_path: str | None
    """Where the manifest lay, relative to the cache: a hint."""

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self), "size": list(self.size)}

    def weight(self, confidence: Tensor) -> Tensor:
        rule = self.weight_rule
        return (confidence / rule["scale"]).clamp(rule["low"], rule["high"])


@dataclass(frozen=True)
class Entry:
    """One line of the index."""

    archive: str  # relative to the cache
    sha256: str
    bytes: int
    raw_bytes: int
    scene: str
    frames: list[str]  # the images' paths in the manifest

    def to_line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")) + "\n"


@dataclass(frozen=True)
class CachedSample:
    """A teacher's answers for some views of one sample, weights derived from the raw confidences."""

    scene: str
    frames: list[str]
    indices: list[int]
    """Which of the sample's views these are."""
    signals: dict[str, Signal]
    """Batch 1: (1, V, H, W, ...), float32."""


class Cache:
    """An opened cache; reads nothing but its index until a sample is asked for."""

    def __init__(self, folder: Path, meta: Meta, entries: list[Entry]) -> None:
        self.folder = folder
        self.meta = meta
        self.entries = entries

    @classmethod
    def open(cls, folder: str | Path) -> Cache:
        """Raises UserError when there is no cache, or one of another format version."""
        folder = Path(folder)
        meta = read_meta(folder)
        if meta is None:
            raise UserError(
                f"{folder} is no teacher cache (it has no {META}); "
                f"make one: manyview cache build MANIFEST --teacher sensor -o {folder}"
            )
        return cls(folder, meta, read_index(folder))

    def __len__(self) -> int:
        return len(self.entries)

    def signals(self, index: int, views: Sequence[int] | None = None) -> dict[str, Signal]:
        """As stored: batch 1, float16, without derived weights. Raises UserError for a damaged archive."""
        entry = self.entries[index]
        path = self.folder / entry.archive
        try:
            header, fields = codec.decode_archive(path, views)
            return samples.unpack(fields, header["signals"])
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; build the cache again with the same command") from error
        except (codec.BrokenArchive, KeyError) as error:
            raise UserError(
                f"{path} is damaged: {error}; delete it and build the cache again with the same command, "
                f"or see what else is wrong: manyview cache verify {self.folder}"
            ) from error

    def sample(self, index: int, views: Sequence[int] | None = None) -> CachedSample:
        """The answers for sample `index`, of all its views or only some."""
        entry = self.entries[index]
        indices = list(range(len(entry.frames)) if views is None else views)
        signals = weighted(self.meta, self.signals(index, indices))
        return CachedSample(entry.scene, [entry.frames[i] for i in indices], indices, signals)

    def info(self) -> dict[str, Any]:
        """Counts, sizes in bytes, compression against plain float16, teacher, licence."""
        disk = sum(entry.bytes for entry in self.entries)
        raw = sum(entry.raw_bytes for entry in self.entries)
        views = sum(len(entry.frames) for entry in self.entries)
        height, width = self.meta.size
        return {
            "cache": str(self.folder),
            "teacher": self.meta.teacher,
            "digest": self.meta.digest,
            "licence": self.meta.licence,
            "settings": self.meta.settings,
            "size": f"{height}x{width}",
            "samples": len(self.entries),
            "samples_planned": self.meta.samples,
            "frames": len({(entry.scene, frame) for entry in self.entries for frame in entry.frames}),
            "views": views,
            "views_per_sample": self.meta.views,
            "bytes": disk,
            "mb_per_1000_views": round(disk / 1e6 / views * 1000, 1) if views else None,
            "compression": round(raw / disk, 2) if disk else None,
            "manifest": self.meta.manifest,
            "manifest_path": self.meta.manifest_path,
        }


def weighted(meta: Meta, signals: dict[str, Signal]) -> dict[str, Signal]:
    """float32 copies with the weights that follow from the confidences by the cache's rule."""
    wide = {
        name: Signal(
            signal.value.float(), None if signal.weight is None else signal.weight.float(), signal.valid
        )
        for name, signal in signals.items()
    }
    for name, confidence in meta.weighted_by.items():
        if name in wide and confidence in wide:
            wide[name].weight = meta.weight(wide[confidence].value)
    return wide


def read_meta(folder: Path) -> Meta | None:
    """The cache's Meta, None when there is no cache. Raises UserError for a damaged or newer one."""
    path = folder / META
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise KeyError("format")
        version = values.pop("version")
        if version != VERSION:
            raise UserError(
                f"{path} has format version {version}, this program reads {VERSION}; build the cache "
                "again, or use the program that made it"
            )
        return Meta(**{**values, "size": tuple(values["size"])})
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise UserError(f"{folder} is a file; a cache is a folder") from error
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); build the cache anew"
        ) from error


def index_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("index.jsonl"), *folder.glob("index-*-of-*.jsonl")])


def read_index(folder: Path) -> list[Entry]:
    """Entries of all index files in order of archives; one named twice (two shardings) counts once."""
    found: dict[str, Entry] = {}
    for path in index_files(folder):
        for entry in read_lines(path):
            found[entry.archive] = entry
    return [found[archive] for archive in sorted(found)]


def read_lines(path: Path) -> list[Entry]:
    """Entries of one index file. A last line without its end is ignored, any other is a UserError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    *lines, _torn = content.split(b"\n")
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is damaged; delete that line and build the cache again with the "
                "same command"
            ) from error
    return entries
