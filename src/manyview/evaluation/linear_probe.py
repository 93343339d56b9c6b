"""Linear probes of dense tasks: one linear map per task on frozen tokens (DINOv2's protocols, as DUNE uses them).

Hyper-parameters are fixed beforehand, so there is no validation split. Pictures that are larger than a crop are
looked at as one, or by windows whose answers are averaged (mmsegmentation's `whole` and `slide`). A crop need not be a
multiple of the patch: it is padded, as DINOv2's evaluation pads 512 pixels.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from manyview.errors import UserError
from manyview.evaluation.dense_fit import Examples, Schedule, answers, train_head
from manyview.evaluation.dense_framing import Framing
from manyview.evaluation.dense_probe import DenseProbe, Facts
from manyview.evaluation.encoders import image_size
from manyview.models.dense_heads import DepthHead, SegmentationHead


@dataclass(frozen=True, kw_only=True)
class LinearProbe(DenseProbe):
    """A linear head, trained by gradient descent on all crops of the training pictures."""

    about: ClassVar[tuple[str, str]] = ("A linear head", "hyper-parameters fixed beforehand")

    stride: int = 0
    """Pixels from window to window of framing=slide; 0 for two thirds of the size."""
    fit: Schedule = field(default_factory=Schedule)
    """How the head is trained (fit.steps, fit.batch, fit.lr, ...)."""

    @abc.abstractmethod
    def head(self, dim: int, facts: Facts) -> SegmentationHead | DepthHead:
        """A fresh head for tokens of `dim` channels, given what the training maps decide."""

    def look(self, encoder: Any) -> Framing:
        patch = int(encoder.config.patch_size)
        if self.size is None:
            size = image_size(encoder, None)
        else:
            size = (self.size, self.size) if isinstance(self.size, int) else self.size
        if min(size) < 2 * patch:
            raise UserError(f"size {size[0]}x{size[1]}: both sides must be at least two patches of {patch}")
        return Framing(size, self.framing, self.stride, patch)

    def predict(
        self, method: str, train: Examples, test: Examples, facts: Facts
    ) -> tuple[dict[str, Any], Iterable[np.ndarray]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = self.head(train.tokens.dim, facts).to(train.device)
        loss = train_head(head, train, self.fit, label=method, seed=self.seed)
        return {"loss": loss}, answers(head, test)
