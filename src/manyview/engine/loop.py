"""The one training loop. It is given a recipe and a function that makes views; it names neither.

Everything random is derived from (seed, index of the forward pass) at every pass, and `batches` is a pure
function of that index: a resumed run sees the same bits as one that was never interrupted. On a GPU that
holds as far as the kernels of the recipe are deterministic there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from manyview.config import RunConfig
from manyview.engine import checkpoint, ranks, rundir, shard
from manyview.engine.device import autocast, pick_device, precision_on
from manyview.engine.feed import Feed, LoadingEnded, workers_for
from manyview.engine.interrupt import Interruption
from manyview.engine.optim import adamw, clip_gradients, load_moments, moments, ordered, set_learning_rate, trainable
from manyview.engine.schedule import check, learning_rate
from manyview.engine.track import WATCHED, Console, Means, Metrics, write_pictures
from manyview.errors import UserError
from manyview.types import Batches, StepResult, Views

LOG = logging.getLogger(__name__)

ENDLESS = 1 << 40
"""Steps of a run that the clock ends."""
PATIENCE = 20
"""Steps in a row with a loss or gradient that is not finite before the run gives up."""


class Trainable(Protocol):
    """What the loop needs of a recipe, besides being a torch module."""

    def step(self, views: Views, *, progress: float, generator: torch.Generator) -> StepResult: ...


@dataclass(frozen=True)
class FitResult:
    """What a call of `fit` did."""

    steps: int
    """Optimiser steps the run has done in all."""
    seconds: float
    """Time spent by this call."""
    stopped: bool
    """True when a signal ended it before the last step; the checkpoint resumes it."""
    final_loss: float | None
    """The loss of the last step whose loss was finite."""
    checkpoint: Path
    """The newest checkpoint."""
    precision: str = "fp32"
    """What the forward passes were computed in: fp32 or bf16."""


def fit(
    recipe: Any,
    batches: Batches | Callable[[int], Views],
    run: RunConfig,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    describe: dict[str, Any] | None = None,
    on_log: Callable[[dict[str, Any]], None] | None = None,
    judge: Callable[[Any, int], dict[str, float]] | None = None,
) -> FitResult:
    """Train `recipe` (a torch module with `step`, see Trainable) and leave a run directory in `out`.

    `batches(i)` makes the views of forward pass `i`, which is pass `a` of step `s` on one of `world` ranks:
    `i = (s * accumulate + a) * world + rank`. `Batches` are loaded ahead of time by `run.workers` processes, a plain
    function is called when its batch is due; the randomness of either must be its own.
    `judge` is asked for numbers of the recipe every `run.judge_every` steps, by the first rank; they join that line.
    `describe` (recipe, method, data …) goes to config.json; `on_log` receives each line of metrics.jsonl.
    SIGINT and SIGTERM finish the step, save and return `stopped`. The global random state is left as found.
    """
    check(run)
    if judge is not None and run.shard:
        raise UserError(
            "a run whose blocks are split cannot be judged while it trains: leave run.shard or judging away"
        )
    target = pick_device(device)
    out = Path(out)
    describe = {"recipe": type(recipe).__name__, **(describe or {})}
    found: checkpoint.Checkpoint | None = None
    with contextlib.ExitStack() as held:
        if resume:
            found = ranks.from_first(lambda: rundir.reopen(out, run, describe, held))
        else:
            ranks.from_first(lambda: rundir.start(out, run, describe, held))
        held.enter_context(torch.random.fork_rng(devices=[target] if target.type == "cuda" else []))
        loop = _Loop(recipe, run, out, device=target, found=found)
        if found is not None:
            step = found.step
            ranks.from_first(lambda: rundir.proceed(out, run, describe, step))
        return loop.train(batches, on_log, judge)


class _Loop:
    """The state of one call of `fit`."""

    def __init__(
        self, recipe: Any, run: RunConfig, out: Path, *, device: torch.device, found: checkpoint.Checkpoint | None
    ) -> None:
        self.run, self.out, self.device = run, out, device
        if found is not None:
            checkpoint.load_weights(recipe, found)
        self.whole_recipe, self.name = recipe.train(), type(recipe).__name__
        split = shard.split(recipe, device) if run.shard else None
        self.recipe: Any = recipe.to(device) if split is None else split
        if split is None:
            ranks.same_start(self.recipe)
        if run.compile and split is None:
            for block in shard.blocks(self.recipe):
                block.compile(dynamic=True)
        self.parameters = list(trainable(self.recipe).values())
        self.whole = [p for p in self.parameters if not shard.is_split(p)]
        self.optimizer = adamw(self.recipe, run)
        meta = found.meta if found is not None else {}
        if found is not None:
            load_moments(self.optimizer, found.moments(), ordered(self.recipe, run))
        self.done = found.step if found is not None else 0
        self.saved = found.path if found is not None else None
        self.means = Means(meta.get("means") if ranks.rank() == 0 else None)
        self.bad_in_a_row: int = meta.get("bad_in_a_row", 0)
        self.skipped: int = meta.get("skipped", 0)  # since the last line
        self.loss: float | None = meta.get("loss")
        """Of the last step, until a line of metrics gives the mean since the one before."""
        self.steps = run.steps if run.seconds is None else ENDLESS
        self.share: float | None = None if run.seconds is None else meta.get("spent", 0.0) / run.seconds
        """Of the time of a run by the clock that is over, the same number on every rank."""
        self._clock = time.perf_counter() - meta.get("spent", 0.0)
        self.metrics: Metrics | None = None
        self._told_time, self._told_step = time.perf_counter(), self.done  # at the last line
        self._waited = 0.0  # seconds without data since then
        self._pictures: Callable[[], dict[str, torch.Tensor]] | None = None  # of the last forward pass

    def train(
        self,
        batches: Batches | Callable[[int], Views],
        on_log: Callable[[dict[str, Any]], None] | None,
        judge: Callable[[Any, int], dict[str, float]] | None,
    ) -> FitResult:
        run, started = self.run, time.perf_counter()
        first, last = (steps * run.accumulate * ranks.world() for steps in (self.done, self.steps))
        indices = range(first + ranks.rank(), last, ranks.world())
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world()))
        workers = workers_for(self.device, run.workers, beside)
        self.metrics = Metrics(self.out, step=self.done) if ranks.rank() == 0 else None
        feed = Feed(batches, indices, device=self.device, workers=workers)
        console = Console(start=self.done, total=run.steps, enabled=ranks.rank() == 0)
        stop = False
        try:
            with Interruption() as interruption:
                if self.saved is None:
                    self._watch()
                    self._save()  # a run killed early can be resumed, and a full disk is noticed now
                while not self._over() and not stop:
                    try:
                        stop = self._step(feed, interruption)
                    except LoadingEnded:
                        if not interruption.requested or ranks.world() > 1:
                            raise
                        self._save()  # the signal ended a process that loads, too
                        break
                    total = run.steps if self.share is None else max(self.done, round(self.done / self.share))
                    waited = self._data_share()
                    judging = self.done % (run.judge_every or max(1, run.steps // 10)) == 0 or self._over()
                    numbers = self._judged(judge) if judge is not None and judging else {}
                    if self.done % run.log_every == 0 or self._over() or numbers:
                        self._log(on_log, numbers)
                    console.update(self.done, loss=self.loss, lr=self._rate(self.done - 1), total=total, waited=waited)
                    if stop or self.done % run.checkpoint_every == 0 or self._over():
                        self._watch()
                        self._save()
        finally:
            feed.close()
            console.close()
            if self.metrics is not None:
                self.metrics.close()
        if self.recipe is not self.whole_recipe:
            shard.fill_whole(self.whole_recipe, self.recipe)
        assert self.saved is not None
        seconds = time.perf_counter() - started
        precision = precision_on(self.device, run.precision)
        return FitResult(self.done, seconds, not self._over(), self.loss, self.saved, precision)

    def _data_share(self) -> float:
        """Share of the time since the last line of metrics in which no data was there."""
        return self._waited / max(time.perf_counter() - self._told_time, 1e-9)

    def _over(self) -> bool:
        return self.done >= self.steps or (self.share is not None and self.share >= 1)

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.run, self.share)

    def _spent(self) -> float:
        """Seconds of training so far, over all calls that worked on the run."""
        return time.perf_counter() - self._clock

    def _step(self, feed: Feed, interruption: Interruption) -> bool:
        """One optimiser step; whether any rank was asked to stop."""
        run = self.run
        loss, logs = torch.zeros((), device=self.device), []
        self.optimizer.zero_grad(set_to_none=True)
        before_step = [(buffer, buffer.detach().clone()) for buffer in self.recipe.buffers()]
        for a in range(run.accumulate):
            before = time.perf_counter()
            views = feed.next()
            self._waited += time.perf_counter() - before
            result = self._forward(views, self.done * run.accumulate + a)
            (result.loss / run.accumulate).backward()
            loss = loss + result.loss.detach().float()
            logs.append({"loss": result.loss.detach(), **result.logs})
            self._pictures = result.pictures
        ranks.average_gradients(self.whole)  # a split block has averaged its own
        norm = clip_gradients(self.parameters, run)
        loss_sum, own_norm = torch.stack([loss, norm.to(loss.dtype)]).tolist()
        shared = [loss_sum / (run.accumulate * ranks.world()), interruption.requested, self._spent() / ranks.world()]
        mean, stop, spent = ranks.total(shared, self.device)
        if math.isfinite(mean) and math.isfinite(own_norm):
            set_learning_rate(self.optimizer, self._rate(self.done))
            self.optimizer.step()
            for entry in logs:
                self.means.add(entry)
            self.means.add({"grad_norm": own_norm})
            self.loss, self.bad_in_a_row = mean, 0
        else:
            with torch.no_grad():
                for buffer, value in before_step:  # running statistics that the bad numbers went into
                    buffer.copy_(value)
            self._skip(mean, own_norm)
        self.done += 1
        if run.seconds is not None:
            self.share = spent / run.seconds
        return bool(stop)

    def _forward(self, views: Views, micro: int) -> StepResult:
        index = micro * ranks.world() + ranks.rank()
        seed = _seed(self.run.seed, index)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        with autocast(self.device, self.run.precision):
            progress = self.done / self.run.steps if self.share is None else min(self.share, 0.999)
            return self.recipe.step(views, progress=progress, generator=generator)

    def _skip(self, loss: float, norm: float) -> None:
        self.bad_in_a_row += 1
        self.skipped += 1
        LOG.warning("step %d skipped: loss %g, gradient norm %g", self.done + 1, loss, norm)
        if self.bad_in_a_row >= PATIENCE:
            raise UserError(
                f"{self.out}: loss or gradient was not finite for {PATIENCE} steps in a row, up to step "
                f"{self.done + 1} (loss {loss:g}, gradient norm {norm:g}); {self.saved} is kept; "
                f"check the data or start anew with a smaller --set run.lr (it is {self.run.lr:g})"
            )

    def _judged(self, judge: Callable[[Any, int], dict[str, float]]) -> dict[str, float]:
        """What the judge says, by the first rank (every rank must call)."""
        numbers = ranks.from_first(lambda: judge(self.recipe, self.done))
        self.recipe.train()
        return numbers

    def _log(self, on_log: Callable[[dict[str, Any]], None] | None, numbers: dict[str, float]) -> None:
        """Write a line with the means since the last one, and these numbers (every rank must call)."""
        means = self.means.flush()
        if self.metrics is None:
            return
        now = time.perf_counter()
        elapsed = max(now - self._told_time, 1e-9)
        line = {
            "step": self.done,
            "loss": means.pop("loss", None),
            **means,
            **numbers,
            "lr": self._rate(self.done - 1),
            "skipped": self.skipped,
            "seconds": round(elapsed / max(1, self.done - self._told_step), 4),
            "data_share": round(self._data_share(), 4),
        }
        self.skipped = 0
        self.loss = line["loss"] if line["loss"] is not None else self.loss
        self._told_time, self._told_step, self._waited = now, self.done, 0.0
        self.metrics.write(line)
        if on_log is not None:
            on_log(line)

    def _watch(self) -> None:
        """Write a line with what a recipe finds on data that nothing is learned from (every rank must call)."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            found = self.recipe.watch() if hasattr(self.recipe, "watch") else {}
        if found and self.metrics is not None:
            self.metrics.write({"step": self.done, **{f"{WATCHED}{name}": value for name, value in found.items()}})
            said = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            LOG.info("step %d, not learned from: %s", self.done, said)

    def _save(self) -> None:
        """Write a checkpoint (every rank must call)."""
        means = self.means.collect()
        weights = shard.collect(self.recipe.state_dict())
        state = moments(self.optimizer, ordered(self.recipe, self.run))
        final = checkpoint.folder(self.out) / f"{self.done:08d}"
        if ranks.rank() == 0:
            assert self.metrics is not None
            self.metrics.sync()
            meta = {
                "recipe": self.name,
                "means": means,
                "bad_in_a_row": self.bad_in_a_row,
                "skipped": self.skipped,
                "loss": self.loss,
                "spent": self._spent(),
            }
            checkpoint.save(self.out, self.done, weights, state, meta=meta, keep=self.run.keep)
            if self._pictures is not None:
                write_pictures(self.out, self.done, self._pictures())
        self.saved = final


def _seed(seed: int, index: int) -> int:
    """A well-mixed 63-bit seed for forward pass `index` of a run."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest(), "big") >> 1
