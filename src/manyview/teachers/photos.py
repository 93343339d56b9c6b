"""The `photos` teacher: depth from the pictures themselves and their cameras, so under nobody's licence but theirs.

Cameras come with the manifest: measured ones, or those of `manyview reconstruct`, `manyview export --to nerfstudio`
and `manyview data scan --format nerfstudio`. Depth is found by plane sweep (`geometry.sweep`). A pixel is valid where
two other views, of many views one in 16, have the same surface to 3 % and the patches' correlation is above 0.5.
Confidence is 1 + 9 * quality, on the scale of the sensor teacher; quality is the mean of how far the correlation lies
from 0.5 to 0.9 and how far the views that agree lie from one less than needed to three more.

With `fill`, a reconstructor's depth of single views is bent smoothly to what was found (`geometry.bending`) and is the
answer everywhere: half of the pixels of a room have no texture, and what is known of them is not to be forgotten.
Quality is then a fifth, and up to four fifths where there is much found around. Lengths are in the unit of the guess:
that of cameras from matches is arbitrary, and a student that has to learn another one forgets what is near and far.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.geometry import pointmaps, poses
from manyview.geometry.bending import bent
from manyview.geometry.sweep import AGREE, sweep
from manyview.models.model import weights_digest
from manyview.teachers.base import TEACHERS, licence_of
from manyview.types import Signal, Teacher, Views, WeightRule

ONE_IN = 16
"""Of so many views one has to agree: among many, some do by chance."""
LEAST = 0.01
"""Share of a view that stereo must have found, for its scale to be known."""


@TEACHERS.add("photos")
class Photos(Teacher):
    """Multi-view stereo of posed photos as pointmaps with confidences; wants samples of at least three views."""

    name = "photos"
    licence = "that of the photos: the answers are made from them alone"
    weight_rule = WeightRule(scale=10.0, low=0.1, high=1.0)
    requires = frozenset({"intrinsics", "cam2world"})
    uses_given_poses = True

    def __init__(self, *, min_votes: int = 2, min_score: float = 0.5, fill: nn.Module | None = None) -> None:
        """fill: a reconstructor with local pointmaps. Its licence then binds the answers too."""
        self.min_votes, self.min_score, self.fill = min_votes, min_score, fill
        self.has_network = fill is not None
        self.uses_given_poses = fill is None  # filled, lengths are in another unit than the poses
        if fill is not None:
            fill.eval().requires_grad_(False)
            self.licence = f"{self.licence}, and of the depth that fills gaps: {licence_of(fill)}"
        self._digest = ""

    def settings(self) -> dict[str, Any]:
        votes = {"min_votes": self.min_votes, "one_vote_in": ONE_IN, "min_score": self.min_score}
        return {**votes, "agree": AGREE, "planes": 96, "filled": self.fill is not None and "in its unit"}

    def weights_digest(self) -> str:
        if self.fill is not None and not self._digest:
            self._digest = weights_digest(self.fill)
        return self._digest

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
        needed = max(self.min_votes, round(len(images) / ONE_IN))
        valid = (votes >= needed) & (score > self.min_score)
        agreeing = ((votes - needed + 1) / 3).clamp(0, 1)
        quality = ((score - 0.5) / 0.4).clamp(0, 1) / 2 + agreeing / 2
        if self.fill is not None:
            network = self.fill.to(images.device)
            guess = torch.stack([network(one[None, None])["pointmap_local"][0, 0, ..., 2].float() for one in images])
            usable = torch.isfinite(guess) & (guess > 0)
            depth, support = bent(torch.where(usable, guess, 1.0), depth, torch.where(valid & usable, agreeing, 0.0))
            valid = usable & (valid.flatten(1).float().mean(1) > LEAST)[:, None, None]
            quality = 0.2 + 0.6 * support
            if valid.any():
                unit = (guess / depth)[valid].median()
                depth, moved = depth * unit, moved.clone()
                moved[:, :3, 3] *= unit
        local = torch.where(valid[..., None], pointmaps.unproject(depth, intrinsics), 0)
        first = torch.where(valid[..., None], pointmaps.transform(moved, local), 0)
        return local, first, 1 + 9 * torch.where(valid, quality, 0), valid
