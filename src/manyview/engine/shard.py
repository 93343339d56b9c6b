"""Blocks split over the ranks (FSDP2): each rank holds a share of their weights, gradients and AdamW moments.

A block's weights are gathered when it runs and let go again, forward and backward. What is no block (embeddings,
heads, projectors) stays whole on every rank and is averaged as without this. The blocks are found, not named: the
engine knows no layers. Every rank must run the same blocks in the same order, because every block waits for all ranks.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterator

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


def split(recipe: nn.Module, device: torch.device) -> nn.Module | None:
    """A copy of the recipe on `device` whose blocks are split; None when there is nothing to split, which is told.

    The recipe itself stays as it is: `fill_whole` brings the trained weights back to it. Every rank must call.
    """
    if ranks.world() == 1:
        LOG.info("run.shard has no effect: there is one process")
        return None
    if not blocks(recipe):
        LOG.warning("run.shard has no effect: no module list holds blocks of %d trained numbers", LEAST)
        return None
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    twin = _copy(recipe).to(device)
    ranks.same_start(twin)
    chosen = blocks(twin)
    numbers = sum(p.numel() for block in chosen for p in block.parameters())
    mesh = init_device_mesh(device.type, (ranks.world(),))
    for block in chosen:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # The recipe holds no shares itself. As the root it lets its blocks gather ahead of one another.
    fully_shard(twin, mesh=mesh, ignored_params={p for p in twin.parameters() if not is_split(p)})
    register_fsdp_forward_method(twin, "step")
    LOG.info("%d blocks with %d weights are split over %d ranks", len(chosen), numbers, ranks.world())
    return twin


def _copy(recipe: nn.Module) -> nn.Module:
    """Own weights and buffers; everything else that modules hold, such as teachers, is shared with the recipe."""
    torchs_own = vars(nn.Module())  # weights, buffers, children, hooks
    shared = {
        id(value): value
        for module in recipe.modules()
        for name, value in vars(module).items()
        if name not in torchs_own
    }
    return copy.deepcopy(recipe, shared)


def fill_whole(recipe: nn.Module, twin: nn.Module) -> None:
    """Give the recipe the weights and buffers of its split copy (every rank must call)."""
    with torch.no_grad():
        trained = twin.state_dict()
        for name, tensor in recipe.state_dict().items():
            tensor.copy_(whole(trained[name]))
