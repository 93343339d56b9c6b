"""MuM: encoder features, masked reconstructions of one to three views, and the loss."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from manyview.losses.masked import hidden_pixels, masked_mse
from manyview.types import Signal

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]


def run_mum(context: SimpleNamespace) -> Outputs:
    """Normed tokens of whole images; pixels of masked views, with the masks that were stored."""
    model = context.load()
    for case in context.description["config"]["cases"]:
        tag, array = case["tag"], context.rules.make_image(case["seed"], case["shape"])
        with torch.no_grad():
            if len(case["shape"]) == 4:
                features = model.encode(context.images_of(array, context.run["input_norm"]))
                yield (tag, {"x_norm_cls_token": features.cls.numpy(), "x_norm_patchtokens": features.patches.numpy()})
                continue
            images = context.images_of(array, context.run["input_norm"])
            mask = torch.from_numpy(context.stored[f"{tag}/mask"]).bool().unflatten(0, case["shape"][:2])
            seen = model(images, mask)
            signal = hidden_pixels(torch.from_numpy(array), mask, model.config.patch_size)
        yield (tag, {"pred": seen.reconstruction.flatten(0, 1).numpy(), "loss": _loss(seen.reconstruction, signal)})


def _loss(prediction: torch.Tensor, signal: Signal) -> np.ndarray:
    sums, counts = masked_mse(prediction, signal)
    return (sums.sum() / counts.sum()).detach().numpy()


def run_mum_loss(stored: Any, config: dict) -> Outputs:
    """Random images and one with a constant patch, with and without the patches' normalisation."""
    mask = torch.from_numpy(stored["mask"]).bool()[:, None]
    for tag in sorted({key.rsplit("/", 1)[0] for key in stored.files if key.endswith("/loss")}):
        case, normalise = tag.split("/")
        images = torch.from_numpy(stored[f"{case}/imgs"])[:, None]
        prediction = torch.from_numpy(stored["pred"]).requires_grad_()
        signal = hidden_pixels(images, mask, config["patch"], normalise=normalise.endswith("True"))
        sums, counts = masked_mse(prediction[:, None], signal)
        (sums.sum() / counts.sum()).backward()
        yield (tag, {"loss": (sums.sum() / counts.sum()).detach().numpy(), "grad_pred": prediction.grad.numpy()})


RUNNERS = {"mum": run_mum}
LOSSES = {"mum_loss": run_mum_loss}
