"""Global alignment: one pose, focal length and depth per view, from what a pair model says of pairs of views.

DUSt3R's objective (Wang et al., CVPR 2024, section 3.4): every ordered pair gets a similarity of its own, and the
distances between its points and those of the views are least in sum, weighted by confidence. It starts from the
maximum spanning tree of the pairs. Pairs whose relative rotations contradict the others count less, which is ours: a
sure answer about two photos of different things is what pair models are known for.

Legend: V views, E ordered pairs, P places of a view (the same number in all).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.cameras.graph import closing, connected, spanning_tree
from manyview.geometry import alignment, poses
from manyview.geometry.alignment import Similarity

STEPS, RATE = 300, 0.01
"""Steps of Adam, and its rate at the start, which falls to nothing along a cosine (as DUSt3R's)."""


@dataclass(frozen=True)
class Pairwise:
    """What a pair model says at the places of each view."""

    pairs: Tensor
    """(E, 2) the views of ordered pairs, both orders of each; points are in the first one's frame."""
    points: Tensor
    """(E, 2, P, 3) float32, of the first and of the second view."""
    weight: Tensor
    """(E, 2, P) what each counts; 0 where there is no point."""
    uv: Tensor
    """(V, P, 2) pixels of the places less the principal point."""
    focal: Tensor
    """(V,) guessed focal lengths in pixels."""
    lens: Tensor
    """(V,) which lens each view has; views of one share their focal length."""


@dataclass(frozen=True)
class Aligned:
    """Views in one frame, that of the first, in the pairs' mean unit. All float64."""

    cam2world: Tensor  # (V, 4, 4)
    focal: Tensor  # (V,) pixels
    depth: Tensor  # (V, P)
    support: Tensor
    """(E,) from 0 to 1: the share of its triangles with which a pair agrees."""


def align(said: Pairwise, *, steps: int = STEPS) -> Aligned:
    """The views of pairs that join them all. Raises ValueError where they do not."""
    with torch.inference_mode(False), torch.enable_grad():
        return _align(Pairwise(*(value.clone() for value in vars(said).values())), steps)


def _align(said: Pairwise, steps: int) -> Aligned:
    count = len(said.focal)
    pairs = [(int(i), int(j)) for i, j in said.pairs.tolist()]
    if connected(count, pairs).max() > 0:
        raise ValueError("the pairs do not join all views")
    local = canonical(said)
    relative = [_onto(local[j], said.points[e, 1], said.weight[e, 1]) for e, (_, j) in enumerate(pairs)]
    mass = said.weight.mean((1, 2)).double().tolist()
    better: dict[tuple[int, int], int] = {}  # of both orders, the surer one
    for e, (i, j) in enumerate(pairs):
        key = (min(i, j), max(i, j))
        if key not in better or mass[e] > mass[better[key]]:
            better[key] = e
    share = closing({(j, i): fit.rotation.numpy() for (i, j), fit in zip(pairs, relative, strict=True)})
    support = torch.tensor([min(share[j, i], share.get((i, j), 1.0)) for i, j in pairs], dtype=torch.float64)
    start = _along_tree(said, local, relative, better, {key: mass[e] * float(support[e]) for key, e in better.items()})
    world, focal, depth = _optimised(said, local, start, support, steps)
    first = poses.invert(world[0])
    return Aligned(first @ world, focal, depth, support)


def canonical(said: Pairwise) -> Tensor:
    """(V, P, 3) float64: each view's own points, its depths averaged over the pairs in which it comes first."""
    count, places = len(said.focal), said.points.shape[2]
    total, mass = torch.zeros(count, places).double(), torch.zeros(count, places).double()
    middle, seen = torch.zeros(count).double(), torch.zeros(count).double()
    for (i, _), points, weight in zip(said.pairs.tolist(), said.points[:, 0], said.weight[:, 0], strict=True):
        known = (weight > 0) & (points[:, 2] > 0)
        if not bool(known.any()):
            continue
        logs = points[:, 2].double().clamp(min=1e-9).log()
        typical = logs[known].median()
        total[i] += torch.where(known, weight.double() * (logs - typical), 0)
        mass[i] += torch.where(known, weight.double(), 0)
        middle[i] += typical
        seen[i] += 1
    depth = (total / mass.clamp(min=1e-12) + (middle / seen.clamp(min=1))[:, None]).exp()
    return depth[..., None] * _rays(said, said.focal.double())


def _rays(said: Pairwise, focal: Tensor) -> Tensor:
    directions = said.uv.double() / focal[:, None, None]
    return torch.cat([directions, torch.ones_like(directions[..., :1])], -1)


def _onto(source: Tensor, target: Tensor, weight: Tensor, rounds: int = 8) -> Similarity:
    """The similarity of points (P, 3) with the least weighted sum of distances."""
    target, weight = target.double(), weight.double()
    reweighted = weight
    fit = alignment.similarity(source, target, reweighted)
    for _ in range(rounds):
        off = (alignment.apply_similarity(fit, source) - target).norm(dim=-1)
        floor = 1e-3 * target[weight > 0].norm(dim=-1).mean() if bool((weight > 0).any()) else off.new_tensor(1.0)
        reweighted = weight / off.clamp(min=float(floor) + 1e-12)
        fit = alignment.similarity(source, target, reweighted)
    return fit


def _along_tree(
    said: Pairwise,
    local: Tensor,
    relative: list[Similarity],
    better: Mapping[tuple[int, int], int],
    weights: Mapping[tuple[int, int], float],
) -> tuple[Tensor, Tensor]:
    """Per view a similarity from its own points to the world: poses (V, 4, 4) and scales (V,)."""
    count = len(said.focal)
    pose, scale = torch.eye(4).double().repeat(count, 1, 1), torch.ones(count).double()
    order, before = spanning_tree(count, weights)
    for child in order[1:].tolist():
        parent = int(before[child])
        e = better[min(parent, child), max(parent, child)]
        fit, ratio = relative[e], _unit(said, local, e)
        step = poses.pose(fit.rotation, fit.translation)
        if int(said.pairs[e, 0]) == parent:  # child's points -> pair's frame, which is the parent's in another unit
            factor, step = ratio * fit.scale, step.clone()
            step[:3, 3] *= ratio
        else:  # parent's points -> the child's frame: turned round
            factor, step = 1 / (fit.scale * ratio), poses.invert(step)
            step[:3, 3] /= fit.scale
        scale[child] = scale[parent] * factor
        step = step.clone()
        step[:3, 3] *= scale[parent]
        pose[child] = pose[parent] @ step
    return pose, scale


def _unit(said: Pairwise, local: Tensor, e: int) -> Tensor:
    """What a pair's lengths are multiplied by to be in the unit of its first view's own points."""
    i = int(said.pairs[e, 0])
    return alignment.median_scale(said.points[e, 0, :, 2].double(), local[i, :, 2], said.weight[e, 0] > 0)


def _optimised(
    said: Pairwise, local: Tensor, start: tuple[Tensor, Tensor], support: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Poses, focal lengths and depths where the weighted distances are least."""
    pose, scale = start
    first, second = said.pairs.unbind(1)
    units = torch.stack([_unit(said, local, e) for e in range(len(said.pairs))])
    mean = (scale[first] * units).log().mean().exp()  # so that the pairs' scales are 1 in the geometric mean
    pose, scale = pose.clone(), scale / mean
    pose[:, :3, 3] /= mean
    depth = local[..., 2] * scale[:, None]
    typical = float(depth.median())
    _, lens = torch.unique(said.lens, return_inverse=True)
    log_focal = said.focal.double().log()
    of_lens = torch.stack([log_focal[lens == number].median() for number in range(int(lens.max()) + 1)])
    leaves = {
        "turn": poses.quaternion_from_matrix(pose[:, :3, :3]),
        "place": pose[:, :3, 3] / typical,
        "depth": (depth / typical).log(),
        "focal": of_lens,
        "pair_turn": poses.quaternion_from_matrix(pose[first][:, :3, :3]),
        "pair_place": pose[first][:, :3, 3] / typical,
        "pair_scale": (scale[first] * units).log(),
    }
    leaves = {name: value.float().clone().requires_grad_() for name, value in leaves.items()}
    weight = said.weight * support[:, None, None].float()
    weight = weight / weight.sum().clamp(min=1e-12)
    points, ends = said.points.float() / typical, torch.stack([first, second], 1)
    points = torch.where(weight[..., None] > 0, points, 0)

    def world() -> Tensor:
        focal = leaves["focal"][lens].exp()
        directions = said.uv.float() / focal[:, None, None]
        own = torch.cat([directions, torch.ones_like(directions[..., :1])], -1) * leaves["depth"].exp()[..., None]
        return own @ poses.matrix_from_quaternion(leaves["turn"]).transpose(1, 2) + leaves["place"][:, None]

    def objective() -> Tensor:
        grown = (leaves["pair_scale"] - leaves["pair_scale"].mean()).exp()[:, None, None, None] * points
        turn = poses.matrix_from_quaternion(leaves["pair_turn"])[:, None]
        moved = grown @ turn.transpose(2, 3) + leaves["pair_place"][:, None, None]
        return (weight * (world()[ends] - moved).square().sum(-1).add(1e-12).sqrt()).sum()

    optimiser = torch.optim.Adam(leaves.values(), lr=RATE, betas=(0.9, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for _ in range(steps):
        optimiser.zero_grad()
        objective().backward()
        optimiser.step()
        schedule.step()
    done = {name: value.detach().double() for name, value in leaves.items()}
    cam2world = poses.pose(poses.matrix_from_quaternion(done["turn"]), typical * done["place"])
    return cam2world, done["focal"][lens].exp(), typical * done["depth"].exp()
