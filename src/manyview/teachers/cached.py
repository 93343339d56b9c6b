"""A teacher's answers kept in a store, one archive per crop: what was asked once is read, what is missing is asked.

FOLDER/cache.json             whose answers, to which pictures, how they are kept
FOLDER/error.json             the error that this costs, and the bytes of an answer
FOLDER/basis/T.patches.zip    the channels' mean and principal axes (keep="pca", "cosine"), fitted to the first batch
FOLDER/samples/3fa/HASH.zip   one crop's answer
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyview.cache import archive, signals
from manyview.cache.codec import ON_AXES, BrokenArchive
from manyview.cache.options import Keep
from manyview.cache.record import SAMPLES, Record, TeacherCard, claim
from manyview.cache.store import Store
from manyview.errors import UserError
from manyview.files import fresh_file, write_json, writing
from manyview.teachers.features import FeatureTeacher
from manyview.types import Signal, Views

LOG = logging.getLogger(__name__)
ERROR = "error.json"
MEASURED = 256
"""Answers over which the error of keeping them is averaged."""
MEND = "name another folder with --cache, or delete this one"


class CachedTeacher:
    """Gives what FeatureTeacher gives, from `folder` where it is there; new answers are written as they come.

    pictures: what decides the pixels behind a crop's name (seed, size, augmentation, manifests), as JSON-able values.
    keep: float16; int8, scaled per channel of each answer; or pca, a quarter of the channels of a basis fitted to
    the first batch, then int8. A new answer is given as it will be read, so live and kept runs see the same bits.
    Raises UserError when the folder holds the answers of another teacher, to other pictures, or kept otherwise.
    """

    def __init__(
        self, teacher: FeatureTeacher, folder: Path, *, pictures: Mapping[str, Any], keep: Keep = "int8"
    ) -> None:
        self.teacher, self.keep = teacher, keep
        self.name = teacher.name
        self.asked = 0
        """Crops the network was asked about."""
        folder = Path(folder)
        if (folder / "teacher.json").is_file():
            raise UserError(
                f"{folder} keeps answers in the format of an older program; delete it, or name another folder with "
                "--cache: the same line then makes them again"
            )
        card = TeacherCard.of(teacher, keep)
        record = claim(folder, Record({"pictures": dict(pictures)}, {card.name: card}), mend=MEND, renew=False)
        self.store = Store(folder, record)
        self._errors: list[tuple[float, float, int]] = []
        """Of the first answers that are asked for: mean square error, variance, bytes."""
        self._measure = not (folder / ERROR).is_file()

    def __call__(self, views: Views) -> dict[str, Signal]:
        if views.names is None:
            raise UserError(f"teacher {self.name}: only named crops can be kept; set method.crops above 0")
        names = [name for row in views.names for name in row]
        answers = [self._read(name) for name in names]
        missing = [row for row, answer in enumerate(answers) if answer is None]
        if missing:
            images = views.images.flatten(0, 1)[missing][:, None]
            live = self.teacher(replace(views, images=images, names=None, signals={}))
            live = {key: Signal(signal.value.float().cpu()) for key, signal in live.items()}
            whole = torch.stack([signal.value.flatten(1).isfinite().all(1) for signal in live.values()]).all(0)
            share = ON_AXES.get(signals.SMALLER.get(self.keep, ""))
            if share is not None and whole.any():
                self.store.fit_basis(f"{self.name}/patches", live["patches"].value[whole].numpy, share=share)
            for place, row in enumerate(missing):
                one = {key: Signal(signal.value[place : place + 1]) for key, signal in live.items()}
                if whole[place]:
                    answers[row] = self._write(names[row], one)
                else:  # given as it is, so that the step is skipped, and asked again next time
                    LOG.warning("teacher %s: an answer with NaN or infinite values to %s", self.name, names[row])
                    answers[row] = {key: signal.value for key, signal in one.items()}
            self.asked += len(missing)
            self._say_error()
        shape, device = views.images.shape[:2], views.images.device
        rows = [answer for answer in answers if answer is not None]
        return {
            key: Signal(torch.cat([row[key] for row in rows])[:, 0].unflatten(0, shape).to(device)) for key in rows[0]
        }

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        return self.store.folder / SAMPLES / digest[:3] / f"{digest[3:]}.zip"

    def _read(self, name: str) -> dict[str, torch.Tensor] | None:
        """A kept answer, patches (1, 1, P, D) and perhaps cls (1, 1, D), float32; None where none is whole."""
        try:
            return self._decoded(self._path(name))
        except (FileNotFoundError, BrokenArchive, KeyError):
            return None

    def _decoded(self, source: Path | io.BytesIO) -> dict[str, torch.Tensor]:
        return {key: signal.value.float() for key, signal in self.store.read(source, self.name).items()}

    def _write(self, name: str, answer: dict[str, Signal]) -> dict[str, torch.Tensor]:
        """Keep an answer; returns it as it will be read."""
        packed = signals.pack(self.store.teacher(), answer)
        header = {
            "format": "manyview cached sample",
            "frames": [name],
            "teachers": {self.name: {"digest": self.store.teacher().digest, "signals": packed.parts}},
        }
        content = archive.encode_archive(packed.fields, header, encodings=packed.encodings, bases=self.store.basis)
        # Not flushed to the disk one by one: what a power cut spoils has a wrong checksum and is asked again.
        with writing(f"an answer to {self.store.folder}"), fresh_file(self._path(name)) as draft:
            draft.write_bytes(content)
        kept = self._decoded(io.BytesIO(content))
        if self._measure and len(self._errors) < MEASURED:
            patches = answer["patches"].value[0, 0]
            lost, spread = kept["patches"][0, 0] - patches, patches - patches.mean(0)
            self._errors.append((float(lost.square().mean()), float(spread.square().mean()), len(content)))
        return kept

    def _say_error(self) -> None:
        """Write the root mean square error of what is kept, in standard deviations of the features."""
        if self._measure and self._errors:
            error, variance, size = np.mean(self._errors, axis=0).tolist()
            about = {"error": (error / max(variance, 1e-30)) ** 0.5, "bytes_per_answer": size}
            write_json(self.store.folder / ERROR, {**about, "answers": len(self._errors)})
            self._measure = len(self._errors) < MEASURED
