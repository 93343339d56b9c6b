"""Pair models: DUSt3R, MASt3R and MASt3R on DUNE are driven alike."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch

from golden_views import predict, raw_output, recorded, transposed_views

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]

# Stored names of what a view gets; the first view's points have one name, the second's another.
NAMES = {"confidence": "conf", "descriptors": "desc", "descriptor_confidence": "desc_conf"}
POINTS = ("pts3d", "pts3d_in_other_view")


def run_pair(context: SimpleNamespace) -> Outputs:
    """Both views of every case; the raw outputs of the DPT heads by hooks."""
    model = context.load()
    for case in context.description["config"]["cases"]:
        tag = case["tag"]
        arrays = [context.rules.make_image(seed, case["shape"]) for seed in case["image_seeds"]]
        images = [context.images_of(array, context.run["input_norm"]) for array in arrays]
        transposed = transposed_views(images, case.get("true_shape"))
        first, second = (heads["pointmap"].inner for heads in model.heads)
        with recorded(first) as first_rows, recorded(second) as second_rows:
            pred = predict(model, images, transposed)
        outputs: dict[str, torch.Tensor] = {}
        for view, rows in enumerate((first_rows, second_rows)):
            name = f"head{view + 1}_dpt_raw"
            stored = context.description["arrays"].get(f"{tag}/{name}", {})
            outputs[name] = raw_output(rows, transposed[view], stored.get("shape"))
            outputs[f"view{view + 1}/{POINTS[view]}"] = pred["pointmap"][view]
            for ours, theirs in NAMES.items():
                if ours in pred:
                    outputs[f"view{view + 1}/{theirs}"] = pred[ours][view]
        yield tag, {name: value.numpy() for name, value in outputs.items()}


RUNNERS = {"dust3r": run_pair, "mast3r": run_pair, "dunemast3r": run_pair}
