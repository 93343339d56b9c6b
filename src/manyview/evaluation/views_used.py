"""Does a model use its other views? The gate of every model in the box: four questions on wide windows of scenes.

A window is asked about three times: its views together, each view alone, and together with another scene's picture in
place of the first. Points in the first view's frame are scaled by the ratio of median norms over the window's views;
their error is the median distance over the later views' pixels, meaned over windows. The identity pose takes each
view's local map for the global one; a turn is the rotation between the two (weighted Procrustes), its error a median
over later views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.synthetic import write_scenes
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Model, Number, Protocol, Row, Summary
from manyview.evaluation.tables import markdown_table
from manyview.evaluation.views import scene_sizes
from manyview.evaluation.work import Skipped, Work
from manyview.geometry import pointmaps, poses
from manyview.geometry.alignment import similarity
from manyview.images.reading import ImageProblem
from manyview.metrics.depth import abs_rel
from manyview.metrics.reconstruction import FEWEST_PIXELS
from manyview.models import model as models
from manyview.models.model import device_of
from manyview.progress import track

# Nothing is trained on scenes of this seed: their numbers are 991,000,000 and on.
HELD_OUT = {"scenes": 48, "views": 8, "size": (168, 224), "seed": 991}
MOST_CONFIDENCE = 20.0  # a pixel counts at most this much in a turn
LABELS = {
    "wrong_reference": "error with another scene's first picture / its own error",
    "identity": "global point error / the identity pose's",
    "turn": "turn error / the true turn",
    "depth": "AbsRel of the views together / of one alone",
}
LIMITS = {"wrong_reference": 2.5, "identity": 0.65, "turn": 0.5, "depth": 1.0}
"""At least the first, at most the next two, below the last."""


@PROTOCOLS.add("views-used")
@dataclass(frozen=True, kw_only=True)
class ViewsUsed(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "views-used"
    line: ClassVar[str] = "gate: does a many-view model use its other views? pass or fail (needs no --data)"
    needs = models.ReconstructsViews
    next_step: ClassVar[str] = "reconstruct IMAGES -o scene"
    unit: ClassVar[str] = "windows"
    title: ClassVar[str] = "are the other views used?"
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("error", "global point error"),
        Number("identity", "identity pose"),
        Number("wrong_reference", "another scene's first picture"),
        Number("turn", "turn error, degrees", digits=2),
        Number("true_turn", "true turn", digits=2),
        Number("abs_rel", "AbsRel, together"),
        Number("abs_rel_alone", "AbsRel, alone"),
    )

    views: int = 4
    """Views of a window."""
    stride: int = 2
    """Frames from one view of a window to the next; windows follow each other without overlap."""

    def __post_init__(self) -> None:
        if self.views < 2 or self.stride < 1:
            raise UserError(f"views={self.views}, stride={self.stride}: at least 2 views, at least 1 frame apart")

    def own_data(self, folder: Path) -> Path:
        """The manifest of 48 rooms and tables that no model of ours is trained on, rendered where it is missing."""
        return write_scenes(folder, **HELD_OUT)  # type: ignore[arg-type]

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        sizes, windows = scene_sizes(model, data), []
        step = self.views * self.stride
        for scene, rows in data.scenes().items():
            for start in range(0, len(rows) - (self.views - 1) * self.stride, step):
                windows.append((scene, rows[start : start + step : self.stride]))
        if not windows:
            raise UserError(
                f"no scene has {self.views} frames {self.stride} apart; give --views, --stride or longer scenes"
            )
        items = []
        for number, (scene, rows) in enumerate(track(windows, label="measurements", unit="window")):
            about = {"rows": list(rows), "size": list(sizes[scene]), "wrong": self._stranger(windows, number)}
            key = f"{number:05d}"
            why = _measure(data, rows, sizes[scene], key, work)
            items.append(Item(key, scene, {"first": data[rows[0]].image}, about, skipped=why))
        if all(item.skipped for item in items):
            raise UserError(f"no window can be judged; first {items[0].names['first']}: {items[0].skipped}")
        return items

    @staticmethod
    def _stranger(windows: Sequence[tuple[str, Sequence[int]]], number: int) -> int | None:
        """The first row of the next window of another scene; None where there is none."""
        around = [*windows[number + 1 :], *windows[:number]]
        return next((rows[0] for scene, rows in around if scene != windows[number][0]), None)

    def ask(self, model: Model, data: Manifest, item: Item) -> Answer | Skipped:
        size = tuple(item.about["size"])
        try:
            images = load_views(data, item.about["rows"], size, depth=False).images.to(device_of(model))
            together = model(images)
            alone = [model(images[:, place : place + 1]) for place in range(images.shape[1])]
            answer = {
                "alone": torch.cat([_map(maps, "pointmap_local")[0, :, ..., 2] for maps in alone]),
                "local": _map(together, "pointmap_local")[0],
                "global": _map(together, "pointmap")[0],
            }
            if "confidence" in together:
                answer["confidence"] = together["confidence"][0]
            if item.about["wrong"] is not None:
                strange = load_views(data, [item.about["wrong"]], size, depth=False).images.to(images)
                answer["wrong"] = _map(model(torch.cat([strange, images[:, 1:]], 1)), "pointmap")[0]
        except ImageProblem as problem:
            return Skipped(str(problem))
        return {name: value.float().cpu().numpy() for name, value in answer.items()}

    def truth(self, item: Item, work: Work) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array) for name, array in work.measured(item.key).items()}

    def judge(self, item: Item, answer: Answer, truth: dict[str, torch.Tensor]) -> Row:
        valid = truth["depth"] > 0
        points = pointmaps.unproject(truth["depth"], truth["intrinsics"])
        first_from_view = poses.invert(truth["cam2world"][:1]) @ truth["cam2world"]
        local, moved = points.numpy(), pointmaps.transform(first_from_view, points).numpy()
        seen = valid.numpy()
        if not all(np.isfinite(values).all() for values in answer.values()):
            return {"failed": "the model's answer is not finite"}
        confidence = answer.get("confidence", np.ones(seen.shape, np.float32)).clip(0, MOST_CONFIDENCE)
        turns = _turns(answer["local"], answer["global"], confidence)
        true_turns = first_from_view[:, :3, :3]
        alone = [abs_rel(p, t, v) for p, t, v in zip(answer["alone"], local[..., 2], seen, strict=True)]
        many = [abs_rel(p, t, v) for p, t, v in zip(answer["local"][..., 2], local[..., 2], seen, strict=True)]
        off = poses.rotation_angle(true_turns[1:].transpose(-1, -2) @ turns[1:]).rad2deg().tolist()
        return {
            "error": point_error(answer["global"], moved, seen),
            "identity": point_error(answer["local"], moved, seen),
            "wrong_reference": point_error(answer["wrong"], moved, seen) if "wrong" in answer else None,
            "abs_rel": float(np.mean(many)),
            "abs_rel_alone": float(np.mean(alone)),
            "turns": off,
            "true_turns": poses.rotation_angle(true_turns[1:]).rad2deg().tolist(),
        }

    def means(self, rows: Sequence[Row]) -> Row:
        means = super().means(rows)
        for key, of in (("turn", "turns"), ("true_turn", "true_turns")):
            every = [angle for row in rows for angle in row.get(of, ())]
            means |= {key: float(np.median(every))} if every else {}
        return means

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        gate = verdict(self.means(rows["model"]))
        skipped = [{**item.names, "reason": item.skipped} for item in work.items if item.skipped]
        return {"gate": gate, "passed": all(line["passed"] for line in gate.values()), "skipped": skipped}

    def sections(self, summary: Summary) -> list[str]:
        count = summary["rows"][0]["windows"]
        lines = []
        for name, line in summary["gate"].items():
            value = "–" if line["value"] is None else f"{line['value']:.3f}"
            lines.append([LABELS[name], value, asked(name), "pass" if line["passed"] else "FAIL"])
        settings = summary["settings"]
        return [
            f"{count} windows of {settings['views']} views, {settings['stride']} frames apart. "
            f"The gate is {'passed' if summary['passed'] else 'NOT passed'}:",
            markdown_table(["", "value", "asked", ""], lines),
            *super().sections(summary),
            *(f"Not judged: {row['first']}: {row['reason']}." for row in summary["skipped"][:20]),
        ]


def verdict(means: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The gate's lines from a table's row: name -> value (None: cannot be judged), limit, whether passed."""

    def ratio(above: str, below: str) -> float | None:
        values = means.get(above), means.get(below)
        return None if None in values else float(values[0]) / max(float(values[1]), 1e-9)  # type: ignore[arg-type]

    values = {
        "wrong_reference": ratio("wrong_reference", "error"),
        "identity": ratio("error", "identity"),
        "turn": ratio("turn", "true_turn"),
        "depth": ratio("abs_rel", "abs_rel_alone"),
    }
    return {
        name: {"value": value, "limit": LIMITS[name], "passed": value is not None and _passes(name, value)}
        for name, value in values.items()
    }


