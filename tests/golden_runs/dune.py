"""DUNE: encoder, projectors, and what its MASt3R teacher sees."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from golden_masks import encoded_cases
from manyview.layers.standardise import Standardise
from manyview.losses.distillation import coefficients, distillation_loss, token_loss
from manyview.models.dune import TEACHERS
from manyview.models.dune.network import mast3r_input
from manyview.types import Features

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]


def run_dune(context: SimpleNamespace) -> Outputs:
    """Normed tokens, and every projector's answer to the tokens without the norm, of masked images too."""
    model = context.load()
    for tag, images, mask in encoded_cases(context, model.config.patch_size):
        with torch.no_grad():
            outputs = _tokens(model.encode(images, mask=mask))
            raw = model.encode(images, mask=mask, norm=False)
            for teacher in model.projectors:
                answer = model.project(raw, teacher)
                tokens = torch.cat([answer.cls[:, None], answer.patches], dim=1)
                outputs[f"proj/{TEACHERS[teacher]}/out"] = tokens.numpy()
        yield tag, outputs


def _tokens(features: Features) -> dict[str, np.ndarray]:
    registers = features.patches[:, :0] if features.registers is None else features.registers
    named = {"norm_cls": features.cls, "norm_reg": registers, "norm_patch": features.patches}
    return {name: tokens.numpy() for name, tokens in named.items() if tokens is not None}


def run_teacher_input(context: SimpleNamespace) -> Outputs:
    """What DUNE's MASt3R teacher sees of the student's images."""
    for case in context.description["config"]["cases"]:
        images = context.images_of(context.rules.make_image(case["seed"], case["shape"]), context.run["input_norm"])
        yield case["tag"], {"mast3r_input": mast3r_input(images).numpy()}


def run_dune_loss(stored: Any, config: dict) -> Outputs:
    """Standardised targets, running statistics, losses per image, and the totals of every way of sharing data."""
    kinds, names = config["token_types"], config["teachers"]
    order = {owner: index for index, owner in enumerate(("dino2", "mast3r", "multihmr"))}
    owner = torch.tensor([order[name] for name in config["dataset_owner"]])
    for tag in sorted({key.split("/")[0] for key in stored.files if key.endswith("/total_no_drop")}):
        outputs: dict[str, torch.Tensor] = {}
        momentum = float(tag.removeprefix("train_mom")) if tag.startswith("train_mom") else 0.0
        losses = []
        for name in names:
            terms = []
            for kind in kinds[name]:
                prefix = f"{name}/{kind}"
                norm = Standardise(stored[f"{prefix}/teacher_raw"].shape[-1]).train(momentum > 0)
                norm.mean.copy_(torch.from_numpy(stored[f"{prefix}/ema_mean_before"]))
                norm.std.copy_(torch.from_numpy(stored[f"{prefix}/ema_std_before"]))
                target = norm(torch.from_numpy(stored[f"{prefix}/teacher_raw"]), momentum)
                outputs |= {
                    f"{prefix}/teacher_normed": target,
                    f"{prefix}/ema_mean_after": norm.mean,
                    f"{prefix}/ema_std_after": norm.std,
                }
                student = torch.from_numpy(stored[f"{prefix}/student"])
                shape = (len(student), -1, student.shape[-1])
                term = token_loss(student.reshape(shape), target.reshape(shape))
                terms.append(term["total"])
                for ours, theirs in (("cosine", "_cos"), ("smooth_l1", "_sl1"), ("total", "")):
                    outputs[f"metric/loss/dist_{kind}{theirs}_{name}"] = term[ours].mean()
            losses.append(torch.stack(terms).mean(0))
            outputs[f"loss_per_image/{name}"] = losses[-1]
            outputs[f"metric/loss/dist_{name}"] = losses[-1].mean()
        stacked = torch.stack(losses)
        worst = coefficients(stacked, drop=1.0)
        for row, name in enumerate(names):
            outputs[f"coeff_drop_p1/{name}"] = worst[row].mean()
        for label, kept in (
            ("no_drop", coefficients(stacked, drop=0.0)),
            ("drop_p1", worst),
            ("own_data", coefficients(stacked, sharing="none", owner=owner)),
            ("own_generic", coefficients(stacked, sharing="generic", owner=owner)),
        ):
            outputs[f"total_{label}"] = distillation_loss(stacked, kept)
        yield tag, {key: value.numpy() for key, value in outputs.items()}


RUNNERS = {"dune": run_dune, "teacher_input": run_teacher_input}
LOSSES = {"dune_loss": run_dune_loss}
