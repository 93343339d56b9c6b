"""The processes of one run; with one process, the usual case, every function is the identity.

Gradients are averaged after the backward passes instead of inside them: parameters that a step does not use
need no special mode, and a step that is skipped is skipped by every rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


def active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if active() else 0


def world() -> int:
    return dist.get_world_size() if active() else 1


def join() -> bool:
    """Join the process group that `torchrun` describes in the environment, if it does; whether it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or active():
        return False
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")
    return True


def leave() -> None:
    dist.destroy_process_group()


def from_first(call: Callable[[], T]) -> T:
    """What `call` returns on rank 0, on every rank; what it raises there is raised everywhere."""
    if world() == 1:
        return call()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box = [call(), None]
        except Exception as error:
            box = [None, error]
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]


def gather(value: T) -> list[T]:
    """Every rank's `value`, in rank order, on every rank."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def same_start(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if world() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def average_gradients(parameters: Iterable[nn.Parameter], *, bucket_elements: int = 25_000_000) -> None:
    """Replace every gradient by its mean over the ranks; a gradient no rank has stays None."""
    parameters = list(parameters)
    if world() == 1 or not parameters:
        return
    device = parameters[0].device
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    sharing = [p for p, any_rank in zip(parameters, used.tolist(), strict=True) if any_rank]
    bucket: list[torch.Tensor] = []
    for index, parameter in enumerate(sharing):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        if index + 1 == len(sharing) or sum(g.numel() for g in bucket) >= bucket_elements:
            flat = torch.cat([gradient.reshape(-1).float() for gradient in bucket])
            dist.all_reduce(flat)
            means = (flat / world()).split([gradient.numel() for gradient in bucket])
            for gradient, mean in zip(bucket, means, strict=True):
                gradient.copy_(mean.view_as(gradient))
            bucket = []


def total(numbers: list[float], device: torch.device) -> list[float]:
    """Each number summed over the ranks."""
    if world() == 1:
        return numbers
    summed = torch.tensor(numbers, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    dist.all_reduce(summed)
    return summed.tolist()
