"""Reconstructors as teachers: any model of the zoo or a model directory that turns views into pointmaps."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from manyview import zoo
from manyview.config import to_dict
from manyview.errors import UserError
from manyview.geometry.alignment import apply_similarity, similarity
from manyview.models.model import Reconstructs, ReconstructsPairs, weights_digest
from manyview.teachers.base import licence_of
from manyview.types import Signal, Teacher, Views, WeightRule
from manyview.zoo.models import load_as

MAPS = ("pointmap", "confidence", "pointmap_local", "confidence_local", "depth", "depth_confidence")
"""What is kept of what a model says, beside its feature maps; cameras follow from the pointmaps."""
BY_QUANTILE = WeightRule(0.9, 0.1, 1.0, by="quantile")
"""For models whose card does not say how confident is confident: full weight for the surest tenth of a sample."""

SUREST = 0.85
"""Quantile of a view's confidences above which pixels say how its local map is moved."""


class ReconstructorTeacher(Teacher):
    """Signals "pointmap", "pointmap_local", "depth" and their confidences, as far as the model says them, and its
    feature maps as "features.NAME".

    The model sees the views at the size they have, less at most a patch at the borders where the size is no
    multiple of its patch: there its maps are invalid. The card of its weights says the licence, and may say the
    weight rule. source: a zoo name or a model directory. model: `source`, where it is loaded. Raises UserError for
    one that is no reconstructor. aligned: "pointmap" is the local one, moved view by view onto the model's own by the
    similarity of its surest pixels (Distill3R's released export), so that both tell of the same surface.
    """

    weighted_by = MappingProxyType({**Teacher.weighted_by, "depth": "depth_confidence"})
    has_network = True

    def __init__(self, source: str, *, name: str = "", model: nn.Module | None = None, aligned: bool = True) -> None:
        network: Any = load_as(source if model is None else model, Reconstructs)[0]
        self.network = network.eval().requires_grad_(False)
        self.name, self.licence = name or source, licence_of(self.network)
        rule = zoo.card_of(source).get("weight_rule")
        self.weight_rule = WeightRule(**rule) if rule else BY_QUANTILE
        self.aligned = aligned
        self._digest = ""

    def settings(self) -> dict[str, Any]:
        aligned = {"aligned": f"pixels above the {SUREST:.0%} quantile"} if self.aligned else {}
        return {"network": to_dict(self.network.config), "borders": "cropped to whole patches", **aligned}

    def weights_digest(self) -> str:
        self._digest = self._digest or weights_digest(self.network)
        return self._digest

    def prepare(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) -> their middle, whose sides are multiples of the patch. Raises UserError for none."""
        top, left, height, width = self._inside(images.shape[-2], images.shape[-1])
        return images[..., top : top + height, left : left + width]

    def _inside(self, height: int, width: int) -> tuple[int, int, int, int]:
        patch = int(self.network.config.patch_size)
        if min(height, width) < patch:
            raise UserError(f"teacher {self.name} sees patches of {patch} pixels; {height}x{width} has none")
        return height % patch // 2, width % patch // 2, height // patch * patch, width // patch * patch

    @torch.inference_mode()
    def __call__(self, views: Views) -> dict[str, Signal]:
        if isinstance(self.network, ReconstructsPairs) and views.views != 2:
            raise UserError(f"teacher {self.name} sees pairs of views, not {views.views}; build with --views 2")
        maps = self.network.to(views.images.device)(self.prepare(views.images))
        if self.aligned and {"pointmap", "pointmap_local", "confidence"} <= maps.keys():
            maps["pointmap"] = _moved_onto(maps["pointmap_local"], maps["pointmap"], maps["confidence"])
        signals = {name: self._placed(maps[name], views.size) for name in MAPS if name in maps}
        for name, values in maps.get("features", {}).items():
            signals[f"features.{name}"] = Signal(values.clone())
        return self.weigh(signals)

    def _placed(self, values: Tensor, size: tuple[int, int]) -> Signal:
        """Maps (B, V, h, w, ...) of the middle, on all of the (H, W) pixels."""
        top, left, height, width = self._inside(*size)
        whole = values.new_zeros(*values.shape[:2], *size, *values.shape[4:])
        valid = torch.zeros(whole.shape[:4], dtype=torch.bool, device=whole.device)
        whole[:, :, top : top + height, left : left + width] = values
        valid[:, :, top : top + height, left : left + width] = True
        finite = torch.isfinite(whole)
        return Signal(whole, valid=valid & (finite.all(-1) if whole.ndim > 4 else finite))


def _moved_onto(local: Tensor, target: Tensor, confidence: Tensor) -> Tensor:
    """Local pointmaps (B, V, H, W, 3), each moved by one similarity that fits its surest pixels to the target's."""
    points, goal, sure = local.flatten(2, 3).double(), target.flatten(2, 3).double(), confidence.flatten(2)
    kept = sure >= sure.quantile(SUREST, dim=-1, keepdim=True)
    finite = torch.isfinite(points).all(-1) & torch.isfinite(goal).all(-1)
    return apply_similarity(similarity(points, goal, (kept & finite).double()), points).view_as(local).to(local)
