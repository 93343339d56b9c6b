"""Linear segmentation of frozen features: mIoU and pixel accuracy (ADE20K and the like; DUNE's tables)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from manyview.evaluation.base import PROTOCOLS
from manyview.evaluation.dense_labels import SegmentationProbe
from manyview.evaluation.dense_probe import Facts
from manyview.evaluation.linear_probe import LinearProbe
from manyview.models.dense_heads import SegmentationHead


@PROTOCOLS.add("linear-segmentation")
@dataclass(frozen=True, kw_only=True)
class LinearSegmentation(LinearProbe, SegmentationProbe):
    """Batch norm and a linear map per patch, logits resized to the labels; 255 and unknown labels are left out."""

    name: ClassVar[str] = "linear-segmentation"
    line: ClassVar[str] = "mIoU of a linear probe on frozen features (DUNE's segmentation tables)"

    def head(self, dim: int, facts: Facts) -> SegmentationHead:
        return SegmentationHead(dim, facts["classes"])
