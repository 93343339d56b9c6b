"""A store of teachers' answers on disk: whose they are, which samples it holds, and reading them.

    CACHE/cache.json          what the samples are, and per teacher: digest, licence, settings, weight rule
    CACHE/index.jsonl         a line per sample: archive, sha256, bytes, raw_bytes, scene, frames, teachers
    CACHE/index-I-of-N.jsonl  the same, of one shard of a build; readers merge all of them
    CACHE/samples/000000.zip  one archive per sample with the answers of all teachers, see manyview.cache.archive
    CACHE/basis/T.SIGNAL.zip  the principal axes on which a teacher's features are kept (keep = pca, cosine)

A line is appended after its archive lies whole in its place, so whatever the index names is there. A last line cut
off by a crash is ignored; every line carries a checksum. Reading needs no right to write, and many may read at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from manyview.cache import archive, codec, signals
from manyview.cache.record import RECORD, SAMPLES, Record, TeacherCard, read_record, work_folder
from manyview.cache.signals import Parts
from manyview.errors import UserError
from manyview.files import parse_json, write_bytes
from manyview.registry import did_you_mean
from manyview.types import Signal


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file of a cache: it is damaged, or it could not be made."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Meta:
    """The samples of a cache: windows of a manifest's frames."""

    size: tuple[int, int]
    """(H, W) of the images that the teachers saw; with aspect "own" as many pixels in another shape (Entry.size)."""
    views: int
    step: int
    samples: int
    """How many a finished cache holds."""
    manifest: str
    """The manifest's digest."""
    manifest_path: str | None
    """Where the manifest lay, relative to the cache: a hint."""
    files: str = ""
    """The digest of its image files' names and sizes; empty in caches of earlier versions."""
    aspect: str = "size"
    """"own" where samples have the aspect of their frames."""
    rows: str = ""
    """The digest of the samples' rows, where they are no windows."""


@dataclass(frozen=True)
class Entry:
    """One line of the index."""

    archive: str  # relative to the cache
    sha256: str
    bytes: int
    raw_bytes: int
    scene: str
    frames: list[str]  # the images' paths in the manifest
    teachers: dict[str, dict[str, float]] = field(default_factory=dict)
    """Those that answered, each with what its confidences are divided by where its weight rule goes by quantile."""
    size: tuple[int, int] | None = None
    """(H, W) of its maps where the cache's samples have sizes of their own."""

    def to_line(self) -> str:
        values = {key: value for key, value in asdict(self).items() if key != "size" or value is not None}
        return _line({**values, "check": _check(values)})

    @classmethod
    def from_line(cls, line: str) -> Entry:
        """Raises ValueError or TypeError for a damaged line. Lines of version 1 have no checksum and no teachers."""
        values = parse_json(line)
        check = values.pop("check", None)
        if check is None and "teachers" in values:
            raise ValueError("it has no checksum")
        if check is not None and check != _check(values):
            raise ValueError("its checksum is another")
        if values.get("size") is not None:
            values["size"] = tuple(values["size"])
        return cls(**values)


@dataclass(frozen=True)
class CachedSample:
    """A teacher's answers for some views of one sample, weights derived from the raw confidences."""

    scene: str
    frames: list[str]
    indices: list[int]
    """Which of the sample's views these are."""
    signals: dict[str, Signal]
    """Batch 1: (1, V, H, W, ...), float32."""


