"""A linear probe for matching (MuM, section 4.2): one projection shared by both images, trained as a whole sweep.

Every probe of the sweep (learning rate x weight decay) sees the same pairs from the same start; their parameters
are stacked, so that one matrix product serves all.

Legend: K probes, n pairs of a batch, P cells of A, Q of B, D channels.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.config import Positive
from manyview.evaluation.tokens import Tokens
from manyview.geometry.matching import Decoding, decode, kernel_log_probabilities
from manyview.progress import track

PUBLISHED_LRS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
PUBLISHED_DECAYS = (1e-3, 1e-2, 5e-2)
CLIP = 0.01


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """How the probes are trained."""

    lrs: tuple[Positive, ...] = (5e-4, 1e-3, 3e-3)
    """Learning rates at a batch of 8 (scaled with the batch)."""
    decays: tuple[float, ...] = (1e-2,)
    """Weight decays of the projection; biases have none. In short runs they hardly matter."""
    steps: int = 1600
    """Optimiser steps; the learning rate falls to a tenth after 90 % of them."""
    batch: int = 8
    """Pairs per step."""
    temperature: Positive = 0.1
    """What cosines are divided by."""
    clip: Literal["each", "global", "none"] = "each"
    """Gradient norm clipped at 0.01 for each probe, or (published) over all probes together."""
    evaluations: int = 5
    """How often the probes are judged on the validation pairs; the best moment counts."""
    seed: int = 0
    """Initial weights and order of the pairs."""


class PairSet(NamedTuple):
    """Pairs with their true warp at the cells. Frames index the tokens."""

    a: list[int]
    b: list[int]
    target: Tensor  # (N, P) cell of B, -1 where unknown
    uv: Tensor  # (N, P, 2) pixels of B
    valid: Tensor  # (N, P)

    def __len__(self) -> int:
        return len(self.a)


class Examples(NamedTuple):
    """Pairs and the tokens of their frames."""

    tokens: Tokens
    pairs: PairSet


class Shape(NamedTuple):
    """Of the feature grid (h, w) and the image (H, W), and how votes become positions."""

    grid: tuple[int, int]
    size: tuple[int, int]
    decoding: Decoding = "neighbours"


class Probes(nn.Module):
    """K linear projections with bias, all starting from the same random weights."""

    def __init__(self, count: int, dim: int, out: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(dim)
        weight, bias = (torch.rand(shape, generator=generator) * 2 * bound - bound for shape in ((out, dim), (out,)))
        self.weights = nn.ParameterList(weight.clone() for _ in range(count))
        self.biases = nn.ParameterList(bias.clone() for _ in range(count))

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, P, D) -> (K, n, P, D')."""
        projected = F.linear(tokens, torch.cat(list(self.weights)), torch.cat(list(self.biases)))
        return projected.unflatten(-1, (len(self.weights), -1)).movedim(-2, 0)

    def log_probabilities(self, a: Tensor, b: Tensor, temperature: float) -> Tensor:
        """Tokens of A (n, P, D) and of B (n, Q, D) -> (K, n, P, Q)."""
        first, second = self(torch.cat([a, b])).chunk(2, 1)
        return kernel_log_probabilities(first, second, temperature)


