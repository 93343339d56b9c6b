"""MaskCLIP: patch features as a channel-first map, and the text tower."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]


def run_maskclip(context: SimpleNamespace) -> Outputs:
    """Every image case, then stored token ids to text vectors."""
    model = context.load()
    for case in context.description["config"]["cases"]:
        images = context.images_of(context.rules.make_image(case["seed"], case["shape"]), context.run["input_norm"])
        with torch.no_grad():
            yield case["tag"], {"features": model.encode(images).as_map().numpy()}
    for key in context.stored.files:
        tag, _, short = key.rpartition("/")
        if short == "tokens":
            with torch.no_grad():
                yield tag, {"embedding": model.encode_text(torch.from_numpy(context.stored[key])).numpy()}


RUNNERS = {"maskclip": run_maskclip}
