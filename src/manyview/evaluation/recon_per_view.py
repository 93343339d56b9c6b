"""Reconstruction judged view by view, as in Distill3R, Table II, with depth AbsRel and answers that need no learning.

Definitions: `manyview.metrics.per_view_reconstruction`. Means over the views that have a score; the others are listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation import baselines, first_frame
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Method, Model, Number, Protocol, Row, Summary, Work
from manyview.evaluation.baselines import MeasuredView
from manyview.evaluation.tables import markdown_table
from manyview.evaluation.views import ask_views, measured_items, measured_view, scene_sizes, training_stack
from manyview.files import load_arrays, save_arrays
from manyview.metrics.reconstruction import per_view_reconstruction
from manyview.models import model as models
from manyview.progress import track

MOST_TRAINING_FRAMES = 300
NUMBERS = (
    Number("accuracy", "accuracy ×100", digits=2),
    Number("completeness", "completeness ×100", digits=2),
    Number("abs_rel", "AbsRel"),
    Number("delta_1", "δ < 1.25", "higher"),
    Number("scale_factor", "scale factor"),
)
OF_TRAINING = ("mean_map", "retrieved_map", "nearest_frame")


@PROTOCOLS.add("recon-per-view")
@dataclass(frozen=True, kw_only=True)
class ReconPerView(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "recon-per-view"
    line: ClassVar[str] = "accuracy, completeness, scale factor (Distill3R, Table II) and AbsRel of each view"
    needs = models.Reconstructs
    next_step: ClassVar[str] = "reconstruct IMAGES -o scene"
    numbers: ClassVar[tuple[Number, ...]] = NUMBERS
    unit: ClassVar[str] = "views"
    title: ClassVar[str] = "reconstruction per view"
    labels: ClassVar[Mapping[str, str]] = {"model": "model, one view at a time", **baselines.LABELS}

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
        return {**super().settings(), **({} if self.baselines else {"train": None})}

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        items = measured_items(data, scene_sizes(model, data), work)
        if self.baselines and self.train is not None:
            for size in {tuple(item.about["size"]) for item in items if not item.skipped}:
                stack = training_stack(self.train, size, MOST_TRAINING_FRAMES)
                save_arrays(work.path / "training" / f"{size[0]}x{size[1]}.npz", **stack)
        return items

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        methods: dict[str, Method] = {"model": partial(ask_views, model, data, work.items, 1)}
        if self.views > 1:
            methods[f"model_{self.views}_views"] = partial(ask_views, model, data, work.items, self.views)
        untrained = model.untrained(self.seed) if self.baselines and isinstance(model, models.Model) else None
        if untrained is not None:
            methods["untrained"] = partial(ask_views, untrained, data, work.items, 1)
        return methods

    def truth(self, item: Item, work: Work) -> MeasuredView:
        return measured_view(item, work)

    def judge(self, item: Item, answer: Answer, truth: MeasuredView) -> Row:
        try:
            return dict(per_view_reconstruction(answer["pointmap_local"], truth.pointmap, truth.valid))
        except ValueError as problem:
            return {"failed": str(problem)}

    def more_rows(self, work: Work) -> Iterator[Row]:
        settings = work.settings
        if settings["baselines"]:
            yield from self._baselines(work, [item for item in work.items if not item.skipped])
        together = f"model_{settings['views']}_views"
        if together in work.methods:
            yield from first_frame.compare_global(work, together)

    def _baselines(self, work: Work, items: Sequence[Item]) -> Iterator[Row]:
        views = [measured_view(item, work) for item in items]
        for method, values in baselines.constant_planes(views).items():
            for item, row in zip(items, values, strict=True):
                yield {"method": method, "scene": item.scene, **item.names, **row}
        stacks: dict[str, baselines.TrainingMaps] = {}
        for item, view in track(list(zip(items, views, strict=True)), label="baselines", unit="view"):
            name = "{}x{}".format(*item.about["size"])
            depths = baselines.planes(view)
            if work.settings["train"] is not None:
                if name not in stacks:
                    stacks[name] = baselines.TrainingMaps(**load_arrays(work.path / "training" / f"{name}.npz"))
                depths |= stacks[name].answers(view)
            for method, (depth, source) in depths.items():
                row = self.judge(item, {"pointmap_local": view.rays * depth[..., None]}, view)
                yield {"method": method, "scene": item.scene, **item.names, **row, **source}

    def label(self, method: str) -> str:
        if method.startswith("model_"):
            return f"model, {method.split('_')[1]} views together"
        return super().label(method)

    def means(self, rows: Sequence[Row]) -> Row:
        unusable = [row["unusable"] for row in rows if "unusable" in row]
        share = {"unusable": sum(unusable) / len(unusable)} if unusable and max(unusable) > 0 else {}
        return {**super().means(rows), **share}

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        settings, left_out = work.settings, {}
        if settings["baselines"] and settings["train"] is None:
            left_out = dict.fromkeys(OF_TRAINING, "needs --train TRAIN.parquet")
        if settings["baselines"] and "untrained" not in rows:
            left_out["untrained"] = "this model cannot be built afresh from its config"
        skipped = [{**item.names, "reason": item.skipped} for item in work.items if item.skipped]
        return {
            "frames": len(work.items),
            "scored": len(work.items) - len(skipped),
            "skipped": skipped,
            "sizes": sorted({tuple(item.about["size"]) for item in work.items}),
            "ratios": ratios(self.table(rows, work)),
            "first_frame": first_frame.summary_of(more) if settings["views"] > 1 else None,
            "left_out": left_out,
        }

    def cells(self, row: Row) -> list[str]:
        return [*super().cells(row), f"{row['views']}" + (f" ({row['failed']} failed)" if row["failed"] else "")]

    def sections(self, summary: Summary) -> list[str]:
        sizes = ", ".join(f"{height}x{width}" for height, width in summary["sizes"])
        heads = [number.head for number in NUMBERS]
        parts = [
            f"{summary['scored']} of {summary['frames']} views judged at {sizes} pixels. Local points; one scale "
            "per view (median of measured / predicted depth); medians of nearest-neighbour distances, means over "
            "views; ×100 is centimetres for data in metres.",
            markdown_table(["", *heads, "views"], map(self.cells, summary["rows"])),
        ]
        if summary["ratios"]:
            shown = [
                [self.label(method), *(f"{ratio[n.key]:.3f}" if n.key in ratio else "–" for n in NUMBERS[:3])]
                for method, ratio in summary["ratios"].items()
            ]
            parts += [
                "The model (one view at a time) divided by each of the others; below 1 the model is better:",
                markdown_table(["", *(head.removesuffix(" ×100") for head in heads[:3])], shown),
            ]
        compared = summary.get("first_frame")
        if compared and compared["views"]:
            numbers = (*NUMBERS[:2], Number("point_error", "point error ×100", digits=2))
            shown = [
                [first_frame.METHODS[method], *(n.text((means or {}).get(n.key)) for n in numbers)]
                for method, means in compared["table"].items()
            ]
            parts += [
                f"Points in the first view's camera frame, {compared['views']} later views, one scale per group:",
                markdown_table(["", *(number.head for number in numbers)], shown),
            ]
        parts += [f"Left out: {self.label(name)}: {why}." for name, why in summary["left_out"].items()]
        skipped = summary["skipped"]
        parts += [f"Not judged: {row['frame']}: {row['reason']}." for row in skipped[:20]]
        if len(skipped) > 20:
            parts.append(f"Not judged: {len(skipped) - 20} more frames (summary.json).")
        return parts


def ratios(table: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The model's accuracy, completeness and AbsRel divided by every other row's: below 1 the model is better."""
    model: Row = next((row for row in table if row["method"] == "model"), {})
    keys = [number.key for number in NUMBERS[:3]]
    return {
        row["method"]: {key: model[key] / row[key] for key in keys if key in model and row.get(key)}
        for row in table
        if row["method"] != "model"
    }
