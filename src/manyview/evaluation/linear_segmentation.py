"""Linear segmentation of frozen features: mIoU and pixel accuracy (ADE20K and the like; DUNE's tables)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS
from manyview.evaluation.dense_maps import Kind, Part
from manyview.evaluation.dense_probe import DenseProbe
from manyview.evaluation.dense_scores import confusion, segmentation_scores
from manyview.models.dense_heads import SegmentationHead

UNKNOWN = 255
MOST = 4096  # classes


@PROTOCOLS.add("linear-segmentation")
@dataclass(frozen=True, kw_only=True)
class LinearSegmentation(DenseProbe):
    """Batch norm and a linear map per patch, logits resized to the labels; 255 and unknown labels are left out."""

    name: ClassVar[str] = "linear-segmentation"
    line: ClassVar[str] = "mIoU of a linear probe on frozen features (DUNE's segmentation tables)"
    kind: ClassVar[Kind] = "labels"
    heads: ClassVar[dict[str, str]] = {"miou": "mIoU", "accuracy": "pixel accuracy"}

    classes: int = 0
    """Labels 0 to this minus one are judged; 0: as many as the manifest names, else as occur in training."""

    def know(self, part: Part, maps: np.ndarray) -> dict[str, Any]:
        named = part.data.info.get("classes") or ()
        counts = np.zeros(MOST, np.int64)
        for chunk in maps:
            counts += np.bincount(chunk[(chunk >= 0) & (chunk < MOST)], minlength=MOST)
        classes = self.classes or len(named) or int(counts.nonzero()[0].max(initial=-1)) + 1
        if classes < 2 or not counts[:classes].any():
            raise UserError(f"the training labels show {classes} class; at least 2 are needed to tell apart")
        return {"classes": classes, "constant": int(counts[:classes].argmax())}

    def clean(self, values: np.ndarray) -> np.ndarray:
        return np.where(values == UNKNOWN, -1, values)

    def head(self, dim: int, known: dict[str, Any]) -> SegmentationHead:
        return SegmentationHead(dim, known["classes"])

    def judge(self, predicted: np.ndarray, true: np.ndarray, known: dict[str, Any]) -> dict[str, Any]:
        classes = known["classes"]
        each = [confusion(p, t, classes) for p, t in zip(predicted, true, strict=True)]
        items = [{"accuracy": segmentation_scores(counts)["accuracy"]} for counts in each]
        return {**segmentation_scores(np.sum(each, 0)), "items": items}
