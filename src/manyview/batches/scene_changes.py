"""What may be done to a training scene so that its signals stay true: another reference view, and a mirror."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from manyview.geometry import alignment, pointmaps
from manyview.types import Signal, Views

POINTMAPS = ("pointmap", "pointmap_local")


def refer_to_view(
    signals: dict[str, Signal], reference: int, reference_from_first: Tensor | None = None
) -> dict[str, Signal]:
    """ "pointmap" (1, V, H, W, 3) moved into the frame of view `reference`, a position among these views.

    With `reference_from_first` (4, 4) exactly so; without, by the closed-form similarity that takes the
    reference view's "pointmap" to its "pointmap_local", as for teachers whose scale is their own; a reference view
    without one pixel that counts leaves no pixel of "pointmap" valid.
    """
    if "pointmap" not in signals:
        return signals
    signal = signals["pointmap"]
    if reference_from_first is not None:
        moved = pointmaps.transform(reference_from_first.to(signal.value), signal.value)
    else:
        if "pointmap_local" not in signals:
            raise ValueError("a pointmap without local pointmaps and poses cannot change its reference view")
        source, target = (signals[name].value[0, reference].reshape(-1, 3) for name in POINTMAPS)
        weights = _weights(signals, reference)
        fit = alignment.similarity(source.double(), target.double(), weights)
        moved = alignment.apply_similarity(fit, signal.value.reshape(-1, 3).double()).view_as(signal.value)
        moved, usable = moved.to(signal.value), (weights > 0).any()
        valid = torch.ones_like(moved[..., 0], dtype=torch.bool) if signal.valid is None else signal.valid
        signal = replace(signal, valid=valid & usable)
    return {**signals, "pointmap": replace(signal, value=moved)}


def _weights(signals: dict[str, Signal], view: int) -> Tensor:
    """(H*W,) float64: the product of both maps' weights, 0 where either is invalid."""
    total = torch.ones(signals["pointmap"].value[0, view].shape[:-1], dtype=torch.float64)
    for name in POINTMAPS:
        signal = signals[name]
        if signal.weight is not None:
            total = total * signal.weight[0, view]
        if signal.valid is not None:
            total = total * signal.valid[0, view]
    return total.flatten()


def mirror(views: Views, rows: list[int]) -> Views:
    """Some scenes seen in a mirror: every image and map left to right, every x of a pointmap negated.

    Intrinsics and poses follow: a mirrored scene is a possible scene with right-handed cameras.
    """
    index = torch.tensor(rows).to(views.images.device, non_blocking=True)
    intrinsics, cam2world = views.intrinsics, views.cam2world
    if intrinsics is not None:
        intrinsics = intrinsics.clone()
        intrinsics[index, :, 0, 2] = views.size[1] - intrinsics[index, :, 0, 2]
        intrinsics[index, :, 0, 1] = -intrinsics[index, :, 0, 1]
    if cam2world is not None:
        sides = torch.tensor([-1.0, 1.0, 1.0, 1.0]).to(cam2world)
        cam2world = cam2world.clone()
        cam2world[index] = sides[:, None] * cam2world[index] * sides
    flipped: dict[int, Tensor] = {}  # what signals share is turned once

    def flip(values: Tensor | None, dim: int, *, x: bool = False) -> Tensor | None:
        if values is None:
            return None
        if id(values) not in flipped:
            turned = values[index].flip(dim)
            if x:
                turned[..., 0].neg_()
            flipped[id(values)] = values.index_copy(0, index, turned)
        return flipped[id(values)]

    # Dense signals are (B, V, H, W) or (B, V, H, W, C): the width is the fourth dimension.
    signals = {}
    for name, signal in views.signals.items():
        value = flip(signal.value, 3, x=name in POINTMAPS)
        assert value is not None
        signals[name] = Signal(value, flip(signal.weight, 3), flip(signal.valid, 3))
    images = flip(views.images, -1)
    assert images is not None
    return replace(
        views,
        images=images,
        intrinsics=intrinsics,
        cam2world=cam2world,
        signals=signals,
        depth=flip(views.depth, -1),
        masks=flip(views.masks, -1),
        labels=flip(views.labels, -1),
        unchanged=flip(views.unchanged, -1),
    )
