"""What may be done to a training scene so that its signals stay true: other reference, mirror, recolour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
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
    reference view's "pointmap" to its "pointmap_local", as for teachers whose scale is their own.
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
        fit = alignment.similarity(source.double(), target.double(), _weights(signals, reference))
        moved = alignment.apply_similarity(fit, signal.value.reshape(-1, 3).double()).view_as(signal.value)
        moved = moved.to(signal.value)
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


def mirror(views: Views) -> Views:
    """The scene seen in a mirror: every image and map left to right, every x of a pointmap negated.

    Intrinsics and poses follow: the mirrored scene is a possible scene with right-handed cameras.
    """
    width = views.size[1]
    intrinsics, cam2world = views.intrinsics, views.cam2world
    if intrinsics is not None:
        intrinsics = intrinsics.clone()
        intrinsics[..., 0, 2] = width - intrinsics[..., 0, 2]
        intrinsics[..., 0, 1] = -intrinsics[..., 0, 1]
    if cam2world is not None:
        sides = torch.tensor([-1.0, 1.0, 1.0, 1.0]).to(cam2world)
        cam2world = sides[:, None] * cam2world * sides
    signals = {name: _mirror_signal(name, signal) for name, signal in views.signals.items()}
    return replace(
        views,
        images=views.images.flip(-1),
        intrinsics=intrinsics,
        cam2world=cam2world,
        signals=signals,
        depth=_flip(views.depth, -1),
        masks=_flip(views.masks, -1),
    )


def _mirror_signal(name: str, signal: Signal) -> Signal:
    """Dense signals are (B, V, H, W) or (B, V, H, W, C): the width is the fourth dimension."""
    value = signal.value.flip(3)
    if name in POINTMAPS:
        value = value * torch.tensor([-1.0, 1.0, 1.0]).to(value)
    return Signal(value, _flip(signal.weight, 3), _flip(signal.valid, 3))


def _flip(values: Tensor | None, dim: int) -> Tensor | None:
    return None if values is None else values.flip(dim)


def recolour(images: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and gamma of images (V, 3, H, W), each view on its own, clipped to [0,
    1].

    Factors are drawn from [1 - strength, 1 + strength], gamma from exp([-strength, strength]).
    """
    draws = torch.from_numpy(rng.uniform(-strength, strength, (4, len(images), 1, 1, 1))).to(images)
    brightness, contrast, saturation = 1 + draws[:3]
    grey = images.mean(1, keepdim=True)
    images = grey + saturation * (images - grey)
    middle = grey.mean((-1, -2), keepdim=True)
    images = brightness * (middle + contrast * (images - middle))
    return images.clamp(0, 1).pow(draws[3].exp())