class Store:
    """The archives of a folder and the axes some of them are kept on, whatever its samples are."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder, self.record = folder, record
        self._bases: dict[str, codec.Basis] = {}

    def teacher(self, name: str | None = None) -> TeacherCard:
        """What the store says of a teacher; of the first one when None. Raises UserError for a name it lacks."""
        teachers = self.record.teachers
        name = next(iter(teachers)) if name is None else name
        if name not in teachers:
            raise UserError(f"{self.folder} has no answers of teacher {name!r}; {did_you_mean(name, teachers)}")
        return teachers[name]

    def read(self, source: archive.Source, teacher: str, views: Sequence[int] | None = None) -> dict[str, Signal]:
        """A teacher's signals as stored in an archive. Raises BrokenArchive, FileNotFoundError or KeyError."""
        parts: Parts = {}

        def wanted(header: dict[str, Any]) -> list[str]:
            parts.update(answers_in(header)[teacher]["signals"])
            return signals.fields_of(parts)

        _, fields = archive.decode_archive(source, views, wanted=wanted, bases=self.basis)
        return signals.unpack(fields, parts, self.teacher(teacher))

    def basis(self, name: str) -> codec.Basis | None:
        """The axes of a field TEACHER/SIGNAL; None when it has none yet. Raises UserError for damaged ones."""
        if name not in self._bases:
            path = self._basis_path(name)
            try:
                _, fields = archive.decode_archive(path)
                basis = codec.Basis(fields["mean"][0], fields["axes"][0])
                if path.read_bytes() != _basis_archive(basis):
                    raise codec.BrokenArchive("its content has changed")
            except FileNotFoundError:
                return None
            except (codec.BrokenArchive, KeyError, ValueError) as error:
                raise UserError(
                    f"{path} is damaged: {error}; the answers kept on these axes are lost, make them again in "
                    "another folder"
                ) from error
            self._bases[name] = basis
        return self._bases[name]

    def fit_basis(self, name: str, rows: Callable[[], np.ndarray], *, share: int) -> None:
        """Fit the axes of a field, one for `share` channels, to (..., D) values, unless there are some.

        One process does, the others wait.
        """
        if self.basis(name) is not None:
            return
        with work_folder(self.folder).lock(".basis", wait=True):
            if self.basis(name) is None:
                write_bytes(self._basis_path(name), _basis_archive(codec.Basis.fit(rows(), share)))

    def _basis_path(self, name: str) -> Path:
        return self.folder / "basis" / f"{name.replace('/', '.')}.zip"


