"""Depth of a key view from several source views (robustmvd's benchmark; DUNE, supplementary, Table 3).

A pair model is asked about the key view with each source; its depths of the key view are brought to one scale and
averaged, weighted by its confidences, as DUSt3R does. A model of many views sees all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

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
from manyview.evaluation.pair_lists import Places, digest_of
from manyview.evaluation.published import wanted
from manyview.evaluation.single_depth import measure
from manyview.evaluation.source_maps import at_source, read_for
from manyview.evaluation.tables import markdown_table
from manyview.evaluation.work import Skipped
from manyview.images.reading import ImageProblem
from manyview.metrics.depth import depth_errors, valid_depth
from manyview.models.model import Reconstructs, ReconstructsPairs, Role, device_of
from manyview.pipelines.answers import told
from manyview.pipelines.opening import evaluating
from manyview.pipelines.picture_table import places
from manyview.progress import track


@PROTOCOLS.add("multiview-depth")
@dataclass(frozen=True, kw_only=True)
class MultiviewDepth(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "multiview-depth"
    line: ClassVar[str] = "depth of a key view from source views: rel, inliers at 1.03 (robustmvd; DUNE, Table 3)"
    needs: ClassVar[type[Role]] = Reconstructs
    next_step: ClassVar[str] = "reconstruct IMAGES -o scene"
    unit: ClassVar[str] = "samples"
    title: ClassVar[str] = "multi-view depth"
    labels: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "alone": "model, the key view alone",
        "untrained": "the same, random weights",
        "constant": "one depth for every pixel",
    }
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("rel", "rel", digits=2, percent=True),
        Number("tau", "τ (inliers at 1.03)", "higher", digits=2, percent=True),
    )

    samples: str = ""
    """A text of samples, a line each: the key image and its sources, by the ends of their paths; else views are taken
    from the scenes of the data."""
    keys: int = 1
    """Key views per scene, evenly spread."""
    sources: int = 4
    """Source views of each key view: those nearest to it in the scene's order."""
    align: Literal["median", "inverse_scale_shift", "none"] = "median"
    """How the answer gets the unit; the median is what is published for models without known poses."""
    least: float = 0.1
    """Answers are cut to depths between this … """
    most: float = 100.0
    """… and this, after they have the unit, in that of the data (metres)."""
    baselines: bool = True
    """Also the key view alone, random weights, and a constant."""
    seed: int = 0
    """Seed of the random weights."""

    def __post_init__(self) -> None:
        if min(self.keys, self.sources) < 1:
            raise UserError(f"keys={self.keys}, sources={self.sources}: give at least 1 each")

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "samples": digest_of(self.samples)}

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        chosen = self._listed(data) if self.samples else self._of_scenes(data)
        items: list[Item] = []
        for rows in track(chosen, label="measurements", unit="sample"):
            key = f"{len(items):06d}"
            why = measure(data, rows[0], key, work) if data[rows[0]].depth is not None else "no measured depth"
            names = {"image": data[rows[0]].image, "sources": len(rows) - 1}
            items.append(Item(key, data[rows[0]].scene, names, {"rows": rows}, skipped=why))
        if all(item.skipped for item in items):
            raise UserError(f"no sample can be judged: {items[0].names['image']}: {items[0].skipped}")
        return items

    def _listed(self, data: Manifest) -> list[list[int]]:
        path, known = Path(self.samples), Places(data)
        if not path.is_file():
            raise UserError(f"no list of samples at {path}; give a text with a key image and its sources a line")
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [[known.row(name) for name in words] for words in lines if not words[0].startswith("#")]
        named = [words for words in lines if not words[0].startswith("#")]
        for words, of in zip(named, rows, strict=True):
            if len(of) < 2:
                raise UserError(f"{path}: {words[0]} has no source view beside it")
            if None in of:
                raise UserError(
                    f"{path} names {words[of.index(None)]}, which the manifest lacks; scan the folder that has it"
                )
        if not rows:
            raise UserError(f"{path} holds no sample; a line needs a key image and its sources")
        return [[row for row in of if row is not None] for of in rows]

    def _of_scenes(self, data: Manifest) -> list[list[int]]:
        chosen = []
        for rows in data.scenes().values():
            keys = [place for place, row in enumerate(rows) if data[row].depth is not None]
            for place in places(len(keys), min(self.keys, len(keys))) if len(rows) > 1 and keys else ():
                key = keys[place]
                near = sorted((abs(other - key), other) for other in range(len(rows)) if other != key)
                chosen.append([rows[key], *(rows[other] for _, other in near[: self.sources])])
        if not chosen:
            raise UserError(
                f"no scene has two views, one of them with depth; scan data that has: {wanted('dtu', 'scannet')}"
            )
        return chosen

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        methods: dict[str, Method] = {"model": partial(_answers, model, data, 0)}
        if self.baselines:
            methods["alone"] = partial(_answers, model, data, 1)
            if hasattr(model, "untrained"):
                methods["untrained"] = partial(_answers, model.untrained(self.seed), data, 0)
            methods["constant"] = partial(_answers, None, data, 0)
        return methods

    def truth(self, item: Item, work: Work) -> np.ndarray:
        return work.measured(item.key)["depth"]

    def judge(self, item: Item, answer: Answer, truth: np.ndarray) -> Row:
        predicted = answer["depth"].astype(np.float64) if "depth" in answer else np.ones(truth.shape)
        if predicted.shape != truth.shape:  # depth of another size than its picture
            rows, columns = (np.arange(n) * have // n for n, have in zip(truth.shape, predicted.shape, strict=True))
            predicted = predicted[rows[:, None], columns]
        valid = valid_depth(truth) & np.isfinite(predicted)
        errors = depth_errors(predicted, truth, valid, align=self.align, clip=(self.least, self.most))
        if not np.isfinite(errors["abs_rel"]):
            return {"failed": "the answer is not finite where depth is measured"}
        return {"rel": errors["abs_rel"], "tau": errors["inlier_103"]}

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        return {self.unit: len(work.items), "skipped": skipped(work)}

    def sections(self, summary: Summary) -> list[str]:
        heads = ["", *(number.head for number in self.numbers), self.unit]
        return [
            f"{summary[self.unit]} samples, unit by {self.align}, answers cut to {self.least:g} … {self.most:g}; means "
            "over samples.",
            markdown_table(heads, ([*self.cells(row), str(row[self.unit])] for row in summary["rows"])),
            *(f"Not judged: {image}: {why}." for image, why in list(summary["skipped"].items())[:20]),
        ]


@torch.no_grad()
def _answers(
    model: Model | None, data: Manifest, most: int, items: Sequence[Item]
) -> Iterator[tuple[Item, Answer | Skipped]]:
    """Depth of the key views; most: so many views are seen at most, 0 for all."""
    for item in items:
        if item.skipped:
            continue
        if model is None:
            yield item, {"constant": np.array(True)}
            continue
        rows = item.about["rows"][: most or None]
        try:
            views = [read_for(model, data.path(data[row].image)) for row in rows]
        except ImageProblem as problem:
            yield item, Skipped(str(problem))
            continue
        pictures = [picture.to(device_of(model)) for picture, _ in views]
        if isinstance(model, ReconstructsPairs) and len(pictures) > 1:
            depth = averaged(model, pictures)
        else:
            depth = told(model, pictures)[0]["pointmap_local"][..., 2].float().cpu()
        yield item, {"depth": at_source(depth, views[0][1])[0].astype(np.float32)}


@torch.inference_mode()
def averaged(model: Any, pictures: Sequence[Tensor]) -> Tensor:
    """Depth (h, w) of the first picture from its pairs with the others: each answer times the factor that brings its
    median to the first one's, then the mean weighted by confidence.
    """
    total = weights = first = None
    with evaluating(model):
        for other in pictures[1:]:
            said = model.decode(*model.encode_views([pictures[0][None], other[None]]), heads=("pointmap",))
            point, confidence = (
                said[name][0][0] if isinstance(said[name], list) else said[name][0, 0]
                for name in ("pointmap", "confidence")
            )
            depth, weight = point[..., 2].float().cpu(), confidence.float().cpu()
            first = depth.median() if first is None else first
            depth = depth * (first / depth.median())
            total = depth * weight if total is None else total + depth * weight
            weights = weight if weights is None else weights + weight
    assert total is not None
    return total / weights
