"""A teacher's answers kept on disk per crop: what was asked once is read, what is missing is asked and kept.

FOLDER/teacher.json      whose answers, to which pictures, how they are kept, the error that this costs
FOLDER/basis.npz         the channels' mean and principal axes (keep="pca")
FOLDER/3fa/<hash>.npz    one crop's answer
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.files import write_bytes
from manyview.teachers.base import Teacher
from manyview.teachers.features import FeatureTeacher
from manyview.types import Signal, Views, WeightRule

Keep = Literal["float16", "int8", "pca"]
INDEX, BASIS = "teacher.json", "basis.npz"
MEASURED = 256
"""Answers over which the error of keeping them is averaged."""


class CachedTeacher(Teacher):
    """Gives what FeatureTeacher gives, from `folder` where it is there; new answers are written as they come.

    pictures: what decides the pixels behind a crop's name (seed, size, augmentation, manifests), as JSON-able values.
    keep: float16; int8, scaled per channel of each answer; or pca, a quarter of the channels of a basis fitted to
    the first batch, then int8. A new answer is given as it will be read, so live and kept runs see the same bits.
    Raises UserError when the folder holds the answers of another teacher, to other pictures, or kept otherwise.
    """

    weight_rule = WeightRule(1.0, 1.0, 1.0)
    weighted_by: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self, teacher: FeatureTeacher, folder: Path, *, pictures: Mapping[str, Any], keep: Keep = "int8"
    ) -> None:
        self.teacher, self.folder, self.keep = teacher, Path(folder), keep
        self.name, self.licence = teacher.name, teacher.licence  # type: ignore[misc]
        self.asked = 0
        """Crops the network was asked about."""
        self._basis: tuple[np.ndarray, np.ndarray] | None = None
        self._index = self._claim(pictures)

    def settings(self) -> dict[str, Any]:
        return {**self.teacher.settings(), "keep": self.keep}

    def weights_digest(self) -> str:
        return self.teacher.weights_digest()

    @property
    def error(self) -> float:
        """Root mean square error of the kept answers, in standard deviations of the features."""
        measured = self._index["measured"]
        return float((measured["error"] / max(measured["variance"], 1e-30)) ** 0.5)

    def __call__(self, views: Views) -> dict[str, Signal]:
        if views.names is None:
            raise UserError(f"teacher {self.name}: only named crops can be kept; set method.crops above 0")
        names = [name for row in views.names for name in row]
        found = [self._read(name) for name in names]
        missing = [row for row, answer in enumerate(found) if answer is None]
        if missing:
            flat = views.images.flatten(0, 1)[missing][:, None]
            flat = flat.cuda() if torch.cuda.is_available() else flat  # batches are made on the CPU
            live = self.teacher(replace(views, images=flat, names=None, signals={}))
            answers = {key: signal.value[:, 0].float().cpu().numpy() for key, signal in live.items()}
            if self.keep == "pca":
                self._fit_basis(answers["patches"])
            for place, row in enumerate(missing):
                found[row] = self._write(names[row], {key: value[place] for key, value in answers.items()})
            self.asked += len(missing)
            self._measure()
        shape, device = views.images.shape[:2], views.images.device
        rows = [answer for answer in found if answer is not None]
        return {
            key: Signal(torch.from_numpy(np.stack([row[key] for row in rows])).unflatten(0, shape).to(device))
            for key in rows[0]
        }

    def _claim(self, pictures: Mapping[str, Any]) -> dict[str, Any]:
        """The folder's index, made when there is none."""
        mine = {
            "format": 1, "teacher": self.name, "digest": self.teacher.digest(), "licence": self.licence,
            "keep": self.keep, "pictures": json.loads(json.dumps(pictures)),
        }  # fmt: skip
        path = self.folder / INDEX
        if path.is_file():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{path} is damaged; delete {self.folder} and start again") from error
            different = sorted(key for key in mine if known.get(key) != mine[key])
            if different:
                raise UserError(
                    f"{self.folder} keeps answers of teacher {known.get('teacher')!r} with another "
                    f"{', '.join(different)}; name another folder with --cache, or delete this one"
                )
            return known
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise UserError(f"{self.folder} is not empty and holds no teacher's answers; name another folder")
        index = {**mine, "measured": {"answers": 0, "error": 0.0, "variance": 0.0, "bytes": 0.0}}
        write_bytes(path, json.dumps(index, indent=1).encode())
        return index

    def _file(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        return self.folder / digest[:3] / f"{digest[3:]}.npz"

    def _read(self, name: str) -> dict[str, np.ndarray] | None:
        """A kept answer, (P, D) patches and perhaps (D,) cls in float32; None where there is none, or a damaged one."""
        try:
            with np.load(self._file(name), allow_pickle=False) as archive:
                return self._decoded(dict(archive))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _write(self, name: str, answer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Keep an answer; returns it as it will be read."""
        kept = self._encoded(answer)
        buffer = io.BytesIO()
        np.savez(buffer, **kept)  # type: ignore[arg-type]
        path = self._file(name)
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
        draft.write_bytes(buffer.getbuffer())
        os.replace(draft, path)
        again = self._decoded(kept)
        measured = self._index["measured"]
        if measured["answers"] < MEASURED:
            patches = answer["patches"]
            measured["answers"] += 1
            measured["error"] += float(np.square(again["patches"] - patches).mean())
            measured["variance"] += float(np.square(patches - patches.mean(0)).mean())
            measured["bytes"] += buffer.tell()
        return again

    def _measure(self) -> None:
        if self._index["measured"]["answers"] < MEASURED or "error" not in self._index:
            self._index["error"] = self.error
            self._index["bytes_per_answer"] = (
                self._index["measured"]["bytes"] / self._index["measured"]["answers"]
            )
            write_bytes(self.folder / INDEX, json.dumps(self._index, indent=1).encode())

    def _encoded(self, answer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.keep == "float16":
            return {key: value.astype(np.float16) for key, value in answer.items()}
        patches = answer["patches"]
        if self.keep == "pca":
            mean, axes = self._axes()
            patches = (patches - mean) @ axes.T
        low, high = patches.min(0), patches.max(0)
        step = np.maximum((high - low) / 255, 1e-12)
        codes = np.rint((patches - low) / step).astype(np.uint8)
        kept = {"codes": codes, "low": low.astype(np.float32), "step": step.astype(np.float32)}
        return {**kept, **{key: v.astype(np.float16) for key, v in answer.items() if key != "patches"}}

    def _decoded(self, kept: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "codes" not in kept:
            return {key: value.astype(np.float32) for key, value in kept.items()}
        patches = kept["codes"] * kept["step"] + kept["low"]
        if self.keep == "pca":
            mean, axes = self._axes()
            patches = patches @ axes + mean
        others = {key: kept[key].astype(np.float32) for key in kept if key not in ("codes", "low", "step")}
        return {"patches": patches.astype(np.float32), **others}

    def _axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and principal axes (d, D)."""
        if self._basis is None:
            with np.load(self.folder / BASIS, allow_pickle=False) as archive:
                self._basis = archive["mean"], archive["axes"]
        return self._basis

    def _fit_basis(self, patches: np.ndarray) -> None:
        """Principal axes of (N, P, D), unless the folder has some."""
        if self._basis is not None or (self.folder / BASIS).is_file():
            return
        rows = torch.from_numpy(patches).flatten(0, 1).double()
        mean = rows.mean(0)
        _, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean))
        axes: Tensor = vectors.flip(1)[:, : max(1, rows.shape[1] // 4)].T
        buffer = io.BytesIO()
        np.savez(buffer, mean=mean.float().numpy(), axes=axes.float().contiguous().numpy())
        write_bytes(self.folder / BASIS, buffer.getbuffer())


class WithAnswers:
    """A function of the step like the one it wraps, whose views carry every teacher's answers as signals.

    They are named "NAME/patches" and "NAME/cls", and made where batches are made, ahead of the training.
    """

    def __init__(self, batches: Callable[..., Views], teachers: Mapping[str, CachedTeacher]) -> None:
        self.batches, self.teachers = batches, teachers

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        described: dict[str, Any] = self.batches.describe()  # type: ignore[attr-defined]
        return {**described, "kept": {name: teacher.keep for name, teacher in self.teachers.items()}}

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> Views:
        views = self.batches(step, rank, world)
        for name, teacher in self.teachers.items():
            views.signals |= {f"{name}/{key}": signal for key, signal in teacher(views).items()}
        return views
