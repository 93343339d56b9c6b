"""VGGT: dense maps of both heads, and what the camera head says after every round."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]


def run_vggt(context: SimpleNamespace) -> Outputs:
    """Views of a seeded scene, already in the range that the network takes."""
    model = context.load()
    rounds: list[list[torch.Tensor]] = []
    model.camera.register_forward_hook(lambda _module, _inputs, output: rounds.append(output))
    for case in context.description["config"]["cases"]:
        images = torch.from_numpy(0.5 + 0.2 * context.rules.make_image(case["seed"], case["shape"]))
        with torch.no_grad():
            pred = model(images)
        outputs = {
            "depth": pred["depth"][..., None],
            "depth_conf": pred["depth_confidence"],
            "world_points": pred["pointmap"],
            "world_points_conf": pred["confidence"],
            "pose_enc": pred["pose_encoding"],
            **{f"pose_enc_iter{index}": answer for index, answer in enumerate(rounds[-1])},
        }
        yield case["tag"], {key: value.numpy() for key, value in outputs.items()}


RUNNERS = {"vggt": run_vggt}
