"""AdamW over a module's trainable parameters."""

from __future__ import annotations

import itertools
import math

import torch
import torch.distributed as dist
from torch import nn

from manyview.config import RunConfig
from manyview.engine.shard import collect, is_split, share, split_like
from manyview.errors import UserError

Moments = dict[int, dict[str, torch.Tensor]]
"""AdamW's state per parameter, numbered as `ordered` lists them."""


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name to parameter, in the module's order, of all that asks for a gradient."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def adamw(module: nn.Module, run: RunConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on every parameter, or (`decay_vectors=False`) on those of two or more axes."""
    parameters, groups = ordered(module, run), []
    if not parameters:
        raise UserError("nothing to train: every parameter of the recipe is frozen; check its `method` options")
    for decay, split in itertools.product((True, False), (False, True)):  # the fused kernel takes no mixture
        alike = [p for p in parameters if decays(p, run) == decay and is_split(p) == split]
        groups.append({"params": alike, "weight_decay": run.weight_decay if decay else 0.0})
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=run.lr,
        betas=run.betas,
        eps=run.eps,
        fused=True if all(p.device.type == "cuda" for p in parameters) else None,
    )


def decays(parameter: nn.Parameter, run: RunConfig) -> bool:
    """Whether a parameter has weight decay."""
    return run.decay_vectors or parameter.ndim >= 2


def ordered(module: nn.Module, run: RunConfig) -> list[nn.Parameter]:
    """The trainable parameters in the order in which checkpoints number them, split or not: those that decay first."""
    return sorted(trainable(module).values(), key=lambda parameter: not decays(parameter, run))


@torch.no_grad()
def clip_gradients(parameters: list[nn.Parameter], run: RunConfig) -> torch.Tensor:
    """Shorten gradients to `run.clip`, together or (`run.clip_each`) tensor by tensor; returns their norm before.

    The norm is that of whole gradients, the same number on every rank.
    """
    if any(is_split(p) for p in parameters):
        return _clip_shares([p.grad for p in parameters if p.grad is not None], run)
    together = math.inf if run.clip_each else run.clip or math.inf
    norm = torch.nn.utils.clip_grad_norm_(parameters, together)
    if run.clip_each and run.clip:
        for parameter in parameters:
            torch.nn.utils.clip_grad_norm_([parameter], run.clip)
    return norm


def _clip_shares(gradients: list[torch.Tensor], run: RunConfig) -> torch.Tensor:
    """`clip_gradients` where some gradients are split over the ranks and the others the same on each."""
    gradients = sorted(gradients, key=is_split)
    held = [share(gradient) for gradient in gradients]
    norms = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in held])
    first = sum(not is_split(gradient) for gradient in gradients)
    squares = norms[first:].square()
    dist.all_reduce(squares)
    norms = torch.cat([norms[:first], squares.sqrt()])
    total = torch.linalg.vector_norm(norms)
    if run.clip:
        longest = norms if run.clip_each else total.expand(len(held))
        scales = (run.clip / (longest + 1e-6)).clamp(max=1.0)
        for gradient, scale in zip(held, scales, strict=True):
            gradient.mul_(scale)
    return total


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def moments(optimizer: torch.optim.Optimizer, order: list[nn.Parameter]) -> Moments:
    """The optimiser's state of each parameter that has any, on rank 0 whole (every rank must call)."""
    return {
        index: collect(optimizer.state[parameter])
        for index, parameter in enumerate(order)
        if parameter in optimizer.state
    }


def load_moments(optimizer: torch.optim.Optimizer, saved: Moments, order: list[nn.Parameter]) -> None:
    """Restore what `moments` gave, split or not; the groups' settings stay those of this run."""
    numbers = {id(parameter): index for index, parameter in enumerate(order)}
    state = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        found = saved.get(numbers[id(parameter)])
        if found is not None:
            state[index] = {
                name: value if name == "step" else split_like(value, parameter) for name, value in found.items()
            }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
