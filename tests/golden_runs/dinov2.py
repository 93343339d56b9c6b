"""DINOv2's encoders."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]


def run_dinov2(context: SimpleNamespace) -> Outputs:
    """Normed class and patch tokens."""
    model = context.load()
    for case in context.description["config"]["cases"]:
        images = context.images_of(
            context.rules.make_image(case["seed"], case["shape"]), context.run["input_norm"]
        )
        with torch.no_grad():
            features = model.encode(images)
        yield (
            case["tag"],
            {
                "x_norm_clstoken": features.cls.numpy(),
                "x_norm_patchtokens": features.patches.numpy(),
            },
        )


RUNNERS = {"dinov2": run_dinov2}
