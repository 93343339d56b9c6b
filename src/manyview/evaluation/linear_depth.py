"""Linear depth of frozen features: errors in the data's own unit, nothing aligned (NYUd; DINOv2's protocol)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Number, Row
from manyview.evaluation.dense_maps import Kind, Part
from manyview.evaluation.dense_probe import Facts
from manyview.evaluation.linear_probe import LinearProbe
from manyview.metrics.depth import depth_errors, eigen_crop
from manyview.models.dense_heads import DepthHead

FLOOR = 1e-9  # predicted depths below it are raised to it before a ratio


@PROTOCOLS.add("linear-depth")
@dataclass(frozen=True, kw_only=True)
class LinearDepth(LinearProbe):
    """A linear map into 256 uniform bins, answered four times finer than the patches; errors are means over images."""

    name: ClassVar[str] = "linear-depth"
    line: ClassVar[str] = "depth errors of a linear probe on frozen features (DUNE's NYUd column)"
    kind: ClassVar[Kind] = "depth"
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("rmse", "RMSE"),
        Number("abs_rel", "AbsRel"),
        Number("delta_1", "δ < 1.25", "higher"),
    )

    cls: bool = True
    """Class token beside every patch token, when the encoder has one."""
    least: float = 1e-3
    """Depth of the first bin."""
    most: float = 10.0
    """Depth of the last bin: 10 for NYUd, 80 for KITTI. Deeper pixels are neither learned nor judged."""
    bins: int = 256
    """Depth bins."""

    eigen: bool = False
    """Only pixels inside Eigen's crop of NYU pictures (rows 45:471, columns 41:601 of 480x640) are looked at."""

    def tokens(self, encoder: Any, images: Tensor) -> Tensor:
        features = encoder.encode(images, norm=self.norm)
        if features.cls is None or not self.cls:
            return features.patches
        return torch.cat([features.patches, features.cls[:, None].expand_as(features.patches)], -1)

    def facts(self, part: Part, maps: Sequence[np.ndarray]) -> Facts:
        total, count = 0.0, 0
        for chunk in maps:
            valid = chunk[chunk > 0]
            total, count = total + float(valid.sum(dtype=np.float64)), count + valid.size
        if not count:
            raise UserError(
                f"no training depth lies between 0 and {self.most}; set most=METRES to what there is"
            )
        return {"constant": total / count}

    def clean(self, values: np.ndarray) -> np.ndarray:
        if self.eigen:
            inside = np.zeros(values.shape, bool)
            inside[eigen_crop(*values.shape)] = True
            values = np.where(inside, values, 0)
        return np.where(values <= self.most, values, 0)

    def head(self, dim: int, facts: Facts) -> DepthHead:
        return DepthHead(dim, least=self.least, most=self.most, bins=self.bins)

    def judge(self, item: Item, answer: Answer, truth: tuple[np.ndarray, Facts]) -> Row:
        errors = depth_errors(answer["map"], truth[0], floor=FLOOR)
        if not errors["pixels"]:
            return {"failed": f"no depth between 0 and {self.most}"}
        return {number.key: errors[number.key] for number in self.numbers}

    def means(self, rows: Sequence[Row]) -> Row:
        if all("failed" in row for row in rows):
            raise UserError(f"no test depth lies between 0 and {self.most}; set most=METRES to what there is")
        return super().means(rows)
