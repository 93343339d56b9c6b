"""Which part of a model is its image encoder."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from manyview.errors import UserError


def image_encoder(network: Any, name: str) -> tuple[Callable[..., Any], Any]:
    """The function (images, norm=, layers=) -> Features and the module it belongs to.

    It is the network's own, or its `encoder`'s where the network's cannot choose norm and layers. Raises UserError
    for a model without one, such as an upsampler.
    """
    for owner in (network, getattr(network, "encoder", None)):
        encode = getattr(owner, "encode", None)
        if callable(encode) and {"norm", "layers"} <= set(inspect.signature(encode).parameters):
            return encode, getattr(encode, "__self__", owner)
    raise UserError(
        f"model {name!r} has no image encoder, so it has no features; `manyview models` lists others"
    )
