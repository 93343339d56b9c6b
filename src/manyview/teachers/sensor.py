"""The `sensor` teacher: measured depth and poses, said in the language of a network teacher.

Points are the measured depth unprojected. Confidence is 1 + 9 * quality, so that it lives on the scale of
Fast3R's 1 + exp(x) and the weight clamp(confidence / 10, 0.1, 1) runs from 0.1 (worst) to 1 (best). Quality,
in [0, 1], is

    quality = edge * grazing            where the depth is measured (finite and > 0), else 0
    edge    = exp(-(r / 0.03)^2)        a jump of 3 % leaves 0.37
    grazing = smoothstep(|cos| / 0.5)   1 up to 60 degrees, 0 at 90

r is the largest relative step of inverse depth to the pixels on both sides, across and down, beyond the plane
through them: inverse depth is linear on a plane, so a floor seen at a low angle is no edge. cos is that of
the angle between the surface normal and the viewing ray.

Both signals are valid exactly where depth is measured.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.geometry import pointmaps, poses
from manyview.geometry.measured import confidence_of_depth
from manyview.teachers.base import TEACHERS
from manyview.types import Signal, Teacher, Views, WeightRule


@TEACHERS.add("sensor")
class Sensor(Teacher):
    """Depth, intrinsics and poses of the manifest as pointmaps with confidences."""

    name = "sensor"
    licence = "that of the data: the answers are the data set's own measurements"
    weight_rule = WeightRule(scale=10.0, low=0.1, high=1.0)
    requires = frozenset({"depth", "intrinsics", "cam2world"})
    uses_given_poses = True
    derived = MappingProxyType(dict.fromkeys(("confidence", "confidence_local"), "pointmap_local"))

    def __init__(self, *, edge_step: float = 0.03, full_cosine: float = 0.5) -> None:
        self.edge_step = edge_step
        self.full_cosine = full_cosine

    def settings(self) -> dict[str, Any]:
        return {"edge_step": self.edge_step, "full_cosine": self.full_cosine, "confidence": "1 + 9 * quality"}

    def __call__(self, views: Views) -> dict[str, Signal]:
        """Local and first-view pointmaps (B, V, H, W, 3) with their confidences (B, V, H, W)."""
        depth, intrinsics = self._inputs(views)
        valid = torch.isfinite(depth) & (depth > 0)
        depth = torch.where(valid, depth, torch.zeros_like(depth))
        local = pointmaps.unproject(depth, intrinsics)
        first = pointmaps.transform(_first_from_camera(views), local)
        first = torch.where(valid[..., None], first, torch.zeros_like(first))
        confidence = confidence_of_depth(local, valid, self.edge_step, self.full_cosine)
        return self.weigh(
            {
                "pointmap": Signal(first, valid=valid),
                "pointmap_local": Signal(local, valid=valid),
                "confidence": Signal(confidence, valid=valid),
                "confidence_local": Signal(confidence.clone(), valid=valid),
            }
        )

    def _inputs(self, views: Views) -> tuple[Tensor, Tensor]:
        """Depth and intrinsics, after checking all that is needed."""
        if views.depth is None:
            raise _lack(views, "measured depth and there is none; scan the data with a format that has depth")
        if views.intrinsics is None:
            raise _lack(views, "intrinsics (fx, fy, cx, cy) and there are none; add them to the manifest")
        if views.views > 1 and views.cam2world is None:
            raise _lack(
                views,
                "a pose (cam2world) for samples of several views and there is none; add poses to the manifest "
                "or use --views 1",
            )
        _check_finite(views, views.intrinsics, "intrinsics")
        if views.views > 1 and views.cam2world is not None:
            _check_finite(views, views.cam2world, "pose (cam2world)")
        return views.depth, views.intrinsics


def _first_from_camera(views: Views) -> Tensor:
    """(B, V, 4, 4), composed in double precision: world coordinates can be large."""
    if views.cam2world is None or views.views == 1:
        batch, count = views.images.shape[:2]
        return torch.eye(4, device=views.images.device).expand(batch, count, 4, 4)
    cam2world = views.cam2world.double()
    return (poses.invert(cam2world[:, :1]) @ cam2world).to(views.images.dtype)


def _frame(views: Views, scene: int = 0, view: int = 0) -> str:
    return f"frame {views.names[scene][view]!r}" if views.names else f"scene {scene}, view {view}"


def _lack(views: Views, what: str) -> UserError:
    return UserError(f"{_frame(views)}: the sensor teacher needs {what}")


def _check_finite(views: Views, values: Tensor, what: str) -> None:
    bad = (~torch.isfinite(values)).flatten(2).any(-1).nonzero()
    if len(bad):
        scene, view = bad[0].tolist()
        raise UserError(
            f"{_frame(views, scene, view)}: its {what} has NaN or infinite numbers; "
            "mend it in the source or leave the frame out"
        )
