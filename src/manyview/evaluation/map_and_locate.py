"""Map and Locate (SAB3R, section 4 and Table 3): a few photos in, 3D points with a class each out.

A model says points in the first view's frame and features; a pixel's class is the one of the manifest's list whose text
is nearest to its feature. One true depth and pose, the first view's, bring the points to the truth's frame and unit.
Definitions: `manyview.metrics.map_and_locate`. Every row has the model's points; they differ in their labels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F

from manyview.config import Share
from manyview.data.loading import listed_classes, load_views
from manyview.data.manifest import NO_CLASS, Manifest
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Method, Model, Number, Protocol, Row, Summary
from manyview.evaluation.tables import markdown_table
from manyview.evaluation.view_groups import groups_of_scene
from manyview.evaluation.views import scene_sizes
from manyview.evaluation.work import Skipped, Work
from manyview.geometry import pointmaps, poses
from manyview.images.fit import cover
from manyview.images.reading import ImageProblem, resample_nearest
from manyview.metrics.located import DIRECTIONS, map_and_locate
from manyview.metrics.reconstruction import FEWEST_PIXELS
from manyview.metrics.scale import scale_factor
from manyview.models import model as models
from manyview.models.model import device_of
from manyview.pipelines.answers import told
from manyview.progress import track
from manyview.zoo.models import load_as
from manyview.zoo.texts import embed_texts

SIZES = (2, 3, 4)
NUMBERS = (
    Number("miou", "mIoU", "higher"),
    Number("accuracy", "accuracy", "higher"),
    Number("pred_to_true", "predicted → true (the paper's Comp.)"),
    Number("pred_to_true_median", "its median"),
    Number("true_to_pred", "true → predicted"),
    Number("true_to_pred_median", "its median"),
    Number("seconds", "seconds", digits=2),
    Number("seconds_labels", "of these for labels", digits=2),
)
CONTROLS = {
    "oracle": "the model's points with the true labels of their pixels",
    "shuffled": "control: the model's labels with shuffled texts",
    "noise": "control: features of noise",
    "constant": "control: every point of the commonest class",
}


@PROTOCOLS.add("map-and-locate")
@dataclass(frozen=True, kw_only=True)
class MapAndLocate(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "map-and-locate"
    line: ClassVar[str] = "3D points with classes of 2, 3 and 4 photos against labelled depth (SAB3R, Table 3)"
    needs = models.Reconstructs
    next_step: ClassVar[str] = "locate IMAGES 'a chair' -o found"
    unit: ClassVar[str] = "groups"
    title: ClassVar[str] = "Map and Locate"
    numbers: ClassVar[tuple[Number, ...]] = NUMBERS
    labels: ClassVar[Mapping[str, str]] = {
        "model": "one pass: points and features of the model",
        "pipelined": "pipelined: points of the model, features of the other, a photo at a time",
        **CONTROLS,
    }

    space: str = ""
    """Feature space that the classes' names are looked up in; empty: the model's first one that has words."""
    pipelined: str = ""
    """Also labels by the features of this model (a zoo name or a directory), asked about each photo alone; a model
    without features can be judged with it."""
    scenes: int = 10
    """Scenes of the manifest that are used, evenly spread."""
    sets: int = 2
    """Groups of each size per scene."""
    overlap: tuple[Share, Share] = (0.15, 0.85)
    """Limits of the overlaps that link the views of a group."""
    scale: Literal["median_of_ratios", "ratio_of_medians", "least_squares"] = "median_of_ratios"
    """How the first view's true depth gives the unit; the paper does not say."""
    stride: int = 2
    """Every so many pixels of a row and of a column are points."""
    seed: int = 0
    """Of the groups that are compared, and of the controls."""

    def __post_init__(self) -> None:
        if min(self.scenes, self.sets, self.stride) < 1:
            raise UserError(f"scenes={self.scenes}, sets={self.sets}, stride={self.stride}: give at least 1 each")

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        classes = data.info.get("classes")
        if not classes:
            raise UserError("the manifest names no classes; scan data with labels (data scan --format scannet, …)")
        every, sizes = data.scenes(), scene_sizes(model, data)
        labelled = {s: [r for r in rows if data[r].labels is not None] for s, rows in every.items()}
        usable = [scene for scene, rows in labelled.items() if len(rows) >= min(SIZES)]
        if not usable:
            raise UserError("no scene of the manifest has two frames with labels")
        spread = np.unique(np.linspace(0, len(usable) - 1, self.scenes).round().astype(int))
        items: list[Item] = []
        for scene in track([usable[i] for i in spread], label="groups", unit="scene"):
            how: dict[str, Any] = {"sets": self.sets, "overlap": self.overlap, "seed": self.seed}
            for size, groups in groups_of_scene(data, scene, labelled[scene], SIZES, **how).items():
                for number, group in enumerate(groups):
                    key = f"{len(items):04d}"
                    why = _measure(data, group.rows, sizes[scene], key, work)
                    names = {"views": size, "set": number, "frames": [data[row].image for row in group.rows]}
                    about = {"rows": group.rows, "size": list(sizes[scene]), "shared": group.shared}
                    items.append(Item(key, scene, names, about, skipped=why))
        if all(item.skipped for item in items):
            reason = items[0].skipped if items else f"no views overlap by {self.overlap[0]} to {self.overlap[1]}"
            raise UserError(f"no group of views can be judged: {reason}; give --overlap, or other data")
        work.note(classes=list(classes))
        return items

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        size = work.items[0].about
        first = load_views(data, size["rows"][:2], tuple(size["size"]), depth=False).images.to(device_of(model))
        spaces = list(told(model, list(first[0]))[0].get("features", {}))
        methods: dict[str, Method] = {}
        if spaces:
            methods["model"] = partial(self._answers, model, None, data)
        if self.pipelined:
            other, _ = load_as(self.pipelined, models.Reconstructs, device_of(model))
            self._space(
                features_alone(other, [first[0, 0]])[0].get("features", {})
            )  # before the work, and for its first call
            methods["pipelined"] = partial(self._answers, model, other, data)
        if not methods:
            raise UserError(
                "this model has no feature heads, so its points have no meaning; judge one that has "
                "(manyview-small-words), or give --pipelined a model whose features name the points"
            )
        return methods

    @torch.no_grad()
    def _answers(
        self, model: Model, other: Model | None, data: Manifest, items: Sequence[Item]
    ) -> Iterator[tuple[Item, Answer | Skipped]]:
        texts: dict[str, torch.Tensor] = {}
        classes = data.info["classes"]
        for item in items:
            try:
                images = load_views(data, item.about["rows"], tuple(item.about["size"]), depth=False).images
            except ImageProblem as problem:
                yield item, Skipped(str(problem))
                continue
            pictures = list(images[0].to(device_of(model)))
            start = time.perf_counter()
            answers = told(model, pictures)
            between = time.perf_counter()
            speaking = answers if other is None else features_alone(other, pictures)
            spent = time.perf_counter() - between
            space = self._space(speaking[0].get("features", {}))
            if space not in texts:  # once for all groups
                texts[space] = embed_texts(space, classes, "imagenet" if space == "clip" else ("{}",))
            named = time.perf_counter()
            size, step = images.shape[-2:], slice(None, None, self.stride)
            labels = nearest_classes([one["features"][space] for one in speaking], texts[space], size)
            spent += time.perf_counter() - named
            points = torch.stack([one["pointmap"].float().cpu() for one in answers]).numpy()
            answer = {
                "points": points[:, step, step],
                "labels": labels[:, step, step],
                "seconds": np.array([between - start, spent]),
            }
            if (
                other is None or "features" not in answers[0]
            ):  # the controls are of the model's own row where it has one
                generator = torch.Generator().manual_seed(self.seed + int(item.key))
                shapes = [one["features"][space].shape for one in speaking]
                noise = [torch.randn(shape, generator=generator) for shape in shapes]
                answer["noise"] = nearest_classes(noise, texts[space], size)[:, step, step]
            yield item, answer

    def _space(self, features: Mapping[str, Any]) -> str:
        words = [space for space in features if space != "dino"]
        if self.space and self.space not in features:
            raise UserError(f"--space {self.space}: the model has features of {', '.join(features) or 'no space'}")
        if not words:
            raise UserError(f"the features ({', '.join(features) or 'none'}) are in no space that has words")
        return self.space or words[0]

    def truth(self, item: Item, work: Work) -> dict[str, Any]:
        known = work.measured(item.key)
        depth, intrinsics, cam2world = (torch.from_numpy(known[name]) for name in ("depth", "intrinsics", "cam2world"))
        first_from_view = poses.invert(cam2world[:1]) @ cam2world
        points = pointmaps.transform(first_from_view, pointmaps.unproject(depth, intrinsics)).numpy()
        points[known["depth"] <= 0] = np.nan
        step, classes = slice(None, None, work.settings["stride"]), work.about["classes"]
        return {
            "points": points[:, step, step],
            "labels": known["labels"][:, step, step],
            "classes": range(len(classes)),
            "scale": work.settings["scale"],
            "seed": work.settings["seed"],
        }

    def judge(self, item: Item, answer: Answer, truth: dict[str, Any]) -> Row | list[Row]:
        true, labels = truth["points"], truth["labels"]
        if not np.isfinite(answer["points"]).any():
            return {"failed": "the model's points are not finite"}
        scale = scale_factor(answer["points"][0], true[0], answer["points"][0][..., 2] > 0, how=truth["scale"])
        if not np.isfinite(scale) or scale <= 0:
            return {"failed": "the first view's depth gives no scale"}
        judged = partial(_judged, scale * answer["points"], true, labels, truth["classes"])
        spent = [float(value) for value in answer["seconds"]]
        seconds = {"seconds": sum(spent), "seconds_points": spent[0], "seconds_labels": spent[1]}
        rows = [{**judged(answer["labels"]), **seconds, "scale_factor": scale}]
        if "noise" in answer:
            made = {
                **_controls(answer["labels"], labels, len(truth["classes"]), truth["seed"] + int(item.key)),
                "noise": answer["noise"],
            }
            rows += [{"method": method, **judged(other)} for method, other in made.items()]
        return rows

    def means(self, rows: Sequence[Row]) -> Row:
        """Means over the groups that have the number: no distance where no label is on both sides."""
        scored = [row for row in rows if "failed" not in row]
        means: Row = {self.unit: len(scored), "failed": len(rows) - len(scored)}
        for number in self.numbers:
            values = [row[number.key] for row in scored if row.get(number.key) is not None]
            means |= {number.key: float(np.mean(values))} if values else {}
        return means

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        by_views = {
            size: self.table({m: part for m, r in rows.items() if (part := [x for x in r if x["views"] == size])}, work)
            for size in SIZES
        }
        classes = work.about["classes"]
        sums = {method: _per_class(part, classes) for method, part in rows.items() if method in ("model", "pipelined")}
        skipped = [{**item.names, "reason": item.skipped} for item in work.items if item.skipped]
        return {"by_views": by_views, "per_class": sums, "skipped": skipped, "groups": len(work.items)}

    def sections(self, summary: Summary) -> list[str]:
        heads = ["", *(number.head for number in self.numbers), "groups"]
        settings = summary["settings"]
        parts = [
            f"{summary['groups'] - len(summary['skipped'])} of {summary['groups']} groups of views judged, at most "
            f"{settings['sets']} of each size in {settings['scenes']} scenes. Unit and frame by the first view's true "
            f"depth ({settings['scale']}) and pose. IoU is over the classes that a group's truth shows; distances are "
            "between points of one label, in the data's unit, lower is better (the paper calls predicted → true "
            "completeness and says higher is better). Seconds: photos to labelled points on this machine."
        ]
        for size, table in summary["by_views"].items():
            cells = [[*self.cells(row), str(row["groups"])] for row in table]
            parts += [f"{size} views:", markdown_table(heads, cells)]
        for method, ious in summary["per_class"].items():
            best = ", ".join(f"{name} {value:.2f}" for name, value in ious.items())
            parts.append(f"IoU per class over all groups, {self.label(method)}: {best}.")
        return [*parts, *(f"Not judged: {row['frames'][0]}: {row['reason']}." for row in summary["skipped"][:20])]


