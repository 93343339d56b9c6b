"""FeatUp's upsampler: the stack on its own, or the channel norm that goes before it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from types import SimpleNamespace

import numpy as np
import torch

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]
# The stored guidance is normalised already.
AS_IS = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}


def run_featup(context: SimpleNamespace) -> Outputs:
    """Every case with a final output; its name says the width and whether the norm takes part."""
    final = context.run["final"]
    for case in context.description["config"]["cases"]:
        tag = case["tag"]
        stored = [key.partition("/")[2] for key in context.stored.files if key.startswith(f"{tag}/")]
        if not any(fnmatch(key, pattern) for key in stored for pattern in final):
            continue
        width, normed = re.search(r"(?:jbu|norm)_?(\d+)", tag), "norm" in tag
        lists = [f"keys_jbu_stack_{width[1]}.json"]
        if normed:
            lists.append(f"keys_channelnorm_{width[1]}.json")
        model = context.load(*lists, arch=f"featup-jbu-{'dinov2' if normed else 'maskclip'}", **AS_IS)
        source = _made(context, case, "source")
        with torch.no_grad():
            if "guidance_seed" in case:
                yield tag, {"out": model(source, _made(context, case, "guidance")).numpy()}
            else:
                yield tag, {"out": model.normalise(source).numpy()}


def _made(context: SimpleNamespace, case: dict, name: str) -> torch.Tensor:
    make = getattr(context.rules, case[name])
    return torch.from_numpy(make(case[f"{name}_seed"], case[f"{name}_shape"]))


RUNNERS = {"featup": run_featup}