class Cache(Store):
    """An opened cache of a manifest's windows; reads nothing but its index until a sample is asked for."""

    def __init__(self, folder: Path, record: Record, entries: list[Entry]) -> None:
        super().__init__(folder, record)
        self.entries = entries

    @classmethod
    def open(cls, folder: str | Path) -> Cache:
        """Raises UserError when there is no cache, or one of a newer program."""
        folder = Path(folder)
        record = read_record(folder)
        if record is None:
            raise UserError(
                f"{folder} is no teacher cache (it has no {RECORD}); "
                f"make one: manyview cache build MANIFEST --teacher sensor -o {folder}"
            )
        if "samples" not in record.about:
            raise UserError(
                f"{folder} holds answers to the crops of a run, no windows of a manifest; make a cache of those: "
                "manyview cache build MANIFEST --teacher sensor -o CACHE"
            )
        return cls(folder, record, read_index(folder, next(iter(record.teachers))))

    @cached_property
    def meta(self) -> Meta:
        about = self.record.about
        return Meta(**{**about, "size": tuple(about["size"])})

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Cache({len(self)} samples, answers of {', '.join(self.record.teachers)}, {str(self.folder)!r})"

    def size_of(self, index: int) -> tuple[int, int]:
        """(H, W) of a sample's maps."""
        return self.entries[index].size or self.meta.size

    def signals(
        self, index: int, views: Sequence[int] | None = None, *, teacher: str | None = None
    ) -> dict[str, Signal]:
        """A teacher's (None: the first one's) answers as stored: batch 1, float16, without derived weights.

        Raises UserError for a damaged archive and where the teacher has no answer.
        """
        entry, name = self.entries[index], self.teacher(teacher).name
        path = self.folder / entry.archive
        if name not in entry.teachers:
            raise UserError(f"{path} has no answer of teacher {name!r}; build the cache again with it")
        try:
            return self.read(path, name, views)
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; build the cache again with the same command") from error
        except (codec.BrokenArchive, KeyError) as error:
            raise UserError(
                f"{path} is damaged: {error}; delete it and build the cache again with the same command, "
                f"or see what else is wrong: manyview cache verify {self.folder}"
            ) from error

    def weighted(self, index: int, stored: dict[str, Signal], *, teacher: str | None = None) -> dict[str, Signal]:
        """Signals of sample `index` in float32, with the weights that follow from the confidences."""
        card = self.teacher(teacher)
        units = self.entries[index].teachers[card.name]
        wide = {
            name: Signal(s.value.float(), None if s.weight is None else s.weight.float(), s.valid)
            for name, s in stored.items()
        }
        for name, confidence in card.weighted_by.items():
            if name in wide and confidence in wide:
                unit = units.get(confidence, card.weight_rule.scale)
                wide[name].weight = card.weight_rule(wide[confidence].value, unit)
        return wide

    def sample(self, index: int, views: Sequence[int] | None = None, *, teacher: str | None = None) -> CachedSample:
        """The answers for sample `index`, of all its views or only some."""
        entry = self.entries[index]
        indices = list(range(len(entry.frames)) if views is None else views)
        answers = self.weighted(index, self.signals(index, indices, teacher=teacher), teacher=teacher)
        return CachedSample(entry.scene, [entry.frames[i] for i in indices], indices, answers)

    def info(self) -> dict[str, Any]:
        """Counts, sizes in bytes, compression against plain float16, teachers with kinds and licences."""
        disk = sum(entry.bytes for entry in self.entries)
        raw = sum(entry.raw_bytes for entry in self.entries)
        views = sum(len(entry.frames) for entry in self.entries)
        height, width = self.meta.size
        first, teachers = self.teacher(), []
        for card in self.record.teachers.values():
            answered = [index for index, entry in enumerate(self.entries) if card.name in entry.teachers]
            kinds = set()
            with suppress(UserError):  # `verify` is for damage
                for index in answered[:1]:
                    kinds = {signals.kind_of(key) for key in self.signals(index, [], teacher=card.name)}
            about = {name: value for name, value in asdict(card).items() if name != "settings"}
            teachers.append({**about, "kinds": sorted(kinds), "samples": len(answered)})
        return {
            "cache": str(self.folder),
            "teacher": first.name,
            "digest": first.digest,
            "licence": first.licence,
            "settings": first.settings,
            "teachers": teachers,
            "size": f"{height}x{width}" + (" pixels, in the aspect of the frames" if self.meta.aspect == "own" else ""),
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


def _basis_archive(basis: codec.Basis) -> bytes:
    fields = {"mean": basis.mean[None], "axes": basis.axes[None]}
    return archive.encode_archive(fields, {}, encodings=dict.fromkeys(fields, codec.PLAIN))


def answers_in(header: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Teacher -> its digest and its signals' fields, as a header says; version 1 names one teacher beside them."""
    if "teachers" in header:
        return dict(header["teachers"])
    return {header["teacher"]: {"digest": header["digest"], "signals": header["signals"]}}


def index_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("index.jsonl"), *folder.glob("index-*-of-*.jsonl")])


def read_index(folder: Path, first: str) -> list[Entry]:
    """Entries of all index files in order of archives; of one named twice (two shardings) the fullest counts.

    first: the teacher that the lines of version 1 mean.
    """
    entries: dict[str, Entry] = {}
    for path in index_files(folder):
        for entry in read_lines(path, first):
            older = entries.get(entry.archive)
            if older is None or len(entry.teachers) >= len(older.teachers):
                entries[entry.archive] = entry
    return [entries[name] for name in sorted(entries)]


def read_lines(path: Path, first: str) -> list[Entry]:
    """Entries of one index file. A last line without its end is ignored, any other damage is a UserError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    *lines, _torn = content.split(b"\n")
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = Entry.from_line(line.decode())
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}, line {number} is damaged; delete that line and build the cache again with the same command"
            ) from error
        entries.append(entry if entry.teachers else replace(entry, teachers={first: {}}))
    return entries


def archive_name(number: int) -> str:
    return f"{SAMPLES}/{number:06d}.zip"


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"


def _check(values: dict[str, Any]) -> str:
    return hashlib.sha256(_line(values).encode()).hexdigest()[:16]
