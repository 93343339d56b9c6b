"""A student beside its teachers: the components of everybody's patches as colours, per teacher on the same axes.

Columns: the photo, the model's own tokens, and per teacher its features and the model's projection into its space
(both standardised as in the distillation). Own tokens have axes of their own; a teacher's axes and colour range are
fitted on its features of all the photos, and the projection is shown on those, so that equal colours are equal
features. Without a teacher its projection has axes of its own. DUNE shows components per network in figure 2 of the
paper; common axes are our choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyview.engine.device import autocast
from manyview.errors import UserError
from manyview.images.inputs import Pictures
from manyview.images.writing import write_picture
from manyview.models.model import ProjectsFeatures
from manyview.pipelines import pca
from manyview.pipelines.encoding import Encoding, photos, some_of
from manyview.pipelines.opening import evaluating
from manyview.pipelines.picture_table import Cell, Row, places, table
from manyview.progress import track
from manyview.teachers.features import FeatureTeacher, loaded
from manyview.types import Views

MOST_FITTED, MOST_ROWS, MOST_SAMPLES = 48, 12, 20_000

Column = tuple[str, str]
"""(teacher, "teacher" or "projected"); the model's own tokens are OWN."""
OWN: Column = ("", "own")


@dataclass(frozen=True)
class SideBySide:
    """What the picture shows, also as arrays."""

    names: list[str]
    """Photos, one per row."""
    columns: list[Column]
    maps: list[dict[Column, np.ndarray]]
    """Per photo and column: colours (h, w, 3) uint8, a pixel per patch."""
    picture: np.ndarray
    """All of it as one picture (H, W, 3) uint8."""
    info: dict[str, Any] = field(default_factory=dict)
    """JSON-able: per teacher source, licence, patch grid, cosine; explained variances; skipped photos."""


class Comparison:
    """A model and the teachers it is shown with; all of them are here, and fit it, before the first photo."""

    def __init__(self, source: Encoding, teachers: Mapping[str, str]) -> None:
        self.source = source
        network = source.network
        known = network.teachers if isinstance(network, ProjectsFeatures) else ()
        for name in teachers:
            if not known:
                raise UserError(
                    f"model {source.name!r} has no projectors, so no teacher has features to compare with its own; "
                    "choose a dune model, or name no teacher"
                )
            if name not in known:
                raise UserError(f"{source.name} has no projector {name!r}; it has {', '.join(known)}")
        self.teachers: dict[str, FeatureTeacher] = {
            name: loaded(place, name=name, student_patch=source.patch) for name, place in teachers.items()
        }
        for name, teacher in self.teachers.items():
            width = len(network.statistics[name]["patch"].mean)
            if teacher.dim != width:
                raise UserError(
                    f"teacher {name} ({teacher.source}) has {teacher.dim} channels, the projector of {source.name} "
                    f"{width}; give the network that it was distilled from"
                )
        self.spaces = tuple(teachers) or known

    @property
    def columns(self) -> list[Column]:
        """The model's own tokens, then per space the teacher, where there is one, and the projection."""
        columns = [OWN]
        for name in self.spaces:
            columns += [(name, who) for who in ("teacher", "projected") if who != "teacher" or name in self.teachers]
        return columns

    def axes_of(self, column: Column) -> Column:
        """The column on whose components another is shown."""
        return (column[0], "teacher") if column[0] in self.teachers else column

    @torch.inference_mode()
    def __call__(self, photo: np.ndarray) -> dict[Column, np.ndarray]:
        """A photo (H, W, 3) uint8 -> per column its patches (h, w, D)."""
        source, network = self.source, self.source.network
        pixels = torch.from_numpy(photo).to(source.device).permute(2, 0, 1)[None].float() / 255
        try:
            with evaluating(network), autocast(source.device, source.options.precision):
                own = source.encode(pixels.to(source.dtype), norm=source.norm)
                patches = {OWN: own.patches}
                if self.spaces:
                    blocks = network.projected_layers
                    raw = source.encode(pixels.to(source.dtype), norm=False, layers=blocks)
                for name in self.spaces:
                    if name in self.teachers:
                        signal = self.teachers[name](Views(images=pixels[None]))["patches"]
                        patches[name, "teacher"] = network.statistics[name]["patch"](signal.value[0])
                    patches[name, "projected"] = network.project(raw, name).patches
        except torch.OutOfMemoryError:
            raise UserError(
                f"no memory on {source.device} for the model and {len(self.teachers)} teachers; choose a smaller "
                "size, fewer teachers, or another device"
            ) from None
        return {key: value[0].float().cpu().unflatten(0, own.grid).numpy() for key, value in patches.items()}


