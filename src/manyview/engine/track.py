"""What a run tells: metrics.jsonl, TensorBoard when it is installed, a bar or a line now and then."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from manyview.engine import ranks
from manyview.errors import UserError
from manyview.files import parse_json, replace_file, writing
from manyview.progress import clock

LOG = logging.getLogger(__name__)

TIMINGS = ("seconds", "data_share")
LEAST_IDLE = 0.05
"""Share of the time without data from which on the console tells it."""
"""Fields of a metrics line that differ from run to run; all others are the same bits for the same seed."""


WATCHED = "watched/"
"""What stands before the names of numbers on data that nothing is learned from."""


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, none without one. Raises UserError for a damaged line."""
    path = run_dir / "metrics.jsonl"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    try:
        return [dict(parse_json(line)) for line in text.splitlines()]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} has a damaged line; remove that line") from error


def watched(run_dir: Path) -> list[dict[str, float | None]]:
    """The lines of metrics.jsonl that hold such numbers, without that prefix: before, while and after training.

    None stands for what was not finite.
    """
    lines = lines_of(run_dir)
    found = [{k.removeprefix(WATCHED): v for k, v in line.items() if k == "step" or WATCHED in k} for line in lines]
    return [line for line in found if len(line) > 1]


class Means:
    """Running means, since the last line, of whatever the steps report. A checkpoint holds them, exactly."""

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        self._sums: dict[str, list[float]] = {k: list(v) for k, v in (state or {}).items()}  # name -> [sum, count]
        self._pending: list[dict[str, float | Tensor]] = []

    def add(self, values: dict[str, float | Tensor]) -> None:
        """Remember; tensors are read later, so that a GPU is not waited for."""
        self._pending.append({k: v.detach() if isinstance(v, Tensor) else v for k, v in values.items()})

    def collect(self) -> dict[str, list[float]]:
        """Sums and counts over all ranks (every rank must call); afterwards only rank 0 holds them."""
        for values in self._pending:
            for name, value in values.items():
                entry = self._sums.setdefault(name, [0.0, 0])
                entry[0] += float(value)
                entry[1] += 1
        self._pending.clear()
        if ranks.world() > 1:
            everyone = ranks.gather(self._sums)
            self._sums = {}
            for sums in everyone if ranks.rank() == 0 else []:
                for name, (amount, count) in sums.items():
                    entry = self._sums.setdefault(name, [0.0, 0])
                    entry[0] += amount
                    entry[1] += count
        return self._sums

    def flush(self) -> dict[str, float]:
        """The means since the last flush, over all ranks."""
        means = {name: amount / count for name, (amount, count) in self.collect().items()}
        self._sums = {}
        return means


class Metrics:
    """`metrics.jsonl`: one JSON object per logged step, copied to TensorBoard when that is installed."""

    def __init__(self, run_dir: Path, *, step: int) -> None:
        """Open for appending after `step`: lines past it, and a half-written last one, are dropped."""
        self.path, kept = run_dir / "metrics.jsonl", ""
        with writing(str(self.path)):
            before = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
            for line in before.splitlines():
                try:
                    if parse_json(line)["step"] > step:
                        break
                except (ValueError, KeyError, TypeError):
                    break
                kept += line + "\n"
            replace_file(self.path, kept.encode())
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._board = _board(run_dir, step)

    def write(self, line: dict[str, Any]) -> None:
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        with writing(str(self.path)):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in line.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, line["step"])

    def sync(self) -> None:
        """Force the lines to the disk: a checkpoint never outlives the lines before it."""
        with writing(str(self.path)):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def write_pictures(run_dir: Path, step: int, pictures: dict[str, Tensor]) -> None:
    """`pictures/STEP-NAME.png` for each (3, H, W) in [0, 1]."""
    from PIL import Image

    for name, picture in pictures.items():
        pixels = (picture.detach().float().cpu().clamp(0, 1) * 255).round().byte()
        content = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(content, format="PNG")
        path = run_dir / "pictures" / f"{step:08d}-{name}.png"
        with writing(str(path)):
            replace_file(path, content.getbuffer())


def _board(run_dir: Path, step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)


class Console:
    """How far the run is and the time left: a bar on a terminal, else a logged line every `every` seconds."""

    def __init__(self, *, start: int, total: int, every: float = 30.0, enabled: bool = True) -> None:
        self._enabled, self._every, self._total = enabled, every, total
        self._bar: Any = None
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit="step", desc="train", file=sys.stderr, dynamic_ncols=True)
        self._told_step, self._told_time = start, time.monotonic()

    def update(self, step: int, *, loss: float | None, lr: float, total: int, waited: float = 0.0) -> None:
        """Tell that `step` of what are `total` steps, as far as one can say now, are done; `waited`: which share of the
        time since the last line of metrics the device had no data.
        """
        if not self._enabled:
            return
        shown = "-" if loss is None else f"{loss:.4g}"
        idle = f", {waited:.0%} of it without data" if waited >= LEAST_IDLE else ""
        self._total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(f"loss {shown} lr {lr:.2e}{idle}", refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if now - self._told_time >= self._every or step == self._total:
            pace = (now - self._told_time) / max(1, step - self._told_step)
            left = clock(pace * (self._total - step))
            text = "step %d/%d  loss %s  lr %.2e  %.2f s/step%s  %s left"
            LOG.info(text, step, self._total, shown, lr, pace, idle, left)
            self._told_step, self._told_time = step, now

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
