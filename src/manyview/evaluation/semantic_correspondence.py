"""Keypoints found again on another thing of the same kind (Probe3D on SPair-71k; SAB3R, Table 5), nothing trained.

Pictures are padded to squares at their right and lower side. A keypoint counts when it is found within a tenth of the
target box's longer side (PCK@0.1, per keypoint); means over the keypoints of a class, then over classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from manyview.data.manifest import Manifest
from manyview.data.sources.objects import KEYPOINTS
from manyview.errors import UserError
from manyview.evaluation import intervals
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Method, Model, Number, Protocol, Row, Summary, Work
from manyview.evaluation.feature_maps import FeatureMaps
from manyview.evaluation.published import wanted
from manyview.evaluation.tokens import LABELS, image_size
from manyview.evaluation.work import Skipped
from manyview.images.fit import Fit
from manyview.images.reading import ImageProblem, read_fitted
from manyview.metrics.correspondence import semantic_errors
from manyview.models.family import encoder_of
from manyview.models.model import device_of
from manyview.pipelines.picture_table import places

LIMIT = 0.1
Maps = Callable[[Tensor], Tensor]


@PROTOCOLS.add("semantic-correspondence")
@dataclass(frozen=True, kw_only=True)
class SemanticCorrespondence(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "semantic-correspondence"
    line: ClassVar[str] = "PCK of keypoints between things of a kind, nothing trained (SPair-71k; SAB3R, Table 5)"
    unit: ClassVar[str] = "pairs"
    title: ClassVar[str] = "semantic correspondence"
    labels: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "untrained": LABELS["untrained"],
        "place": "the same place of the picture",
    }
    numbers: ClassVar[tuple[Number, ...]] = (Number("pck", "PCK@0.1", "higher", digits=2, percent=True),)

    published: bool = False
    """As Probe3D's code: keypoints between the centres of the corner cells, a cell meant by its upper left corner."""
    pairs: int = 0
    """At most so many pairs, evenly spread; 0 for all of the test split."""
    head: str = ""
    """Features of this head of the model instead of the encoder's (clip, dino, …)."""
    norm: bool = True
    """Tokens after the encoder's final LayerNorm."""
    size: int | None = None
    """Side of the square pictures; by default what the model was made for."""
    baselines: bool = True
    """Also the same model with random weights, and the keypoint's own place."""
    seed: int = 0
    """Seed of the random weights."""

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        pairs = data.info.get(KEYPOINTS)
        if not pairs:
            raise UserError(f"the manifest has no pairs with keypoints; scan SPair-71k: {wanted('spair')}")
        FeatureMaps(model, self.head)
        sizes = {frame.image: (frame.height, frame.width) for frame in data.frames}
        if missing := [name for pair in pairs for name in (pair["a"], pair["b"]) if name not in sizes]:
            raise UserError(
                f"{len(missing)} images of the pairs are missing, first {missing[0]}; unpack them, scan again"
            )
        side = max(image_size(encoder_of(model), self.size))
        work.note(side=side)
        items = []
        for place in places(len(pairs), self.pairs or len(pairs)):
            pair = pairs[place]
            about = {**pair, "size_a": sizes[pair["a"]], "size_b": sizes[pair["b"]]}
            names = {"frame_a": pair["a"], "frame_b": pair["b"], "category": pair["category"], "views": pair["views"]}
            why = None if pair["keys_a"] else "no keypoint that both show"
            items.append(Item(f"{place:06d}", pair["category"], names, about, skipped=why))
        return items

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        maps: dict[str, Maps | None] = {"model": FeatureMaps(model, self.head, self.norm)}
        if self.baselines:
            maps["untrained"] = FeatureMaps(model.untrained(self.seed), self.head, self.norm)
            maps["place"] = None
        side, device = work.about["side"], device_of(model)
        return {name: partial(self._answers, of, data, side, device) for name, of in maps.items()}

    @torch.no_grad()
    def _answers(
        self, maps: Maps | None, data: Manifest, side: int, device: torch.device, items: Sequence[Item]
    ) -> Iterator[tuple[Item, Answer | Skipped]]:
        for item in items:
            if item.skipped:
                continue
            sizes = [max(item.about[f"size_{name}"]) for name in "ab"]
            keys = [np.array(item.about[f"keys_{name}"]) / size for name, size in zip("ab", sizes, strict=True)]
            limit = LIMIT * item.about["box"] / sizes[1]
            if maps is None:
                error = np.linalg.norm(keys[0] - keys[1], axis=-1)
            else:
                try:
                    images = torch.stack([_square(data, item.about[name], side) for name in "ab"])
                except ImageProblem as problem:
                    yield item, Skipped(problem.reason)
                    continue
                a, b = maps(images.to(device)).permute(0, 3, 1, 2).float().cpu().numpy()
                error = np.diag(semantic_errors(a, b, keys[0], keys[1], published=self.published))
            yield item, {"error": error / limit}

    def judge(self, item: Item, answer: Answer, truth: Any) -> Row:
        right = answer["error"] < 1
        return {"pck": float(right.mean()), "right": int(right.sum()), "keypoints": len(right)}

    def means(self, rows: Sequence[Row]) -> Row:
        """Over the keypoints of a class, then over classes; `by_views`: by how much the side of the thing differs."""
        classes = _by_class(rows)
        shown = sorted({row["views"] for row in rows if row["views"] >= 0})
        by_views = {str(v): _mean(_by_class([row for row in rows if row["views"] == v])) for v in shown}
        return {"pck": _mean(classes), "classes": classes, "by_views": by_views, self.unit: len(rows), "failed": 0}

    def interval(self, key: str, rows: Sequence[Row], seed: int) -> tuple[float, float] | None:
        counts: dict[str, int] = {}
        for row in rows:
            counts[row["category"]] = counts.get(row["category"], 0) + row["keypoints"]
        pairs = {category: sum(row["category"] == category for row in rows) for category in counts}
        parts = [[row["right"] / counts[row["category"]], 1 / pairs[row["category"]]] for row in rows]
        return intervals.over_scenes(np.array(parts), [row["category"] for row in rows], seed) if rows else None

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        return {"side": work.about["side"], "pairs": len(work.items)}

    def sections(self, summary: Summary) -> list[str]:
        way = "as Probe3D's code has it" if self.published else "cells meant by their centres"
        return [
            f"{summary['pairs']} pairs at {summary['side']}x{summary['side']} pixels, {way}; means over classes.",
            *super().sections(summary),
        ]


def _by_class(rows: Sequence[Row]) -> dict[str, float]:
    counts: dict[str, list[int]] = {}
    for row in rows:
        of = counts.setdefault(row["category"], [0, 0])
        of[0] += row["right"]
        of[1] += row["keypoints"]
    return {name: right / keypoints for name, (right, keypoints) in sorted(counts.items())}


def _mean(classes: Mapping[str, float]) -> float:
    return float(np.mean(list(classes.values()))) if classes else float("nan")


def _square(data: Manifest, name: str, side: int) -> Tensor:
    """A picture scaled to have `side` as its longer side, padded with white at its right or lower side."""

    def fit(size: tuple[int, int]) -> Fit:
        scale = side / max(size)
        height, width = (max(1, round(length * scale)) for length in size)
        return Fit(size, (height, width), scale, (0.0, 0.0))

    pixels, _ = read_fitted(data.path(name), fit)
    image = torch.ones(3, side, side)
    image[:, : pixels.shape[0], : pixels.shape[1]] = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    return image
