"""Depth of single pictures by a reconstructor, without training (SAB3R, Table 1): NYU Depth v2 and KITTI.

The picture is given alone (a pair model sees it twice), depth is the z of its own points, and the measured pixels are
the data set's: nothing is shrunk but the model's view. Errors are means over pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from manyview.data.depths import read_depth
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation.base import (
    PROTOCOLS,
    Answer,
    Item,
    Method,
    Model,
    Number,
    Protocol,
    Row,
    Summary,
    Work,
    skipped,
)
from manyview.evaluation.published import wanted
from manyview.evaluation.source_maps import at_source, read_for
from manyview.evaluation.tables import markdown_table
from manyview.images.fit import same_picture
from manyview.images.reading import ImageProblem
from manyview.metrics.depth import depth_errors, eigen_crop, garg_crop, valid_depth
from manyview.models.model import Reconstructs, Role, device_of
from manyview.pipelines.answers import told
from manyview.pipelines.picture_table import places
from manyview.progress import track

Align = Literal["median", "lower_median", "scale_shift", "none"]
Crop = Literal["auto", "none", "eigen", "garg"]
OF_DATA: dict[str, tuple[Crop, float]] = {"nyuv2": ("eigen", 10.0), "kitti": ("garg", 80.0)}
"""Format of the manifest -> the crop and the largest depth that the field judges."""


@PROTOCOLS.add("monocular-depth")
@dataclass(frozen=True, kw_only=True)
class MonocularDepth(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "monocular-depth"
    line: ClassVar[str] = "depth errors of single pictures by a reconstructor, nothing trained (SAB3R, Table 1)"
    needs: ClassVar[type[Role]] = Reconstructs
    next_step: ClassVar[str] = "reconstruct IMAGES -o scene"
    unit: ClassVar[str] = "images"
    title: ClassVar[str] = "monocular depth, zero-shot"
    labels: ClassVar[Mapping[str, str]] = {
        "model": "model, one picture at a time",
        "untrained": "the same, random weights",
        "constant": "one depth for every pixel",
    }
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("abs_rel", "AbsRel", digits=4),
        Number("delta_1", "δ < 1.25", "higher"),
        Number("rmse", "RMSE"),
        Number("log_10", "log10"),
    )

    align: Align = "median"
    """How the answer gets the unit: ratio of medians (as published), scale and shift, or not at all."""
    crop: Crop = "auto"
    """Pixels that count: eigen (NYU), garg (KITTI), none, or by the manifest's format."""
    most: float = 0.0
    """Largest depth that is judged, and to which answers are cut; 0: 10 for nyuv2, 80 for kitti, none for others."""
    least: float = 1e-3
    """Smallest depth, likewise."""
    images: int = 0
    """At most so many pictures, evenly spread; 0 for all of the test split, or all where none is named."""
    baselines: bool = True
    """Also the same model with random weights, and a constant."""
    seed: int = 0
    """Seed of the random weights."""

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        own_crop, own_most = OF_DATA.get(str(data.info.get("format")), ("none", 0.0))
        work.note(crop=own_crop if self.crop == "auto" else self.crop, most=self.most or own_most or None)
        rows = [row for row in range(len(data)) if data[row].depth is not None]
        rows = [row for row in rows if data[row].split == "test"] or rows
        if not rows:
            raise UserError(f"no frame of the manifest has depth; scan data that has: {wanted('nyuv2', 'kitti')}")
        items: list[Item] = []
        for place in track(places(len(rows), self.images or len(rows)), label="measurements", unit="image"):
            row, key = rows[place], f"{len(items):06d}"
            why = measure(data, row, key, work)
            items.append(Item(key, data[row].scene, {"image": data[row].image}, {"row": row}, skipped=why))
        if all(item.skipped for item in items):
            raise UserError(f"no picture can be judged: {items[0].names['image']}: {items[0].skipped}")
        return items

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        methods: dict[str, Method] = {"model": partial(_answers, model, data)}
        if self.baselines:
            if hasattr(model, "untrained"):
                methods["untrained"] = partial(_answers, model.untrained(self.seed), data)
            methods["constant"] = partial(_answers, None, data)
        return methods

    def truth(self, item: Item, work: Work) -> Any:
        return work.measured(item.key)["depth"], work.about["crop"], work.about["most"]

    def judge(self, item: Item, answer: Answer, truth: Any) -> Row:
        depth, crop, most = truth
        valid = valid_depth(depth) & (depth > self.least) & (True if most is None else depth < most)
        if crop != "none":
            inside = np.zeros(depth.shape, bool)
            inside[(eigen_crop if crop == "eigen" else garg_crop)(*depth.shape)] = True
            valid &= inside
        measured = int(valid.sum())
        predicted = np.full(depth.shape, 1.0) if "depth" not in answer else answer["depth"].astype(np.float64)
        valid &= answer.get("seen", np.ones(depth.shape, bool))
        if not valid.any():
            return {"failed": "no measured pixel that counts"}
        errors = depth_errors(predicted, depth, valid, align=self.align, clip=(self.least, most))
        if not np.isfinite(errors["abs_rel"]):
            return {"failed": "the answer is not finite where depth is measured"}
        return {**{number.key: errors[number.key] for number in self.numbers}, "seen": valid.sum() / measured}

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        seen = [row["seen"] for row in rows["model"] if "seen" in row]
        share = float(np.mean(seen)) if seen else None
        return {**work.about, self.unit: len(work.items), "seen": share, "skipped": skipped(work)}

    def sections(self, summary: Summary) -> list[str]:
        limit = "no limit" if summary["most"] is None else f"up to {summary['most']:g} m"
        shown = (
            ""
            if summary["seen"] is None
            else f" {100 * summary['seen']:.1f} % of these pixels lie in the model's view."
        )
        heads = ["", *(number.head for number in self.numbers), self.unit]
        return [
            f"{summary[self.unit]} pictures, crop {summary['crop']}, {limit}, unit by {summary['settings']['align']};"
            f" means over pictures.{shown}",
            markdown_table(heads, ([*self.cells(row), str(row[self.unit])] for row in summary["rows"])),
            *(f"Not judged: {image}: {why}." for image, why in list(summary["skipped"].items())[:20]),
        ]


def measure(data: Manifest, row: int, key: str, work: Work) -> str | None:
    """Keep the measured depth (H, W) of a frame, in metres; why it cannot be judged, else None."""
    frame = data[row]
    try:
        depth = read_depth(data.path(str(frame.depth)), frame.depth_scale or 1.0, data.farthest)
    except ImageProblem as problem:
        return problem.reason
    if not same_picture(depth.shape, (frame.height, frame.width)):
        return f"its depth is {depth.shape[1]}x{depth.shape[0]}, of another aspect"
    if not (depth > 0).any():
        return "no measured pixel"
    work.keep_measured(key, depth=depth)
    return None


@torch.no_grad()
def _answers(model: Model | None, data: Manifest, items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
    for item in items:
        if item.skipped:
            continue
        if model is None:
            yield item, {"constant": np.array(True)}
            continue
        frame = data[item.about["row"]]
        image, fit = read_for(model, data.path(frame.image))
        said = told(model, [image.to(device_of(model))])[0]
        if "pointmap_local" not in said:
            raise UserError(f"this model answers {', '.join(sorted(said))}, but no points of a view's own")
        depth, seen = at_source(said["pointmap_local"][..., 2].float().cpu(), fit)
        yield item, {"depth": depth.astype(np.float32), "seen": seen}
