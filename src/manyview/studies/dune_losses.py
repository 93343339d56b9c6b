"""What a trained student's distillation loss is worth: beside the best answer that is the same for every patch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.losses.distillation import token_loss
from manyview.models.dune.network import Dune
from manyview.models.family import encoder_of

IMAGES = 48


@torch.no_grad()
def final_losses(
    student: Dune, name: str, teacher: Path, data: Manifest, side: int, *, images: int = IMAGES
) -> dict[str, float]:
    """`loss` of the student, of `zero` (the mean of standardised features) and of the best `constant` vector.

    Over the patches of unseen pictures, the teacher's features standardised by the statistics of the training.
    """
    from manyview import zoo

    network = encoder_of(zoo.load(teacher))
    frames = list(range(0, len(data), max(1, len(data) // images)))[:images]
    pictures = torch.cat([load_views(data, [index], (side, side), depth=False).images[0] for index in frames])
    answers, targets = [], []
    for part in pictures.split(8):
        blocks = student.encode(part, norm=False, layers=student.projected_layers)
        answers.append(student.project(blocks, name).patches)
        targets.append(student.standardise(network.encode(part), name).patches)
    answer, target = torch.cat(answers), torch.cat(targets)
    said = {"loss": answer, "zero": torch.zeros_like(target), "constant": best_constant(target).expand_as(target)}
    return {key: float(token_loss(values, target)["total"].mean()) for key, values in said.items()}


def best_constant(target: Tensor, steps: int = 60) -> Tensor:
    """The vector (D,) of least loss when it is said for all tokens (N, T, D), by gradient descent."""
    rows = target.flatten(0, 1)[:: max(1, target.shape[0] * target.shape[1] // 2000)]
    guess = rows.median(0).values.clone().requires_grad_()
    optimiser = torch.optim.Adam([guess], lr=0.02)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            token_loss(guess.expand_as(rows)[None], rows[None])["total"].mean().backward()
            optimiser.step()
    return guess.detach()
