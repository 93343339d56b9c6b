"""The images of a golden case of an encoder, and the mask that goes with them where one is stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor


def encoded_cases(context: SimpleNamespace, patch: int) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """(tag, images (N, 3, H, W), mask (N, h*w) or None): every case that is listed, then every tag that stores
    a mask beside them, with the images of the case that its note names by the seed, else of the first that fits.

    Raises ValueError for a mask that fits no case.
    """
    cases = context.description["config"]["cases"]
    for case in cases:
        yield case["tag"], _images(context, case), stored_mask(context, case["tag"])
    beside = {key.partition("/")[0] for key in context.stored.files if key.endswith("/mask")}
    for tag in sorted(beside - {case["tag"] for case in cases}):
        mask = stored_mask(context, tag)
        assert mask is not None
        yield tag, _images(context, _case_of(mask, cases, patch, context.description["config"])), mask


def stored_mask(context: SimpleNamespace, tag: str) -> Tensor | None:
    """The stored mask (N, h*w) of a tag, True = hidden."""
    key = f"{tag}/mask"
    return torch.from_numpy(context.stored[key]).bool().flatten(1) if key in context.stored.files else None


def _case_of(mask: Tensor, cases: list[dict], patch: int, config: dict) -> dict:
    fitting = [
        case
        for case in cases
        if tuple(mask.shape) == (case["shape"][0], (case["shape"][-2] // patch) * (case["shape"][-1] // patch))
    ]
    if not fitting:
        raise ValueError(f"no case has images for a mask {tuple(mask.shape)}")
    seed = re.search(r"input \(seed (\d+)\)", str(config.get("note", "")) + str(config.get("notes", "")))
    named = [case for case in fitting if seed and case["seed"] == int(seed[1])]
    return (named or fitting)[0]


def _images(context: SimpleNamespace, case: dict) -> Tensor:
    array = context.rules.make_image(case["seed"], case["shape"])
    return context.images_of(array, context.run["input_norm"])