def matching_loss(log_probabilities: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy to the true cell, mean over the cells that have one: (K, n, P, Q), (n, P) -> (K,)."""
    known = target >= 0
    index = target.clamp(min=0).expand(log_probabilities.shape[:-1])[..., None]
    likelihood = log_probabilities.gather(-1, index)[..., 0]
    return -(likelihood * known).sum((1, 2)) / known.sum().clamp(min=1)


def batches(count: int, batch: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Indices of `steps` batches: shuffled passes one after the other, none with a remainder."""
    generator, queue = torch.Generator().manual_seed(seed), list[int]()
    for _ in range(steps):
        while len(queue) < batch:
            queue += torch.randperm(count, generator=generator).tolist()
        yield queue[:batch]
        queue = queue[batch:]


def train_sweep(
    train: Examples, val: Examples, *, shape: Shape, sweep: Sweep, device: torch.device, width: int | None = None
) -> tuple[Probes, dict[str, Any]]:
    """Train all probes; returns the best one (a stack of one) and the table of what each reached on `val`.

    width: channels of the projection, by default those of the tokens.
    """
    tokens, pairs = train
    settings = list(itertools.product(sweep.lrs, sweep.decays))
    probes = Probes(len(settings), tokens.dim, width or tokens.dim, sweep.seed).to(device)
    stacked = list(zip(probes.weights, probes.biases, strict=True))
    groups = []
    for (weight, bias), (lr, decay) in zip(stacked, settings, strict=True):
        groups.append({"params": [weight], "lr": lr * sweep.batch / 8, "weight_decay": decay})
        groups.append({"params": [bias], "lr": lr * sweep.batch / 8, "weight_decay": 0.0})
    optimiser = torch.optim.AdamW(groups)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.1 if step + 1 > 0.9 * sweep.steps else 1.0)
    clipped: Any = {"global": [list(probes.parameters())], "each": stacked, "none": []}[sweep.clip]
    best: tuple[float, Probes | None, int] = (math.inf, None, 0)
    table: list[dict[str, Any]] = []
    judged = {round(sweep.steps * (i + 1) / sweep.evaluations) for i in range(sweep.evaluations)}
    order = batches(len(pairs), sweep.batch, sweep.steps, sweep.seed)
    for step, chosen in enumerate(track(order, total=sweep.steps, label="probes", unit="step"), start=1):
        a, b = (tokens[[side[i] for i in chosen]].to(device) for side in (pairs.a, pairs.b))
        loss = matching_loss(probes.log_probabilities(a, b, sweep.temperature), pairs.target[chosen].to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        for parameters in clipped:
            nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        rates.step()
        if step in judged:
            errors = mean_errors(probes, val, shape=shape, sweep=sweep, device=device)
            table += [
                {"step": step, "lr": lr, "decay": decay, "epe": float(error), "loss": float(value)}
                for (lr, decay), error, value in zip(settings, errors, loss.detach(), strict=True)
            ]
            lowest = int(torch.nan_to_num(errors, nan=math.inf).argmin())
            if float(errors[lowest]) < best[0]:
                best = (float(errors[lowest]), one_of(probes, lowest), len(table) - len(settings) + lowest)
    if best[1] is None:
        raise RuntimeError("no probe gave a finite error on the validation pairs")
    return best[1], {"picked": table[best[2]], "table": table}


def one_of(probes: Probes, index: int) -> Probes:
    """A copy of one probe of the stack."""
    single = copy.deepcopy(probes)
    single.weights, single.biases = (nn.ParameterList([of[index]]) for of in (single.weights, single.biases))
    return single


def predict(
    probes: Probes, examples: Examples, *, shape: Shape, sweep: Sweep, device: torch.device
) -> Iterator[Tensor]:
    """Warps (K, n, P, 2) in pixels, a few pairs at a time."""
    tokens, pairs = examples
    for start in range(0, len(pairs), sweep.batch):
        part = slice(start, start + sweep.batch)
        with torch.inference_mode():
            a, b = (tokens[side[part]].to(device) for side in (pairs.a, pairs.b))
            scores = probes.log_probabilities(a, b, sweep.temperature)
            yield decode(scores, shape.grid, shape.size, shape.decoding).cpu()


def mean_errors(probes: Probes, examples: Examples, *, shape: Shape, sweep: Sweep, device: torch.device) -> Tensor:
    """Mean over pairs of the mean end-point error over their valid cells, in pixels: (K,)."""
    errors, pairs = [], examples.pairs
    answers = predict(probes, examples, shape=shape, sweep=sweep, device=device)
    for start, uv in zip(range(0, len(pairs), sweep.batch), answers, strict=True):
        part = slice(start, start + sweep.batch)
        distance, valid = (uv - pairs.uv[part]).norm(dim=-1), pairs.valid[part]  # (K, n, P), (n, P)
        errors.append(torch.where(valid, distance, 0).sum(-1) / valid.sum(-1))  # every chosen pair has a valid cell
    return torch.cat(errors, 1).nanmean(1)
