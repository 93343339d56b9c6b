"""AdamW over a module's trainable parameters."""

from __future__ import annotations

import math

import torch
from torch import nn

from manyview.config import RunConfig
from manyview.errors import UserError


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name to parameter, in the module's order, of all that asks for a gradient."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def adamw(module: nn.Module, run: RunConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on every parameter, or (`decay_vectors=False`) on those of two or more axes."""
    parameters = list(trainable(module).values())
    if not parameters:
        raise UserError(
            "nothing to train: every parameter of the recipe is frozen; check its `method` options"
        )
    spared = [] if run.decay_vectors else [p for p in parameters if p.ndim < 2]
    spared_ids = {id(p) for p in spared}
    decayed = [p for p in parameters if id(p) not in spared_ids]
    groups = [{"params": decayed, "weight_decay": run.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    on_gpu = all(p.device.type == "cuda" for p in parameters)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=run.lr,
        betas=run.betas,
        eps=run.eps,
        fused=True if on_gpu else None,
    )


def clip_gradients(parameters: list[nn.Parameter], run: RunConfig) -> torch.Tensor:
    """Shorten gradients to `run.clip`, together or (`run.clip_each`) tensor by tensor; returns their norm before."""
    together = math.inf if run.clip_each else run.clip or math.inf
    norm = torch.nn.utils.clip_grad_norm_(parameters, together)
    if run.clip_each and run.clip:
        for parameter in parameters:
            torch.nn.utils.clip_grad_norm_([parameter], run.clip)
    return norm


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def load_moments(optimizer: torch.optim.Optimizer, moments: dict[int, dict[str, torch.Tensor]]) -> None:
    """Restore what `optimizer.state_dict()["state"]` held; the groups' settings stay those of this run."""
    state = optimizer.state_dict()
    optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
