"""DUNE: encoder, projectors, and what its MASt3R teacher sees."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch

from manyview.models.dune import mast3r_input
from manyview.types import Features
from manyview.zoo.families.dune import TEACHERS

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]


def run_dune(context: SimpleNamespace) -> Outputs:
    """Normed tokens, every projector's answer to the tokens without the norm, masked tokens where stored."""
    model, masked = context.load(), False
    for case in context.description["config"]["cases"]:
        images = context.images_of(
            context.rules.make_image(case["seed"], case["shape"]), context.run["input_norm"]
        )
        with torch.no_grad():
            normed, raw = model.encode(images), model.encode(images, norm=False)
            outputs = _tokens(normed)
            for teacher in model.projectors:
                there = model.project(raw, teacher)
                tokens = torch.cat([there.cls[:, None], there.patches], dim=1)
                outputs[f"proj/{TEACHERS[teacher]}/out"] = tokens.numpy()
            yield case["tag"], outputs
            if "masked/mask" in context.stored.files and not masked:
                mask = torch.from_numpy(context.stored["masked/mask"]).bool()
                height, width = (side // model.config.patch_size for side in images.shape[-2:])
                if mask.shape == (len(images), height * width):
                    masked = True
                    yield "masked", _tokens(model.encode(images, mask=mask))


def _tokens(features: Features) -> dict[str, np.ndarray]:
    named = {"norm_cls": features.cls, "norm_reg": features.registers, "norm_patch": features.patches}
    return {name: tokens.numpy() for name, tokens in named.items() if tokens is not None}


def run_teacher_input(context: SimpleNamespace) -> Outputs:
    """What DUNE's MASt3R teacher sees of the student's images."""
    for case in context.description["config"]["cases"]:
        images = context.images_of(
            context.rules.make_image(case["seed"], case["shape"]), context.run["input_norm"]
        )
        yield case["tag"], {"mast3r_input": mast3r_input(images).numpy()}


RUNNERS = {"dune": run_dune, "teacher_input": run_teacher_input}
