"""DINOv2's encoders."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch

from golden_masks import encoded_cases

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]


def run_dinov2(context: SimpleNamespace) -> Outputs:
    """Normed class, register and patch tokens, of masked images where a mask is stored."""
    model = context.load()
    for tag, images, mask in encoded_cases(context, model.config.patch_size):
        with torch.no_grad():
            features = model.encode(images, mask=mask)
        registers = features.registers
        outputs = {
            "x_norm_clstoken": features.cls,
            "x_norm_regtokens": features.patches[:, :0] if registers is None else registers,
            "x_norm_patchtokens": features.patches,
        }
        yield tag, {name: tokens.numpy() for name, tokens in outputs.items()}


RUNNERS = {"dinov2": run_dinov2}
