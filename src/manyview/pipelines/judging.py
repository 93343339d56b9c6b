"""What a run is judged by while it trains: its loss on pictures it does not learn from, probes, and their curves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from manyview.config import RunConfig
from manyview.engine.device import autocast
from manyview.engine.track import lines_of
from manyview.models.model import device_of
from manyview.pages.charts import line_chart
from manyview.pages.page import Page
from manyview.types import Batches

Judge = Callable[[Any, int], dict[str, float]]
"""Numbers of a recipe after so many steps; leaves its weights alone."""
VAL_LOSS = "val_loss"
UNSEEN = 8
"""Batches of pictures that are not learned from, the same at every judgement."""
REPORT = "report.html"


class ValidationLoss:
    """The mean loss over the same few batches, masked and cropped alike every time."""

    def __init__(self, batches: Batches, run: RunConfig, *, count: int = UNSEEN) -> None:
        self.batches, self.run, self.count = batches, run, count

    @torch.no_grad()
    def __call__(self, recipe: Any, step: int) -> dict[str, float]:
        device, losses = device_of(recipe), []
        recipe.eval()
        for index in range(self.count):
            views = self.batches.finish(self.batches.load(index), device)
            generator = torch.Generator().manual_seed(index)
            with autocast(device, self.run.precision):
                losses.append(float(recipe.step(views, progress=0.0, generator=generator).loss))
        return {VAL_LOSS: statistics.fmean(losses)}


def all_of(judges: Sequence[Judge]) -> Judge | None:
    """One judge that says what all say; None for none."""

    def judge(recipe: Any, step: int) -> dict[str, float]:
        return {key: value for one in judges for key, value in one(recipe, step).items()}

    return judge if judges else None


def write_report(out: Path, *, title: str) -> Path | None:
    """The curves of a run that was judged as OUT/report.html; None where nothing was."""
    lines = lines_of(out)
    names = [key for key in dict.fromkeys(key for line in lines for key in line) if key == VAL_LOSS or ":" in key]
    if not names:
        return None

    def curve(name: str) -> tuple[list[float], list[float]]:
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        return [float(step) for step, _ in points], [float(value) for _, value in points]

    page = Page(title, "What the run was judged by while it trained.")
    losses = {"training": curve("loss")} | ({"not learned from": curve(VAL_LOSS)} if VAL_LOSS in names else {})
    page.charts([("loss", line_chart(losses, x_label="step", y_label="loss"))])
    probes = [name for name in names if name != VAL_LOSS]
    page.charts([(name, line_chart({name: curve(name)}, x_label="step", y_label=name)) for name in probes])
    rows = [
        [str(line["step"]), *("" if line.get(name) is None else f"{line[name]:.4g}" for name in ("loss", *names))]
        for line in lines
        if any(line.get(name) is not None for name in names)
    ]
    page.table(["step", "loss", *names], rows)
    page.write(out / REPORT)
    return out / REPORT
