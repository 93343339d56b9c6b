"""Reconstruction judged view by view, as in Distill3R, Table II, with depth AbsRel and answers that need no
learning.

Definitions: `manyview.metrics.per_view_reconstruction`. Means over the views that have a score; the others
are listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation import baselines, exporting, report, store
from manyview.evaluation.base import PROTOCOLS, Model, Protocol, Summary
from manyview.evaluation.baselines import MeasuredView
from manyview.evaluation.exporting import Item
from manyview.evaluation.first_frame import compare_global
from manyview.metrics.reconstruction import per_view_reconstruction
from manyview.progress import track

Row = dict[str, Any]  # one line of results.jsonl: method, frame, its numbers or why it has none
MOST_TRAINING_FRAMES = 300


@PROTOCOLS.add("recon-per-view")
@dataclass(frozen=True, kw_only=True)
class ReconPerView(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "recon-per-view"
    line: ClassVar[str] = "accuracy, completeness, scale factor (Distill3R, Table II) and AbsRel of each view"
    next_step: ClassVar[str] = "reconstruct IMAGES -o scene"

    views: int = 4
    """Frames the model sees together in the second run ("N views against one"); 1 leaves that run out."""
    baselines: bool = False
    """Also planes, the training set's mean and looked-up depth maps, and the untrained student."""
    train: Manifest | None = None
    """The training frames, for the baselines made of them."""
    seed: int = 0
    """Seed of the untrained student's weights."""

    def __post_init__(self) -> None:
        if self.views < 1:
            raise UserError(f"--views {self.views}: a model looks at one view at least")

    def settings(self) -> dict[str, Any]:
        train = self.train.digest() if self.train is not None and self.baselines else None
        return {"views": self.views, "baselines": self.baselines, "train": train, "seed": self.seed}

    def export(self, model: Model, data: Manifest, out: Path) -> None:
        items = exporting.export_measured(data, exporting.scene_sizes(model, data), out)
        predictions = out / "predictions"
        exporting.export_predictions(model, data, items, 1, predictions / "model")
        if self.views > 1:
            exporting.export_predictions(
                model, data, items, self.views, predictions / f"model_{self.views}_views"
            )
        if not self.baselines:
            return
        untrained = fresh_copy(model, self.seed)
        if untrained is not None:
            exporting.export_predictions(untrained, data, items, 1, predictions / "untrained")
        if self.train is not None:
            for size in dict.fromkeys(item.size for item in items if not item.skipped):
                exporting.training_stack(self.train, size, MOST_TRAINING_FRAMES, out, baselines.thumbnail)
            self._export_thumbnails(data, items, out)

    @staticmethod
    def _export_thumbnails(data: Manifest, items: Sequence[Item], out: Path) -> None:
        file = out / "training" / "thumbnails_of_test_frames.npz"
        if file.is_file():
            return
        scored = [item for item in items if not item.skipped]
        images = {i.file: exporting.load_views(data, [i.index], i.size).images[0, 0].numpy() for i in scored}
        store.save_arrays(file, **{name: baselines.thumbnail(image) for name, image in images.items()})

    def score(self, out: Path) -> Summary:
        described = store.read_settings(out)
        items = exporting.read_items(out)
        scored = [item for item in items if not item.skipped]
        rows: list[Row] = []
        for folder in sorted((out / "predictions").iterdir()):
            rows += _score_model(out, scored, folder)
        if described["settings"]["baselines"]:
            rows += _score_planes(out, scored)
            rows += _score_training(out, scored)
        windows = out / "predictions" / f"model_{described['settings']['views']}_views"
        first_frame = compare_global(out, scored, windows) if windows.is_dir() else None
        store.write_lines(out / "results.jsonl", [*rows, *(first_frame or {}).pop("rows", [])])
        summary = _summary(described, items, rows, first_frame)
        store.write_json(out / "summary.json", summary)
        store.write_text(out / "summary.md", self.markdown(summary))
        return summary

    def markdown(self, summary: Summary) -> str:
        return report.recon_per_view(summary)


