"""What probes of segmentation share: classes, ignored pixels, mIoU and pixel accuracy.

Legend: C classes, N pictures, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from manyview.errors import UserError
from manyview.evaluation import intervals
from manyview.evaluation.base import Answer, Item, Number, Protocol, Row
from manyview.evaluation.dense_maps import Kind, Part
from manyview.evaluation.dense_probe import DenseProbe, Facts

MOST = 4096  # classes


@dataclass(frozen=True, kw_only=True)
class OverClasses(Protocol):
    """mIoU and accuracy of all pictures' pixels together, as the field does; rows hold class sums under `_sums`."""

    numbers: ClassVar[tuple[Number, ...]] = (
        Number("miou", "mIoU", "higher"),
        Number("accuracy", "pixel accuracy", "higher"),
    )

    def means(self, rows: Sequence[Row]) -> Row:
        return as_json(scores_of(np.sum([row["_sums"] for row in rows], 0)))

    def interval(self, key: str, rows: Sequence[Row], seed: int) -> tuple[float, float]:
        parts = np.stack([row["_sums"].ravel() for row in rows])

        def number(sums: np.ndarray) -> np.ndarray:
            return scores_of(sums.reshape(*sums.shape[:-1], 3, -1))[key]

        return intervals.over_scenes(parts, [row["scene"] for row in rows], seed, number=number)


@dataclass(frozen=True, kw_only=True)
class SegmentationProbe(OverClasses, DenseProbe):
    """Classes 0 to C - 1; label 255 and those outside are neither learned nor judged."""

    kind: ClassVar[Kind] = "labels"

    classes: int = 0
    """Labels 0 to this minus one are judged; 0: as many as the manifest names, else as occur in training."""

    def facts(self, part: Part, maps: Sequence[np.ndarray]) -> Facts:
        named = part.data.info.get("classes") or ()
        counts = np.zeros(MOST, np.int64)
        for chunk in maps:
            counts += np.bincount(chunk[(chunk >= 0) & (chunk < MOST)], minlength=MOST)
        classes = self.classes or len(named) or int(counts.nonzero()[0].max(initial=-1)) + 1
        if classes < 2 or not counts[:classes].any():
            raise UserError(f"the training labels show {classes} class; at least 2 are needed to tell apart")
        return {"classes": classes, "constant": int(counts[:classes].argmax())}

    def judge(self, item: Item, answer: Answer, truth: tuple[np.ndarray, Facts]) -> Row:
        sums = class_sums(confusion(answer["map"], truth[0], truth[1]["classes"]))
        return {"accuracy": float(scores_of(sums)["accuracy"]), "_sums": sums}


def confusion(predicted: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    """(C, C + 1) counts, true class by row; the last column is of predictions that are no class.

    Pixels whose true label is outside 0 .. C - 1 are left out.
    """
    judged = (true >= 0) & (true < classes)
    answer = predicted[judged].astype(np.int64)
    answer = np.where((answer >= 0) & (answer < classes), answer, classes)
    index = true[judged].astype(np.int64) * (classes + 1) + answer
    return np.bincount(index, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def class_sums(counts: np.ndarray) -> np.ndarray:
    """Of a confusion (C, C + 1), per class: pixels hit, predicted, and there, (3, C)."""
    return np.stack([np.diag(counts), counts[:, :-1].sum(0), counts.sum(1)])


def scores_of(sums: np.ndarray) -> dict[str, np.ndarray]:
    """(..., 3, C) -> `accuracy` over pixels and `miou` over the classes that are there or were predicted, (...);
    `iou` of every class, (..., C), NaN for the others.
    """
    hits, predicted, present = np.moveaxis(sums.astype(float), -2, 0)
    union = predicted + present - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union > 0, hits / union, np.nan)
        miou = np.where(union > 0, iou, 0).sum(-1) / (union > 0).sum(-1)
        return {"miou": miou, "accuracy": hits.sum(-1) / present.sum(-1), "iou": iou}


def as_json(scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Scores of one set of sums as plain numbers, None for classes that are neither there nor predicted."""
    iou = [None if np.isnan(value) else value for value in scores["iou"].tolist()]
    return {"miou": float(scores["miou"]), "accuracy": float(scores["accuracy"]), "iou": iou}


def segmentation_scores(counts: np.ndarray) -> dict[str, Any]:
    """`miou`, `accuracy` and `iou` of a confusion (C, C + 1)."""
    return as_json(scores_of(class_sums(counts)))
