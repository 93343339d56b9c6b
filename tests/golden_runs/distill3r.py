"""Distill3R: the network, its loss and the alignment of its targets."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from golden_views import predict, raw_output, recorded, transposed_views
from manyview.geometry.alignment import apply_similarity, similarity
from manyview.losses.pointmap import distill3r_loss, trust
from manyview.types import Signal

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]

# Ours and the stored names of what the loss takes.
LOSS_INPUTS = {
    "pointmap": "xyz_global",
    "pointmap_local": "xyz_local",
    "confidence": "conf",
    "confidence_local": "conf_local",
}
LOSS_TARGETS = {**LOSS_INPUTS, "confidence": "conf_global"}
LOSS_WEIGHTINGS = {"default": "teacher", "no_conf_weight": "none", "student_conf_weight": "student"}


def run_distill3r(context: SimpleNamespace) -> Outputs:
    """Views of seeded images with given view ids; the raw output of the global head by a hook on its DPT."""
    run = context.run
    for case in context.description["config"]["cases"]:
        tag = case["tag"]
        model = context.load(**run.get("case_overrides", {}).get(tag, {}))
        arrays = [context.rules.make_image(seed, case["image_shape"]) for seed in case["image_seeds"]]
        images = [context.images_of(array, run["input_norm"]) for array in arrays]
        transposed = transposed_views(images, case.get("true_shape"))
        with recorded(model.head.dpt) as rows:  # scene after scene
            pred = predict(model, images, transposed, torch.tensor(case["view_ids"]))
        scenes = len(images[0])
        by_view = [rows[scene * len(images) + view] for view in range(len(images)) for scene in range(scenes)]
        flags = [flag for view in transposed for flag in view]
        stored = context.description["arrays"].get(f"{tag}/head_raw_global", {})
        outputs = {"head_raw_global": raw_output(by_view, flags, stored.get("shape"))}
        for view in range(len(images)):
            outputs[f"view{view}/pts3d_in_other_view"] = pred["pointmap"][view]
            outputs[f"view{view}/pts3d_local"] = pred["pointmap_local"][view]
            outputs[f"view{view}/conf"] = pred["confidence"][view]
            outputs[f"view{view}/conf_local"] = pred["confidence_local"][view]
        yield tag, {key: value.numpy() for key, value in outputs.items()}


def run_distill3r_loss(stored: Any, config: dict) -> Outputs:
    """The released loss and its two ablations, with gradients with respect to the predictions."""
    valid = torch.from_numpy(stored["mask"])
    target = {key: torch.from_numpy(stored[f"target/{key}"]) for key in LOSS_TARGETS.values()}
    signals = {name: Signal(target[key], None, valid) for name, key in LOSS_TARGETS.items()}
    for suffix in ("", "_local"):
        signals[f"pointmap{suffix}"].weight = trust(signals[f"confidence{suffix}"].value)
    factors = {"alpha_global": config["alpha_g"], "alpha_local": config["alpha_l"], "gamma": config["gamma"]}
    for tag in sorted({key.split("/")[0] for key in stored.files if key.endswith("/total")}):
        pred = {ours: torch.from_numpy(stored[f"pred/{key}"]).requires_grad_() for ours, key in LOSS_INPUTS.items()}
        terms = distill3r_loss(pred, signals, weighting=LOSS_WEIGHTINGS[tag], **factors)
        terms["total"].mean().backward()
        outputs = {f"{tag}/{name}": term.mean().detach().numpy() for name, term in terms.items()}
        for ours, key in (*LOSS_INPUTS.items(), ("confidence", "conf_global")):
            if f"{tag}/grad/{key}" in stored.files:
                outputs[f"{tag}/grad/{key}"] = pred[ours].grad.numpy()
        yield tag, outputs


def run_alignment(stored: Any, config: dict) -> dict[str, np.ndarray]:
    """Local points onto global ones by one similarity, fitted where the global confidence is highest."""
    local, there = (torch.from_numpy(stored[key]).reshape(-1, 3) for key in ("local", "global_"))
    confidence = torch.from_numpy(stored["conf_global"]).reshape(-1)
    threshold = torch.quantile(confidence, config["percentile"] / 100)
    fit = similarity(local, there, (confidence >= threshold).float())
    aligned = apply_similarity(fit, local).reshape(stored["local"].shape)
    outputs = {"threshold": threshold, "R": fit.rotation, "t": fit.translation, "s": fit.scale, "aligned": aligned}
    return {key: value.numpy() for key, value in outputs.items()}


RUNNERS = {"distill3r": run_distill3r}
LOSSES = {"distill3r_loss": run_distill3r_loss}
OTHERS = {"distill3r/align": run_alignment}