def fresh_copy(model: Any, seed: int) -> Any | None:
    """The same architecture with random weights; None when the model's class cannot be built from its config."""
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            fresh = type(model)(model.config)
        except TypeError:
            return None
    device = next(model.parameters()).device
    return fresh.to(device).eval()


def _measured(out: Path, item: Item) -> MeasuredView:
    known = exporting.load_measured(out, item)
    return MeasuredView(known["depth"], known["rays"])


def _judge(method: str, item: Item, points: np.ndarray, view: MeasuredView) -> Row:
    row: Row = {"method": method, "frame": item.image, "scene": item.scene}
    try:
        return {**row, **per_view_reconstruction(points, view.pointmap, view.valid)}
    except ValueError as problem:
        return {**row, "failed": str(problem)}


def _score_model(out: Path, items: Sequence[Item], folder: Path) -> Iterator[Row]:
    for item in track(items, label=f"scores of {folder.name}", unit="view"):
        points = store.load_arrays(folder / item.file)["pointmap_local"]
        yield _judge(folder.name, item, points, _measured(out, item))


def _score_planes(out: Path, items: Sequence[Item]) -> Iterator[Row]:
    views = [_measured(out, item) for item in items]
    for method, values in baselines.constant_planes(views).items():
        for item, row in zip(items, values, strict=True):
            yield {"method": method, "frame": item.image, "scene": item.scene, **row}
    for item, view in zip(items, views, strict=True):
        yield _judge("constant_plane_median", item, view.rays, view)
        for method, robust in (("tilted_plane", False), ("tilted_plane_robust", True)):
            depth = baselines.tilted_plane(view, robust=robust)
            yield _judge(method, item, view.rays * depth[..., None], view)


def _score_training(out: Path, items: Sequence[Item]) -> Iterator[Row]:
    """Mean map, retrieved map and look-alike frame. Pixels a training frame did not measure take the mean
    map's.
    """
    thumbnails = out / "training" / "thumbnails_of_test_frames.npz"
    if not thumbnails.is_file():
        return
    look = store.load_arrays(thumbnails)
    for size in dict.fromkeys(item.size for item in items):
        known = store.load_arrays(out / "training" / f"{size[0]}x{size[1]}.npz")
        mean = baselines.mean_map(known["depth"])
        depths = baselines.without_holes(known["depth"], mean)
        for item in track([i for i in items if i.size == size], label="training frames", unit="view"):
            view = _measured(out, item)
            yield _judge("mean_map", item, view.rays * mean[..., None], view)
            choices = {
                "retrieved_map": baselines.lowest_abs_rel(view, depths),
                "nearest_frame": baselines.nearest_image(look[item.file], known["thumbnails"]),
            }
            for method, choice in choices.items():
                row = _judge(method, item, view.rays * depths[choice][..., None], view)
                yield {**row, "training_frame": str(known["names"][choice])}


def _summary(
    described: dict[str, Any], items: Sequence[Item], rows: Sequence[Row], first_frame: dict[str, Any] | None
) -> Summary:
    by_method: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_method[row["method"]].append(row)
    settings, skipped = described["settings"], [i for i in items if i.skipped]
    left_out = {}
    if settings["baselines"] and settings["train"] is None:
        left_out = {
            name: "needs --train TRAIN.parquet" for name in ("mean_map", "retrieved_map", "nearest_frame")
        }
    if settings["baselines"] and "untrained" not in by_method:
        left_out["untrained"] = "this model cannot be built afresh from its config"
    table = [report.mean_row(method, by_method[method]) for method in report.ordered(by_method)]
    return {
        "protocol": "recon-per-view",
        **described["names"],
        "settings": settings,
        "frames": len(items),
        "scored": len(items) - len(skipped),
        "skipped": [{"frame": item.image, "reason": item.skipped} for item in skipped],
        "sizes": sorted({item.size for item in items}),
        "rows": table,
        "ratios": report.ratios(table),
        "first_frame": first_frame,
        "left_out": left_out,
    }
