"""Linear probes of dense tasks: one linear map per task on frozen tokens (DINOv2's protocols, as DUNE uses them).

Hyper-parameters are fixed beforehand, so there is no validation split. Pictures that are larger than a crop are
looked at as one, or by windows whose answers are averaged (mmsegmentation's `whole` and `slide`). A crop need not be a
multiple of the patch: it is padded, as DINOv2's evaluation pads 512 pixels.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Number, Row
from manyview.evaluation.dense_changes import Changes, SeenAnew
from manyview.evaluation.dense_fit import Examples, Schedule, answers, train_head
from manyview.evaluation.dense_framing import Framing
from manyview.evaluation.dense_labels import SegmentationProbe
from manyview.evaluation.dense_maps import Kind, Part
from manyview.evaluation.dense_probe import DenseProbe, Facts
from manyview.evaluation.tokens import image_size
from manyview.metrics.depth import depth_errors, eigen_crop
from manyview.models.dense_heads import DepthHead, SegmentationHead

FLOOR = 1e-9  # predicted depths below it are raised to it before a ratio


@dataclass(frozen=True, kw_only=True)
class LinearProbe(DenseProbe):
    """A linear head, trained by gradient descent on all crops of the training pictures."""

    about: ClassVar[tuple[str, str]] = ("A linear head", "hyper-parameters fixed beforehand")

    stride: int = 0
    """Pixels from window to window of framing=slide; 0 for two thirds of the size."""
    fit: Schedule = field(default_factory=Schedule)
    """How the head is trained (fit.steps, fit.batch, fit.lr, ...)."""

    augment: bool = False
    """Pictures are changed at every step (changes.crop, changes.degrees, …), as published for depth; the encoder then
    runs at every step, in place of once per picture."""
    changes: Changes = field(default_factory=Changes)
    """How."""

    def seen_anew(self, train: Examples, encode: Callable[[Tensor], Tensor]) -> Examples:
        if not self.augment:
            return train
        known = {of.name: getattr(train, of.name) for of in fields(train)}
        rng = np.random.default_rng([self.seed, 7])
        found = SeenAnew(**known, encode=encode, changes=self.changes, rng=rng)
        _ = found.cropped  # refuses a crop that leaves nothing, before the work
        return found

    @abc.abstractmethod
    def head(self, dim: int, facts: Facts) -> SegmentationHead | DepthHead:
        """A fresh head for tokens of `dim` channels, given what the training maps decide."""

    def look(self, encoder: Any) -> Framing:
        patch, size = int(encoder.config.patch_size), self.size
        height, width = image_size(encoder, None) if size is None else (size, size) if isinstance(size, int) else size
        if min(height, width) < 2 * patch:
            raise UserError(f"size {height}x{width}: both sides must be at least two patches of {patch}")
        return Framing((height, width), self.framing, self.stride, patch)

    def predict(
        self, method: str, train: Examples, test: Examples, facts: Facts
    ) -> tuple[dict[str, Any], Iterable[np.ndarray]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = self.head(train.tokens.dim, facts).to(train.device)
        loss = train_head(head, train, self.fit, label=method, seed=self.seed)
        return {"loss": loss}, answers(head, test)


@PROTOCOLS.add("linear-segmentation")
@dataclass(frozen=True, kw_only=True)
class LinearSegmentation(LinearProbe, SegmentationProbe):
    """Batch norm and a linear map per patch, logits resized to the labels; 255 and unknown labels are left out."""

    name: ClassVar[str] = "linear-segmentation"
    line: ClassVar[str] = "mIoU of a linear probe on frozen features (DUNE's segmentation tables)"

    def head(self, dim: int, facts: Facts) -> SegmentationHead:
        return SegmentationHead(dim, facts["classes"])


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
        sums = np.array([[chunk.sum(dtype=np.float64, where=chunk > 0), (chunk > 0).sum()] for chunk in maps]).sum(0)
        if not sums[1]:
            raise UserError(f"no training depth lies between 0 and {self.most}; set most=METRES to what there is")
        return {"constant": float(sums[0] / sums[1])}

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
