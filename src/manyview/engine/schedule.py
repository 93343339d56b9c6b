"""The learning rate of a step: linear warm-up, then a cosine to `min_lr` at the last step of the run."""

from __future__ import annotations

import math
from dataclasses import replace

from manyview.config import RunConfig
from manyview.errors import UserError


def warmup_steps(run: RunConfig) -> int:
    """Optimiser steps of warm-up: a share of the run when below 1, else a number of steps."""
    return round(run.warmup * run.steps) if run.warmup < 1 else int(run.warmup)


def sized(run: RunConfig, images: int, ranks: int) -> tuple[RunConfig, str]:
    """The run with its peak rate and steps for passes of `images` on each of the ranks, and how they came about."""
    each = images * run.accumulate * ranks
    parts = " x ".join(
        [f"{images}", *(f"{n} {what}" for n, what in ((run.accumulate, "passes"), (ranks, "ranks")) if n > 1)]
    )
    told = []
    if run.lr_per is not None:
        if run.lr_per < 1:
            raise UserError(f"run.lr_per is {run.lr_per}; give the images that run.lr is for, such as 256, or none")
        peak = run.lr * each / run.lr_per
        told.append(f"learning rate {peak:.3g} = {run.lr:.3g} x {each:,} images a step ({parts}) / {run.lr_per}")
        run = replace(run, lr=peak, lr_per=None)
    if run.images is not None:
        if run.images < 1:
            raise UserError(f"run.images is {run.images}; give the images of the whole run, or none and run.steps")
        steps = max(1, round(run.images / each))
        told.append(f"{steps:,} steps = {run.images:,} images / {each:,} a step")
        run = replace(run, steps=steps, images=None)
    return run, "; ".join(told)


def learning_rate(step: int, run: RunConfig, share: float | None = None) -> float:
    """The rate for optimiser step `step`, counted from 0; accumulation and ranks play no part.

    The peak is reached at the last step of the warm-up and `min_lr` at step `run.steps - 1`. Of a run by the clock,
    `share` is how much of its time is over: warm-up and cosine follow that.
    """
    if share is not None:
        warm = share / run.warmup if 0 < run.warmup < 1 else (step + 1) / max(run.warmup, 1)
        begun = run.warmup if run.warmup < 1 else 0.0
        past = min(1.0, max(0.0, share - begun) / (1 - begun))
        cosine = run.min_lr + (run.lr - run.min_lr) * (0.5 * (1.0 + math.cos(math.pi * past)))
        return min(1.0, max(warm, 1e-3)) * cosine
    warmup = warmup_steps(run)
    if step < warmup:
        return run.lr * (step + 1) / warmup
    share = min(1.0, (step + 1 - warmup) / (run.steps - warmup))
    return run.min_lr + (run.lr - run.min_lr) * (0.5 * (1.0 + math.cos(math.pi * share)))


def check(run: RunConfig) -> None:
    """Raise UserError when the numbers of a run make no sense together."""
    for name in ("steps", "batch", "accumulate", "checkpoint_every", "log_every", "keep"):
        if getattr(run, name) < 1:
            raise UserError(f"run.{name} is {getattr(run, name)}; it must be at least 1")
    if run.seconds is not None and not (run.seconds > 0 and math.isfinite(run.seconds)):
        raise UserError(f"run.seconds is {run.seconds}; give a positive number, or leave it away")
    if not (run.lr > 0 and math.isfinite(run.lr)):
        raise UserError(f"run.lr is {run.lr}; it must be a positive number")
    if not 0 <= run.min_lr <= run.lr:
        raise UserError(f"run.min_lr is {run.min_lr}; it must lie between 0 and run.lr = {run.lr}")
    for name in ("warmup", "weight_decay", "clip", "judge_every"):
        if not (getattr(run, name) >= 0 and math.isfinite(getattr(run, name))):
            raise UserError(f"run.{name} is {getattr(run, name)}; it must be 0 or more")
    if run.seconds is None and warmup_steps(run) >= run.steps > 1:
        raise UserError(
            f"run.warmup is {run.warmup:g} steps but the run has only {run.steps}; "
            "use fewer, or a share of the run such as --set run.warmup=0.05"
        )