def write_comparison(folder: Path, given: Pictures, comparison: Comparison) -> dict[str, Any]:
    """FOLDER/compare.png: the model beside its teachers, on one sheet; what it shows."""
    beside = compare(given, comparison)
    write_picture(folder / "compare.png", beside.picture)
    return {**beside.info, "sheet": "compare.png"}


def compare(given: Pictures, comparison: Comparison) -> SideBySide:
    """The picture of a set of photos; those that cannot be read are named in info["skipped"]."""
    chosen = places(given.count or MOST_FITTED, MOST_FITTED)  # a video may be shorter than it says
    items, count = (item for index, item in enumerate(given.items) if index in chosen), len(chosen)
    rows = places(count, MOST_ROWS)
    each = max(1, MOST_SAMPLES // count)
    draw = np.random.default_rng(0)
    samples: dict[Column, list[np.ndarray]] = {comparison.axes_of(column): [] for column in comparison.columns}
    kept: list[tuple[str, np.ndarray, dict[Column, np.ndarray]]] = []
    cosines: dict[str, list[float]] = {name: [] for name in comparison.teachers}
    skipped: list[str] = []
    fitted = 0
    listed = track(items, total=count, label="side by side", unit="image")
    for photo in photos(listed, comparison.source.fit, skipped, ahead=2):
        maps = comparison(photo.image)
        some = np.sort(draw.permutation(maps[OWN][..., 0].size)[:each])
        for axes, drawn in samples.items():
            drawn.append(maps[axes].reshape(-1, maps[axes].shape[-1])[some])
        for name, cosine in cosines.items():
            cosine.append(_cosine(maps[name, "teacher"], maps[name, "projected"]))
        if fitted + len(skipped) in rows:
            kept.append((photo.name, photo.image, maps))
        fitted += 1
    some_of(kept, skipped)
    fits = {axes: pca.fit_basis(drawn, fitted) for axes, drawn in samples.items()}
    patch = comparison.source.patch
    teachers = {
        name: {
            "source": teacher.source,
            "licence": teacher.licence,
            "channels": teacher.dim,
            "patch": teacher.network.config.patch_size,
            "resized": teacher.network.config.patch_size != patch,
            "resampled": teacher.resampled,
            "cosine": float(np.mean(cosines[name])),
        }
        for name, teacher in comparison.teachers.items()
    }
    explained = {" ".join(axes).strip(): basis.explained.tolist() for axes, basis in fits.items()}
    info = {"teachers": teachers, "projections": list(comparison.spaces), "explained": explained}
    return _drawn(kept, comparison, fits, {**info, "fitted": fitted, "skipped": skipped})


def _drawn(
    kept: Sequence[tuple[str, np.ndarray, dict[Column, np.ndarray]]],
    comparison: Comparison,
    fits: Mapping[Column, pca.Basis],
    info: dict[str, Any],
) -> SideBySide:
    columns = comparison.columns
    colours = [{c: fits[comparison.axes_of(c)].colours(maps[c]) for c in columns} for _, _, maps in kept]
    rows = []
    for (name, photo, maps), shown in zip(kept, colours, strict=True):
        cells = [Cell(photo, smooth=True)]
        for column in columns:
            caption = ""
            if column[1] == "projected" and column[0] in comparison.teachers:
                caption = f"cosine {_cosine(maps[column[0], 'teacher'], maps[column]):.2f}"
            cells.append(Cell(shown[column], caption))
        rows.append(Row(name, cells))
    words = {"own": "own tokens", "teacher": "{}: teacher", "projected": "{}: projection"}
    headings = ["photo", *(words[who].format(name) for name, who in columns)]
    names = [name for name, _, _ in kept]
    return SideBySide(names, columns, colours, table(headings, rows), {**info, "shown": names})


def _cosine(teacher: np.ndarray, projected: np.ndarray) -> float:
    """Mean over the patches of the cosine between two maps (h, w, D)."""
    norms = np.linalg.norm(teacher, axis=-1) * np.linalg.norm(projected, axis=-1)
    return float(((teacher * projected).sum(-1) / np.maximum(norms, 1e-8)).mean())
