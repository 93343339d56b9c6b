"""Making one sample of a cache: load its views, ask the teachers, pack what they say."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from manyview.cache import archive, signals
from manyview.cache.codec import PCA, BrokenArchive
from manyview.cache.record import Asked, TeacherCard
from manyview.cache.signals import Packed
from manyview.cache.store import Entry, Store, answers_in, archive_name
from manyview.data.loading import load_views
from manyview.data.manifest import Frame, Manifest, pose_problem
from manyview.errors import UserError
from manyview.types import Signal

FITTED, MOST_ROWS = 16, 32_768
"""Samples, evenly spread, and (D,) values of them to which principal axes are fitted, at most."""


@dataclass(frozen=True)
class Problem:
    """A sample that could not be made, or that a teacher has no answer to."""

    sample: str
    reason: str


@dataclass(frozen=True)
class _Answer:
    """What a teacher says of a sample."""

    card: TeacherCard
    packed: Packed
    units: dict[str, float]
    """What its confidences are divided by, where that depends on the sample."""


@dataclass(frozen=True)
class Maker:
    """Makes the samples of a cache, which are windows of a manifest's frames."""

    manifest: Manifest
    windows: list[list[int]]
    teachers: list[Asked]
    store: Store
    size: tuple[int, int]
    device: torch.device

    def missing(self, before: Entry | None) -> list[Asked]:
        """The teachers whose answers a sample does not have yet."""
        return [teacher for teacher in self.teachers if before is None or teacher.name not in before.teachers]

    def sample(
        self, number: int, before: Entry | None, problems: list[Problem]
    ) -> tuple[Entry, bytes] | None:
        """Index line and archive of a sample, with the answers that it had before; None when nothing is new.

        What a teacher could not answer is added to `problems`.
        """
        answers = []
        for teacher in self.missing(before):
            try:
                answers.append(self._answer(teacher, number))
            except UserError as error:
                reason = str(error) if len(self.teachers) == 1 else f"teacher {teacher.name}: {error}"
                problems.append(Problem(archive_name(number), reason))
        try:
            return self._joined(number, before, answers) if answers else None
        except BrokenArchive as error:
            reason = f"{archive_name(number)} is damaged: {error}; delete it and ask all its teachers again"
            problems.append(Problem(archive_name(number), reason))
            return None

    def _ask(self, teacher: Asked, number: int) -> dict[str, Signal]:
        """Raises UserError when a frame lacks what the teacher needs."""
        indices = self.windows[number]
        for frame in (self.manifest[i] for i in indices):
            lack = _lack(self.manifest, frame, teacher.requires, alone=len(indices) == 1)
            if lack:
                raise UserError(f"frame {frame.image!r} {lack}")
        views = load_views(self.manifest, indices, self.size)
        return teacher(views.to(self.device) if teacher.has_network else views)

    def _answer(self, teacher: Asked, number: int) -> _Answer:
        card, answers = self.store.teacher(teacher.name), self._ask(teacher, number)
        expected = (len(self.windows[number]), *self.size)
        for name in {*card.weighted_by, *card.weighted_by.values()} & set(answers):
            shape = tuple(answers[name].value.shape[1:4])
            if shape != expected:
                raise RuntimeError(f"teacher {card.name}: {name} has (V, H, W) = {shape}, not {expected}")
        packed = signals.pack(card.name, answers, weighted_by=card.weighted_by, keep=card.keep)
        if signals.says_nothing(packed):
            raise UserError(f"{card.name} says nothing of these views: not one pixel of its answer is valid")
        for field, encoding in packed.encodings.items():
            if encoding == PCA:
                self.store.fit_basis(field, partial(self._rows, teacher, field.partition("/")[2]))
        units = {}
        if card.weight_rule.by == "quantile":
            for name in sorted({*card.weighted_by.values()} & set(answers)):
                units[name] = card.weight_rule.unit(answers[name].value, answers[name].valid)
        return _Answer(card, packed, units)

    def _rows(self, teacher: Asked, signal: str) -> np.ndarray:
        """(N, D) values of a signal over windows that are spread evenly: the same ones whichever shard asks."""
        spread = np.linspace(0, len(self.windows) - 1, min(FITTED, len(self.windows)))
        parts = []
        for number in spread.round().astype(int).tolist():
            with suppress(UserError):  # a window that this teacher cannot answer
                values = self._ask(teacher, number)[signal].value.float().cpu().flatten(0, -2).numpy()
                parts.append(values[:: -(-len(values) * len(spread) // MOST_ROWS)])
        return np.concatenate(parts)

    def _joined(self, number: int, before: Entry | None, answers: list[_Answer]) -> tuple[Entry, bytes]:
        """Raises BrokenArchive when what was there before cannot be read."""
        frames = [self.manifest[i] for i in self.windows[number]]
        names, scene = [frame.image for frame in frames], frames[0].scene
        onto = None if before is None else self.store.folder / before.archive
        older = {} if onto is None else answers_in(archive.decode_archive(onto, wanted=lambda header: ())[0])
        new = {a.card.name: {"digest": a.card.digest, "signals": a.packed.parts} for a in answers}
        content = archive.encode_archive(
            {name: values for a in answers for name, values in a.packed.fields.items()},
            {
                "format": "manyview cached sample",
                "scene": scene,
                "frames": names,
                "teachers": {**older, **new},
            },
            encodings={name: encoding for a in answers for name, encoding in a.packed.encodings.items()},
            bases=self.store.basis,
            onto=onto,
        )
        raw, units = sum(a.packed.raw_bytes for a in answers), {a.card.name: a.units for a in answers}
        if before is not None:
            raw, units = raw + before.raw_bytes, {**before.teachers, **units}
        units = {name: units[name] for name in self.store.record.teachers if name in units}
        digest = hashlib.sha256(content).hexdigest()
        return Entry(archive_name(number), digest, len(content), raw, scene, names, units), content


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
