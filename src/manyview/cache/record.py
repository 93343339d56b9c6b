"""What a store says of itself: `cache.json`, with what its samples are and whose answers it holds.

The file carries a checksum of its own content. Version 1 named one teacher, at the top level; it is read as a store
of that one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from manyview.cache.options import Keep, KeepMaps
from manyview.errors import UserError
from manyview.files import checksum, write_text
from manyview.types import Teacher, WeightRule
from manyview.workfolder import WorkFolder, differences, short

FORMAT, VERSION = "manyview teacher cache", 2
RECORD, SAMPLES = "cache.json", "samples"
OF_A_TEACHER = ("digest", "licence", "settings", "weight_rule", "weighted_by", "uses_given_poses")


@dataclass(frozen=True, kw_only=True)
class TeacherCard:
    """What a store says of a teacher: two stores with equal cards, made of the same views, hold equal answers."""

    name: str
    digest: str
    """SHA-256 of the teacher's name, settings and weights."""
    licence: str
    settings: dict[str, Any]
    weight_rule: WeightRule
    weighted_by: dict[str, str]
    """Signal -> the confidence that its weight is derived from."""
    uses_given_poses: bool
    """Whether the manifest's poses may move "pointmap" to another view's frame."""
    keep: Keep = "float16"
    """How its tokens and features are kept; float16 where it has no network."""
    maps: KeepMaps = "float16"
    """How its pointmaps, depth and confidences are kept."""
    derived: dict[str, str] = field(default_factory=dict)
    """Confidence -> the pointmap that it is made from when it is read."""

    @classmethod
    def of(cls, teacher: Teacher, keep: Keep = "float16", maps: KeepMaps = "float16") -> TeacherCard:
        return cls(
            name=teacher.name,
            digest=teacher.digest(),
            licence=teacher.licence,
            settings=_plain(teacher.settings()),
            weight_rule=teacher.weight_rule,
            weighted_by=dict(teacher.weighted_by),
            uses_given_poses=teacher.uses_given_poses,
            keep=keep if teacher.has_network else "float16",
            maps=maps,
            derived=dict(teacher.derived) if maps == "compact" else {},
        )


@dataclass(frozen=True)
class Record:
    """What decides a store's content."""

    about: dict[str, Any]
    """What its samples are, JSON-able: size, views, step, manifest, … of windows; the pictures of crops."""
    teachers: dict[str, TeacherCard] = field(default_factory=dict)
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        teachers = {}
        for name, card in self.teachers.items():
            teachers[name] = {key: value for key, value in asdict(card).items() if key != "name"}
        return _plain({"format": FORMAT, "version": VERSION, **self.about, "teachers": teachers})

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Record:
        version = values["version"]
        about = {k: v for k, v in values.items() if k not in ("format", "version", "teachers", "sha256")}
        if version == 1:
            card = {key: about.pop(key) for key in OF_A_TEACHER}
            teachers = {about.pop("teacher"): card}
        else:
            teachers = values["teachers"]
        cards = {
            name: TeacherCard(name=name, **{**card, "weight_rule": WeightRule(**card["weight_rule"])})
            for name, card in teachers.items()
        }
        return cls(about, cards, version)


def work_folder(folder: Path) -> WorkFolder:
    return WorkFolder(folder, "teacher cache", RECORD)


def read_record(folder: Path) -> Record | None:
    """None when there is no store. Raises UserError for a damaged one and for one of a newer program."""
    values = work_folder(folder).read()
    if values is None:
        return None
    path = folder / RECORD
    try:
        if values["format"] != FORMAT:
            raise KeyError("format")
        if values["version"] not in (1, VERSION):
            raise UserError(
                f"{path} has format version {values['version']}, this program reads 1 and {VERSION}; build the "
                "cache again, or use the program that made it"
            )
        if values["version"] > 1 and values["sha256"] != checksum(values):
            raise ValueError("its checksum is another")
        return Record.from_json(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); build the cache anew") from error


def claim(folder: Path, wanted: Record, *, mend: str, renew: bool = True) -> Record:
    """Make the folder a store of these answers, or see that it is one; teachers that are new to it are added.

    renew: a store without a single sample is replaced. Raises UserError, with `mend` as advice, when the samples are
    others, when a teacher of the same name gives other answers, when the folder holds other things or is closed.
    """
    here = _agreed(folder, wanted, mend, renew)
    if here is not None and here.version == VERSION and not wanted.teachers.keys() - here.teachers.keys():
        return here  # nothing to write: the folder may be one that others share and nobody can write to
    own = work_folder(folder)
    with own.lock(wait=True):
        here = _agreed(folder, wanted, mend, renew)
        if here is None:
            own.refuse_strangers()
            merged = wanted
        else:
            merged = Record(here.about, {**here.teachers, **wanted.teachers})
        values = merged.to_json()
        text = json.dumps({**values, "sha256": checksum(values)}, indent=1, ensure_ascii=False) + "\n"
        write_text(folder / RECORD, text)
        (folder / SAMPLES).mkdir(exist_ok=True)
    return merged


def _agreed(folder: Path, wanted: Record, mend: str, renew: bool) -> Record | None:
    """The folder's record when it is one to go on with, None when it is to be written."""
    here = read_record(folder)
    if here is None or (renew and not any((folder / SAMPLES).rglob("*.zip"))):
        return None
    before, now = here.to_json(), wanted.to_json()
    shared = here.teachers.keys() & wanted.teachers.keys()
    for values in (before, now):
        values["teachers"] = {name: card for name, card in values["teachers"].items() if name in shared}
    # The digest and the number of samples follow from the others: named only when nothing else differs.
    may_change = ["manifest_path"]  # and what an earlier version did not write
    may_change += [] if "files" in before else ["files"]
    may_change += [] if "files" in (before.get("pictures") or {}) else ["pictures.files"]
    different = differences(before, now, may_change=may_change)
    order = [*before, *now]
    different.sort(key=lambda key: (key == "samples" or key.endswith(".digest"), order.index(key.split(".")[0])))
    if different and different[0].split(".")[-1] == "files":
        raise UserError(f"{folder} was made of other pictures: the image files had other sizes then; {mend}")
    if different:
        first, second = (_shown(values, different[0]) for values in (before, now))
        raise UserError(f"{folder} is a cache with {different[0]} = {first}, this build has {second}; {mend}")
    return here


def _shown(values: Any, dotted: str) -> str:
    """The value under a dotted key as a message shows it; a size as HxW."""
    if dotted == "size":
        return "x".join(map(str, values["size"]))
    for key in dotted.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return short(values)


def _plain(values: Any) -> Any:
    return json.loads(json.dumps(values))
