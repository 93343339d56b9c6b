"""The model that a pipeline works with, whichever way it was named, and where it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from manyview.engine.device import pick_device
from manyview.models.model import Role, device_of
from manyview.zoo.models import load_as

R = TypeVar("R", bound=Role)


def opened(model: object, role: type[R], device: str) -> tuple[R, str, torch.device]:
    """A zoo name, a model directory or a loaded model -> the model, its name, its device.

    A loaded network stays where it is unless a device is named. Raises UserError when it cannot do what it
    is wanted for.
    """
    stays = device == "auto" and isinstance(model, nn.Module)
    target = None if stays else pick_device(device)
    network, name = load_as(model, role, target)
    return network, name, target or device_of(network)


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """A network in eval mode, and in train mode again afterwards if it was; other objects stay as they are."""
    network = model if isinstance(model, nn.Module) and model.training else None
    if network is not None:
        network.eval()
    try:
        yield
    finally:
        if network is not None:
            network.train()