def _measure(data: Manifest, rows: Sequence[int], size: tuple[int, int], key: str, work: Work) -> str | None:
    """Keep a group's depth, cameras and labels; why it cannot be judged, else None.

    Raises UserError for labels that are in no list.
    """
    try:
        views = load_views(data, rows, size)
        frames = [data[row] for row in rows]
        fits = [cover((frame.height, frame.width), size) for frame in frames]
        labels = [resample_nearest(listed_classes(data, str(f.labels)), t) for f, t in zip(frames, fits, strict=True)]
    except ImageProblem as problem:
        return problem.reason
    if views.depth is None or views.intrinsics is None or views.cam2world is None:
        return "no measured depth, intrinsics or poses"
    if int((views.depth > 0).flatten(2).sum(-1).min()) < FEWEST_PIXELS:
        return f"a view with fewer than {FEWEST_PIXELS} measured pixels"
    maps = {"depth": views.depth, "intrinsics": views.intrinsics, "cam2world": views.cam2world}
    known = {name: value[0].numpy() for name, value in maps.items()}
    if not (np.stack(labels)[known["depth"] > 0] != NO_CLASS).any():
        return "no pixel with depth has a class"
    work.keep_measured(key, **known, labels=np.stack(labels).astype(np.int16))
    return None


def features_alone(other: Model, pictures: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
    """What a feature student says of each picture (3, H, W) alone; points that it could say too are not computed."""
    asked: dict[str, Any] = {"points": False} if hasattr(other, "feature_heads") else {}
    return [told(other, [picture], **asked)[0] for picture in pictures]


def nearest_classes(features: Sequence[torch.Tensor], texts: torch.Tensor, size: tuple[int, ...]) -> np.ndarray:
    """Features of V views (h, w, D), texts (C, D) -> (V, H, W) int16: the nearest text's, after upsampling."""
    labels = []
    for cells in features:
        if cells.shape[-1] != texts.shape[-1]:
            raise UserError(f"features have {cells.shape[-1]} channels, texts {texts.shape[-1]}: of different spaces")
        near = F.normalize(cells.float().cpu(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
        labels.append(F.interpolate(near.permute(2, 0, 1)[None], tuple(size), mode="bilinear")[0].argmax(0))
    return torch.stack(labels).numpy().astype(np.int16)


def _judged(
    points: np.ndarray, true: np.ndarray, true_labels: np.ndarray, classes: Sequence[int], labels: np.ndarray
) -> Row:
    found = map_and_locate(points, labels, true, true_labels, classes=classes, void=NO_CLASS)
    keys = ("miou", "miou_union", "accuracy", "accuracy_macro", *DIRECTIONS)
    row: Row = {key: found[key] if np.isfinite(found[key]) else None for key in keys}
    each = found["per_class"].values()
    return {**row, "_hits": [one["hits"] for one in each], "_unions": [one["union"] for one in each]}


def _controls(labels: np.ndarray, true: np.ndarray, count: int, seed: int) -> dict[str, np.ndarray]:
    """Labels (V, h, w) of answers that know too much, or nothing."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    other = np.empty(count, int)
    other[order] = np.roll(order, 1)  # no class keeps its own text
    kept = true[true != NO_CLASS]
    return {
        "oracle": true,
        "shuffled": other[labels],
        "constant": np.full(labels.shape, np.bincount(kept.astype(int)).argmax()),
    }


def _per_class(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, float]:
    """IoU over all groups together, of the classes that occur or were said, the best first."""
    scored = [row for row in rows if "_hits" in row]
    hits, unions = (np.sum([row[key] for row in scored], 0) for key in ("_hits", "_unions"))
    found = {name: float(h / u) for name, h, u in zip(classes, hits, unions, strict=True) if u}
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))
