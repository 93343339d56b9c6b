"""What probes of segmentation share: classes, ignored pixels, mIoU and pixel accuracy.

Legend: C classes, N pictures, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from manyview.errors import UserError
from manyview.evaluation import intervals
from manyview.evaluation.base import Answer, Item, Number, Row
from manyview.evaluation.dense_maps import Kind, Part
from manyview.evaluation.dense_probe import DenseProbe, Facts

MOST = 4096  # classes


@dataclass(frozen=True, kw_only=True)
class SegmentationProbe(DenseProbe):
    """Classes 0 to C - 1; label 255 and those outside are neither learned nor judged."""

    kind: ClassVar[Kind] = "labels"
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("miou", "mIoU", "higher"),
        Number("accuracy", "pixel accuracy", "higher"),
    )

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

    def clean(self, values: np.ndarray) -> np.ndarray:
        return values  # read with -1 where there is no class

    def judge(self, item: Item, answer: Answer, truth: tuple[np.ndarray, Facts]) -> Row:
        counts = confusion(answer["map"], truth[0], truth[1]["classes"])
        return {"accuracy": segmentation_scores(counts)["accuracy"], "_sums": class_sums(counts)}

    def means(self, rows: Sequence[Row]) -> Row:
        """Of all pictures' pixels together, as the field does."""
        return scores_of(np.sum([row["_sums"] for row in rows], 0))

    def intervals(self, rows: Mapping[str, list[Row]], seed: int) -> dict[str, dict[str, tuple[float, float]]]:
        bounds: dict[str, dict[str, tuple[float, float]]] = {}
        for method, of in rows.items():
            parts, scenes = np.stack([row["_sums"].ravel() for row in of]), [row["scene"] for row in of]
            for key in ("miou", "accuracy"):

                def number(sums: np.ndarray, key: str = key) -> np.ndarray:
                    return _rates(sums.reshape(*sums.shape[:-1], 3, -1))[key]

                interval = intervals.over_scenes(parts, scenes, seed, number=number)
                bounds.setdefault(method, {})[key] = interval
        return bounds


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


def _iou(sums: np.ndarray) -> np.ndarray:
    """(..., 3, C) -> (..., C), NaN for classes that are neither there nor predicted."""
    hits, predicted, present = np.moveaxis(sums.astype(float), -2, 0)
    union = predicted + present - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, hits / union, np.nan)


def _rates(sums: np.ndarray) -> dict[str, np.ndarray]:
    """(..., 3, C) -> `miou` over the classes that are there or were predicted, and `accuracy` over pixels, (...)."""
    iou = _iou(sums)
    counted = np.isfinite(iou)
    with np.errstate(invalid="ignore", divide="ignore"):
        miou = np.where(counted, iou, 0).sum(-1) / counted.sum(-1)
        return {"miou": miou, "accuracy": sums[..., 0, :].sum(-1) / sums[..., 2, :].sum(-1)}


def scores_of(sums: np.ndarray) -> dict[str, Any]:
    """`miou`, `accuracy`, and the `iou` of every class, None for those that are neither there nor predicted."""
    iou = [None if np.isnan(value) else float(value) for value in _iou(sums)]
    return {**{name: float(value) for name, value in _rates(sums).items()}, "iou": iou}


def segmentation_scores(counts: np.ndarray) -> dict[str, Any]:
    """The same of a confusion (C, C + 1)."""
    return scores_of(class_sums(counts))
