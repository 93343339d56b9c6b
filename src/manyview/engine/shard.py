"""Blocks split over the ranks (FSDP2): each rank holds a share of their weights, gradients and AdamW moments.

A block's weights are gathered when it runs and let go again, forward and backward. What is no block (embeddings,
heads, projectors) stays whole on every rank and is averaged as without this. The blocks are found, not named: the
engine knows no layers. Every rank must run the same blocks in the same order, for each of them is a meeting.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from manyview.engine import ranks

LOG = logging.getLogger(__name__)

LEAST = 100_000
"""Trained numbers below which a module stays whole: gathering it would cost more than it saves."""


def is_split(tensor: Tensor) -> bool:
    """Whether this rank holds only its share of `tensor`."""
    if ranks.world() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def share(tensor: Tensor) -> Tensor:
    """What this rank holds of `tensor`; writing into it writes into the tensor."""
    return tensor.to_local() if is_split(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor` (every rank must call)."""
    return tensor.detach().full_tensor() if is_split(tensor) else tensor  # type: ignore[attr-defined]


def collect(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """All of each tensor on rank 0, split ones on its CPU; nothing elsewhere (every rank must call).

    One at a time, for they need not fit a GPU together.
    """
    found = {}
    for name, tensor in named.items():
        all_of_it = whole(tensor)
        if ranks.rank() == 0:
            found[name] = all_of_it.cpu() if is_split(tensor) else tensor
    return found


def split_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor of the parameter's shape, which every rank has, split as the parameter is."""
    if not is_split(parameter):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, places = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(parameter.device), mesh, places, src_data_rank=None)


def blocks(module: nn.Module, *, least: int | None = None) -> list[nn.Module]:
    """What is split: the outermost elements of module lists that can be called and train `least` numbers or more.

    Not those that share a weight with something else, nor those with a weight that has no axis to split.
    """
    least = LEAST if least is None else least
    places = Counter(id(p) for p in _places(module))

    def divisible(element: nn.Module) -> bool:
        if type(element).forward is nn.Module.forward:  # a container
            return False
        own = Counter(id(p) for p in _places(element))
        trained = sum(p.numel() for p in element.parameters() if p.requires_grad)
        alone = all(places[key] == count for key, count in own.items())
        return trained >= least and alone and all(p.ndim for p in element.parameters())

    def found(parent: nn.Module) -> Iterator[nn.Module]:
        for child in parent.children():
            if isinstance(parent, nn.ModuleList) and divisible(child):
                yield child
            else:
                yield from found(child)

    return list(dict.fromkeys(found(module)))


def _places(module: nn.Module) -> Iterator[nn.Parameter]:
    """Every parameter as often as modules hold it."""
    for part in module.modules():
        yield from (p for p in part._parameters.values() if p is not None)


def split(recipe: nn.Module, device: torch.device) -> Split | None:
    """Split the blocks of a recipe, the same on every rank; None when there is nothing to do, which is told."""
    if ranks.world() == 1:
        LOG.info("run.shard has no effect: there is one process")
        return None
    chosen = blocks(recipe)
    if not chosen:
        LOG.warning("run.shard has no effect: no module list holds blocks of %d trained numbers", LEAST)
        return None
    done = Split(recipe, chosen, device)
    LOG.info("%d blocks with %d weights are split over %d ranks", len(chosen), done.numbers, ranks.world())
    return done


class Split:
    """A recipe whose blocks are split, until `join` makes them whole again."""

    def __init__(self, recipe: nn.Module, chosen: list[nn.Module], device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        self.recipe = recipe
        self.numbers = sum(p.numel() for block in chosen for p in block.parameters())
        before = {module: _State(module) for module in recipe.modules()}
        mesh = init_device_mesh(device.type, (ranks.world(),))
        for block in chosen:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        # The recipe holds no shares itself. As the root it lets its blocks gather ahead of one another.
        left = {p for p in recipe.parameters() if not is_split(p)}
        fully_shard(recipe, mesh=mesh, ignored_params=left)
        register_fsdp_forward_method(recipe, "step")
        for state in before.values():
            state.note_what_is_new()
        self._before = before

    def join(self) -> None:
        """Give the recipe whole weights and its old self back (every rank must call)."""
        known: dict[Tensor, nn.Parameter] = {}
        for module, state in self._before.items():
            state.restore()
            for name, parameter in list(module._parameters.items()):
                if parameter is not None and is_split(parameter):
                    if parameter not in known:
                        known[parameter] = nn.Parameter(whole(parameter), parameter.requires_grad)
                    module._parameters[name] = known[parameter]


_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")


class _State:
    """What `fully_shard` changes of a module besides its parameters: class, hooks, attributes."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kind = module, type(module)
        self.hooks: dict[str, Any] = {
            name: value.copy() for name, value in vars(module).items() if name.endswith(_HOOKS)
        }
        self.names, self.new = set(vars(module)), set[str]()

    def note_what_is_new(self) -> None:
        self.new = set(vars(self.module)) - self.names

    def restore(self) -> None:
        self.module.__class__ = self.kind
        vars(self.module).update(self.hooks)
        for name in self.new:
            vars(self.module).pop(name, None)
