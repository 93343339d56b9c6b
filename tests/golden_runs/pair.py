"""Pair models: DUSt3R, MASt3R and MASt3R on DUNE are driven alike."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]

# Stored names of what a view gets; the first view's points have one name, the second's another.
NAMES = {"confidence": "conf", "descriptors": "desc", "descriptor_confidence": "desc_conf"}
POINTS = ("pts3d", "pts3d_in_other_view")


def run_pair(context: SimpleNamespace) -> Outputs:
    """Both views of every case; the raw outputs of the DPT heads by hooks."""
    model = context.load()
    for case in context.description["config"]["cases"]:
        images = [
            context.images_of(context.rules.make_image(seed, case["shape"]), context.run["input_norm"])
            for seed in case["image_seeds"]
        ]
        outputs: dict[str, torch.Tensor] = {}
        hooks = [
            heads["pointmap"].body.register_forward_hook(
                lambda _module, _inputs, output, kept=outputs, name=f"head{side}_dpt_raw": kept.update(
                    {name: output}
                )
            )
            for side, heads in enumerate(model.heads, start=1)
        ]
        with torch.no_grad():
            pred = model(torch.stack(images, dim=1))
        for hook in hooks:
            hook.remove()
        for view in range(2):
            outputs[f"view{view + 1}/{POINTS[view]}"] = pred["pointmap"][:, view]
            for ours, stored in NAMES.items():
                if ours in pred:
                    outputs[f"view{view + 1}/{stored}"] = pred[ours][:, view]
        yield case["tag"], {name: value.numpy() for name, value in outputs.items()}


RUNNERS = {"dust3r": run_pair, "mast3r": run_pair, "dunemast3r": run_pair}
