"""Asking any reconstructor about the views of a scene, and giving every answer the same maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.models.family import able
from manyview.models.model import ReconstructsPairs, ReconstructsViews

Answer = dict[str, Any]


def ask(network: Any, pictures: Sequence[Tensor], **chunks: int) -> list[dict[str, Tensor]]:
    """One answer per picture (3, H, W) in [0, 1]: pointmap, pointmap_local and their confidences (H, W, ...),
    and cam2world and intrinsics from a model that says them.

    Pictures of one size go as one tensor, mixed sizes as a list. A pair model is asked in both orders from one
    encoding, the second answer being the second view's own frame; one picture is paired with itself. Raises UserError
    for more pictures than it takes.
    """
    count = len(pictures)
    pair = isinstance(network, ReconstructsPairs)
    if pair and count > 2:
        raise UserError(
            f"{count} pictures for a pair model; give it two, or use one for many views "
            f"({', '.join(able(ReconstructsViews))})"
        )
    if pair and count == 1:
        pictures = [*pictures, *pictures]
    alike = len({picture.shape for picture in pictures}) == 1
    views: Any = torch.stack(list(pictures))[None] if alike else [picture[None] for picture in pictures]
    answer = _both_orders(network, views) if pair else network(views, view_ids=None, **chunks)
    return [_of_view(answer, index) for index in range(count)]


def _both_orders(network: Any, views: Any) -> Answer:
    """A pair model's maps in the first view's frame, and each view's map when it comes first."""
    first, second = network.encode_views(views)
    there, back = (
        network.decode(*order, heads=("pointmap",)) for order in ((first, second), (second, first))
    )
    own = [_of_view(there, 0, batch=None), _of_view(back, 0, batch=None)]
    return {
        "pointmap": there["pointmap"],
        "confidence": there["confidence"],
        "pointmap_local": [view["pointmap"] for view in own],
        "confidence_local": [view["confidence"] for view in own],
    }


def _of_view(answer: Answer, index: int, batch: int | None = 0) -> dict[str, Tensor]:
    """The maps of one view, of one scene of the batch or of all."""
    maps = {}
    for name, value in answer.items():
        if isinstance(value, dict):
            continue
        view = value[:, index] if isinstance(value, Tensor) else value[index]
        maps[name] = view if batch is None else view[batch]
    return maps
