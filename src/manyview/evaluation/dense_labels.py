"""What probes of segmentation share: classes, ignored pixels, mIoU and pixel accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from manyview.errors import UserError
from manyview.evaluation.dense_maps import Kind, Part
from manyview.evaluation.dense_probe import DenseProbe, Maps
from manyview.evaluation.dense_scores import confusion, segmentation_scores

MOST = 4096  # classes


@dataclass(frozen=True, kw_only=True)
class SegmentationProbe(DenseProbe):
    """Classes 0 to C - 1; label 255 and those outside are neither learned nor judged."""

    kind: ClassVar[Kind] = "labels"
    heads: ClassVar[dict[str, str]] = {"miou": "mIoU", "accuracy": "pixel accuracy"}

    classes: int = 0
    """Labels 0 to this minus one are judged; 0: as many as the manifest names, else as occur in training."""

    def know(self, part: Part, maps: Sequence[np.ndarray]) -> dict[str, Any]:
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

    def judge(self, predicted: Maps, true: Maps, known: dict[str, Any]) -> dict[str, Any]:
        classes = known["classes"]
        each = [confusion(p, t, classes) for p, t in zip(predicted, true, strict=True)]
        items = [{"accuracy": segmentation_scores(counts)["accuracy"]} for counts in each]
        return {**segmentation_scores(np.sum(each, 0)), "items": items}
