"""The `photos` teacher: depth from the pictures themselves and their cameras, so under nobody's licence but theirs.

Cameras come with the manifest: measured ones, or those of `manyview reconstruct`, `manyview export --to nerfstudio`
and `manyview data scan --format nerfstudio`. Depth is found by plane sweep (`geometry.sweep`). A pixel is valid where
two other views have the same surface to 3 % and the patches' correlation is above 0.5. Confidence is 1 + 9 * quality,
on the scale of the sensor teacher; quality is the mean of how far the correlation lies from 0.5 to 0.9 and how far the
views that agree lie from 1 to 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.geometry import pointmaps, poses
from manyview.geometry.sweep import AGREE, sweep
from manyview.teachers.base import TEACHERS
from manyview.types import Signal, Teacher, Views, WeightRule


@TEACHERS.add("photos")
class Photos(Teacher):
    """Multi-view stereo of posed photos as pointmaps with confidences; wants samples of at least three views."""

    name = "photos"
    licence = "that of the photos: the answers are made from them alone"
    weight_rule = WeightRule(scale=10.0, low=0.1, high=1.0)
    requires = frozenset({"intrinsics", "cam2world"})
    uses_given_poses = True

    def __init__(self, *, min_votes: int = 2, min_score: float = 0.5) -> None:
        self.min_votes, self.min_score = min_votes, min_score

    def settings(self) -> dict[str, Any]:
        return {"min_votes": self.min_votes, "min_score": self.min_score, "agree": AGREE, "planes": 96}

    @torch.inference_mode()
    def __call__(self, views: Views) -> dict[str, Signal]:
        """Pointmaps (B, V, H, W, 3) and confidences (B, V, H, W) as the sensor teacher gives them."""
        if views.intrinsics is None or views.cam2world is None or views.views < 3:
            who = f"frame {views.names[0][0]!r}" if views.names else "these views"
            raise UserError(
                f"{who}: the photos teacher needs intrinsics, poses and samples of at least 3 views, this one has "
                f"{views.views}; scan a reconstruction of the photos, and build with --views 8"
            )
        scenes = [
            self._scene(images, intrinsics, cam2world)
            for images, intrinsics, cam2world in zip(views.images, views.intrinsics, views.cam2world, strict=True)
        ]
        local, first, confidence, valid = (torch.stack(parts) for parts in zip(*scenes, strict=True))
        return self.weigh(
            {
                "pointmap": Signal(first, valid=valid),
                "pointmap_local": Signal(local, valid=valid),
                "confidence": Signal(confidence, valid=valid),
                "confidence_local": Signal(confidence.clone(), valid=valid),
            }
        )

    def _scene(self, images: Tensor, intrinsics: Tensor, cam2world: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        moved = (poses.invert(cam2world[:1].double()) @ cam2world.double()).float()
        depth, score, votes = sweep(images, intrinsics.float(), moved)
        valid = (votes >= self.min_votes) & (score > self.min_score)
        quality = ((score - 0.5) / 0.4).clamp(0, 1) / 2 + ((votes - 1) / 3).clamp(0, 1) / 2
        local = torch.where(valid[..., None], pointmaps.unproject(depth, intrinsics), 0)
        first = torch.where(valid[..., None], pointmaps.transform(moved, local), 0)
        return local, first, 1 + 9 * torch.where(valid, quality, 0), valid
