"""What teaches a feed-forward reconstructor: VGGT's losses as MuM prints them (equation 3), and its distillation (2).

Legend: B scenes, V views, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.geometry import poses
from manyview.geometry.pointmaps import mean_distance
from manyview.losses.pointmap import usable
from manyview.types import Signal, Views


def true_encoding(views: Views, scale: Tensor) -> Tensor:
    """Cameras (B, V, 9) as VGGT's head says them: world2cam's translation divided by scale (B,), quaternion xyzw,
    vertical and horizontal field of view. The world is the first view's camera.
    """
    assert views.cam2world is not None
    assert views.intrinsics is not None
    view_from_first = poses.invert(views.cam2world) @ views.cam2world[:, :1]
    quaternion = poses.quaternion_from_matrix(view_from_first[..., :3, :3]).roll(-1, dims=-1)
    size = torch.tensor(views.size, device=quaternion.device)  # down, across
    fields = 2 * torch.atan(size / (2 * views.intrinsics[..., [1, 0], [1, 0]]))
    return torch.cat([view_from_first[..., :3, 3] / scale[:, None, None], quaternion, fields], -1)


def reconstruction_terms(
    said: Mapping[str, Tensor], views: Views, signals: Mapping[str, Signal], *, alpha: float
) -> dict[str, Tensor]:
    """ "camera", "depth" and "points" of equation 3, a number each.

    Truth is divided by the mean distance of its points, answers are taken as they are (VGGT). camera: Huber over the
    encodings of the head's last round. depth and points: confidence * distance - alpha * log confidence, and the
    difference of neighbouring errors weighted likewise.
    """
    truth, known = signals["pointmap"], usable(signals["pointmap"])
    points = torch.where(known[..., None], truth.value.float(), 0)
    scale = mean_distance(points, known, (1, 2, 3)).flatten()
    local = signals["pointmap_local"]
    seen = usable(local)
    depth = torch.where(seen, local.value[..., 2].float(), 0) / scale[:, None, None, None]
    points = points / scale[:, None, None, None, None]
    encoding = said["pose_encoding"].float()
    turned = torch.cat([encoding[..., :3], F.normalize(encoding[..., 3:7], dim=-1), encoding[..., 7:]], -1)
    return {
        "camera": F.huber_loss(turned, true_encoding(views, scale), delta=0.1) / 0.1,
        "depth": _confident(said["depth"].float()[..., None], depth[..., None], said["depth_confidence"], seen, alpha),
        "points": _confident(said["pointmap"].float(), points, said["confidence"], known, alpha),
    }


def _confident(said: Tensor, true: Tensor, confidence: Tensor, known: Tensor, alpha: float) -> Tensor:
    """Of maps (B, V, H, W, C)."""
    error = torch.where(known[..., None], said - true, 0)
    sure = torch.where(known, confidence.float(), 1)
    distance = error.square().sum(-1).add(1e-8).sqrt()
    cost = torch.where(known, sure * distance - alpha * sure.log(), 0).sum() / known.sum().clamp(min=1)
    for axis in (2, 3):
        length = known.shape[axis] - 1
        both = known.narrow(axis, 0, length) & known.narrow(axis, 1, length)
        step = (error.narrow(axis, 1, length) - error.narrow(axis, 0, length)).abs().sum(-1)
        cost = cost + torch.where(both, sure.narrow(axis, 0, length) * step, 0).sum() / both.sum().clamp(min=1)
    return cost


def distillation_terms(said: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ "camera", "depth" and "points" of equation 2: mean squared differences, unweighted, from a teacher's answers."""
    names = {"camera": "pose_encoding", "depth": "depth", "points": "pointmap"}
    return {term: F.mse_loss(said[name].float(), teacher[name].float()) for term, name in names.items()}
