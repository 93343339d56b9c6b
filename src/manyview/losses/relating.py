"""What teaches a reconstructor to relate views: DUSt3R's confident points in one scale, cameras, and matching tokens.

Legend: B scenes, V views, H x W pixels, h x w tokens of a view, n = h*w, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.geometry import poses
from manyview.geometry.matching import PosedDepth, cell_centres, nearest_cells, warp
from manyview.geometry.pointmaps import mean_distance, transform, unproject
from manyview.losses.confident import confident_regression
from manyview.losses.pointmap import mean_over_scene, usable
from manyview.types import Signal, Views


def measured_points(views: Views) -> dict[str, Signal]:
    """Depth and cameras as "pointmap" in the first view's frame and "pointmap_local": (B, V, H, W, 3) each."""
    assert views.depth is not None
    assert views.intrinsics is not None
    assert views.cam2world is not None
    local, valid = unproject(views.depth, views.intrinsics), views.depth > 0
    first_from_view = poses.invert(views.cam2world[:, :1]) @ views.cam2world
    return {
        "pointmap": Signal(transform(first_from_view, local), valid=valid),
        "pointmap_local": Signal(local, valid=valid),
    }


def confident_maps(
    pred: Mapping[str, Tensor], signals: Mapping[str, Signal], *, alpha: float = 0.2
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """DUSt3R's loss (Wang et al., 2024, equation 4) on both maps, each map divided by its scene's scale.

    The scale is the mean distance of the global map, so that the local maps have to agree with it. Returns terms (B,)
    "global", "local" and "scale" (how far apart the logarithms of both scales are), and the scales (B,) said and true.
    """
    known = usable(signals["pointmap"])
    said, true = (
        mean_distance(torch.where(known[..., None], points.float(), 0), known, (1, 2, 3))
        for points in (pred["pointmap"], signals["pointmap"].value)
    )
    terms = {}
    for name, suffix in (("global", ""), ("local", "_local")):
        signal = signals[f"pointmap{suffix}"]
        known = usable(signal)
        here = torch.where(known[..., None], pred[f"pointmap{suffix}"].float(), 0) / said[..., None]
        there = torch.where(known[..., None], signal.value.float(), 0) / true[..., None]
        distance = torch.where(known, (here - there).square().sum(-1).add(1e-8).sqrt(), 0)
        terms[name] = mean_over_scene(*confident_regression(distance, known, pred[f"confidence{suffix}"], alpha=alpha))
    said, true = said.flatten(), true.flatten()
    terms["scale"] = (said.log() - true.log()).abs()
    return terms, said, true


def camera_error(encoding: Tensor, views: Views, said: Tensor, true: Tensor) -> Tensor:
    """Mean absolute error (B,) of pose encodings (B, V, 9): translation in scene scales, quaternion, fields of view.

    said, true (B,): the scales that predicted and true lengths are divided by. Encodings as in VGGT's camera head.
    """
    assert views.cam2world is not None
    assert views.intrinsics is not None
    view_from_first = poses.invert(views.cam2world) @ views.cam2world[:, :1]
    quaternion = poses.quaternion_from_matrix(view_from_first[..., :3, :3])
    size = torch.tensor(views.size, device=encoding.device)  # down, across
    focal = views.intrinsics[..., [1, 0], [1, 0]]
    fields = 2 * torch.atan(size / (2 * focal))
    turned = F.normalize(encoding[..., 3:7].float(), dim=-1).roll(1, dims=-1)  # wxyz
    errors = [
        encoding[..., :3].float() / said[:, None, None] - view_from_first[..., :3, 3] / true[:, None, None],
        turned - quaternion,
        encoding[..., 7:].float() - fields,
    ]
    return torch.cat(errors, -1).abs().sum(-1).mean(1)


def token_matching(tokens: Tensor, views: Views, others: Tensor, *, temperature: float = 0.07) -> tuple[Tensor, Tensor]:
    """InfoNCE between the tokens (B, V, h, w, D) of the first view and of `others` (B,): see attention_matching."""
    tokens = F.normalize(tokens.float(), dim=-1)
    return attention_matching(tokens, tokens, views, others, scale=1 / temperature)


def attention_matching(
    queries: Tensor, keys: Tensor, views: Views, others: Tensor, *, scale: float
) -> tuple[Tensor, Tensor]:
    """How far attention, the softmax of scale * queries . keys (B, V, h, w, D), is from looking at what shows the same:
    cross-entropy (B,) between the first view and `others` (B,), both ways, and the share (B,) of tokens that look at
    the right one. What a token shows in the other view is said by depth and cameras.
    """
    assert views.depth is not None
    assert views.intrinsics is not None
    assert views.cam2world is not None
    grid, row = (keys.shape[2], keys.shape[3]), torch.arange(len(keys), device=keys.device)
    centres = cell_centres(grid, views.size, keys.device)
    first = torch.zeros_like(others)
    total, right = keys.new_zeros(len(keys), dtype=torch.float32), []
    for a, b in ((first, others), (others, first)):
        sides = [PosedDepth(views.depth[row, v], views.intrinsics[row, v], views.cam2world[row, v]) for v in (a, b)]
        pixels, seen = warp(sides[0], sides[1], uv=centres)
        target = nearest_cells(pixels, grid, views.size).flatten(1)  # (B, n)
        with torch.autocast(keys.device.type, enabled=False):
            here, there = queries[row, a].flatten(1, 2).float(), keys[row, b].flatten(1, 2).float()
            scores = (here @ there.transpose(1, 2) * scale).log_softmax(-1)
        known, count = seen.flatten(1), seen.flatten(1).sum(1).clamp(min=1)
        cost = -scores.gather(2, target[..., None])[..., 0]
        total = total + torch.where(known, cost, 0).sum(1) / count
        right.append(((scores.argmax(-1) == target) & known).sum(1) / count)
    return total / 2, torch.stack(right).mean(0)