def _passes(name: str, value: float) -> bool:
    if name == "wrong_reference":
        return value >= LIMITS[name]
    return value < LIMITS[name] if name == "depth" else value <= LIMITS[name]


def asked(name: str) -> str:
    return {"wrong_reference": "≥", "depth": "<"}.get(name, "≤") + f" {LIMITS[name]}"


def point_error(predicted: np.ndarray, true: np.ndarray, valid: np.ndarray) -> float:
    """Median distance over the later views' valid pixels, after one scale: the ratio of median norms over all views.

    Pointmaps (V, H, W, 3), valid (V, H, W).
    """
    norm, true_norm = (np.median(np.linalg.norm(points[valid], axis=-1)) for points in (predicted, true))
    gap = (true_norm / max(float(norm), 1e-12)) * predicted[1:] - true[1:]
    return float(np.median(np.linalg.norm(gap[valid[1:]], axis=-1)))


def _turns(local: np.ndarray, moved: np.ndarray, weights: np.ndarray) -> torch.Tensor:
    """Rotations (V, 3, 3) from each view's own frame to the first one's, as the two pointmaps say."""
    source, target = (torch.from_numpy(array).flatten(1, 2) for array in (local, moved))
    return similarity(source, target, torch.from_numpy(weights).flatten(1)).rotation


def _map(answer: Mapping[str, Any], name: str) -> torch.Tensor:
    if name not in answer:
        raise UserError(f"this model answers {', '.join(sorted(answer))}, but no {name}; it cannot pass this gate")
    return answer[name]


def _measure(data: Manifest, rows: Sequence[int], size: tuple[int, int], key: str, work: Work) -> str | None:
    """Keep a window's depth (V, H, W), intrinsics and poses; why it cannot be judged, else None."""
    try:
        views = load_views(data, rows, size)
    except ImageProblem as problem:
        return problem.reason
    if views.depth is None or views.intrinsics is None or views.cam2world is None:
        missing = {"depth": views.depth, "intrinsics": views.intrinsics, "poses (cam2world)": views.cam2world}
        return f"no measured {', '.join(name for name, value in missing.items() if value is None)}"
    if int((views.depth > 0).flatten(2).sum(-1).min()) < FEWEST_PIXELS:
        return f"a view with fewer than {FEWEST_PIXELS} measured pixels"
    maps = {"depth": views.depth, "intrinsics": views.intrinsics, "cam2world": views.cam2world}
    work.keep_measured(key, **{name: value[0].numpy() for name, value in maps.items()})
    return None
