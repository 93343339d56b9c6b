"""The folder of a run: config.json (what is trained, how, on what), metrics.jsonl, checkpoints/, model/."""

from __future__ import annotations

import json
import logging
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch

from manyview.config import RunConfig, to_dict
from manyview.engine import checkpoint
from manyview.errors import UserError
from manyview.files import parse_json, replace_file, writing
from manyview.version import __version__
from manyview.workfolder import WorkFolder

LOG = logging.getLogger(__name__)
MAY_CHANGE = (
    *(f"run.{name}" for name in ("steps", "checkpoint_every", "log_every", "judge_every", "keep", "shard", "workers")),
    "batches.cache",
)
"""What a resumed run may have anew: fields of RunConfig that do not change a step, and where the data lie."""


def holds_run(out: Path) -> bool:
    """Whether training has already happened in `out`."""
    metrics = out / "metrics.jsonl"
    return bool(checkpoint.steps(out)) or (metrics.is_file() and metrics.stat().st_size > 0)


def read_config(out: Path) -> dict[str, Any]:
    """config.json of a run. Raises UserError when there is none or it is damaged."""
    path = out / "config.json"
    if not path.is_file():
        raise UserError(f"{out} holds no run to resume (no config.json); check -o, or start without --resume")
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
        config["run"]["steps"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); start the run anew in another folder") from error
    return config


def start(out: Path, run: RunConfig, describe: dict[str, Any], held: ExitStack) -> None:
    """Make and hold the folder of a new run. UserError when it has a run already, or cannot be written."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another folder for the run with -o")
    if holds_run(out):
        raise UserError(f"{out} already holds a run; go on with it with --resume, or choose another folder with -o")
    work_folder(out).refuse_strangers()
    with writing(f"the run folder {out}", mend="choose a folder that can be written with -o"):
        out.mkdir(parents=True, exist_ok=True)
        held.enter_context(_hold(out))
        _write_config(out, run, describe)


def reopen(out: Path, run: RunConfig, describe: dict[str, Any], held: ExitStack) -> checkpoint.Checkpoint:
    """Hold the folder; the checkpoint to resume from. UserError when there is none or the run is another.

    Changes nothing: `proceed` does, once the checkpoint has been loaded.
    """
    before = read_config(out)
    held.enter_context(_hold(out))
    now = to_dict({**describe, "run": to_dict(run)})
    if before.get("recipe", now["recipe"]) != now["recipe"]:
        name = before["recipe"]
        raise UserError(f"{out} is a run of recipe {name!r}, not {now['recipe']!r}; resume it as {name!r}")
    parts = [part for part in ("method", "batches", "run") if before.get(part) and now.get(part)]
    kept, wanted = ({part: of[part] for part in parts} for of in (before, now))
    work_folder(out).refuse_others(kept, wanted, MAY_CHANGE, common=True)
    found = checkpoint.latest(out)
    if found is None:
        raise UserError(f"{out} holds no intact checkpoint to resume from; start without --resume in a new folder")
    if run.seconds is None and found.step > run.steps:
        raise UserError(f"{out} is already at step {found.step}, past the {run.steps} asked for; raise --steps")
    return found


def proceed(out: Path, run: RunConfig, describe: dict[str, Any], step: int) -> None:
    """Make the folder ready to go on from `step`: no broken checkpoints past it, config.json up to date."""
    before = read_config(out)
    for line in changed(before, {"run": to_dict(run), **_made_with()}):
        LOG.warning("resumed at step %d: %s", step, line)
    with writing(f"the run folder {out}"):
        checkpoint.clean(out)
        checkpoint.set_aside(out, step)
        _write_config(out, run, {**before, **describe})


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What keeps a resumed run from being the uninterrupted one to the bit, a sentence each.

    before, now: config.json as it was and as it will be.
    """
    lines = []
    old, new = (config["run"].get("steps") for config in (before, now))
    if old != new and now["run"].get("seconds") is None:
        lines.append(f"{new:,} steps instead of {old:,}; from here on the learning rate follows the new number")
    for key, name in _MADE_WITH.items():
        if key in before and before[key] != now[key]:
            lines.append(f"{name} {now[key]} instead of {before[key]}; losses may differ in their last digits")
    return lines


_MADE_WITH = {"version": "manyview", "torch": "torch", "threads": "threads:"}
"""Keys of config.json beside the settings, and how a message calls them."""


def _made_with() -> dict[str, Any]:
    return {"version": __version__, "torch": str(torch.__version__), "threads": torch.get_num_threads()}


def work_folder(out: Path) -> WorkFolder:
    """A run's folder: its record is config.json."""
    own = ("metrics.jsonl", "checkpoints", "model", "tensorboard", "report.html", "judged")
    return WorkFolder(out, "run", "config.json", own, needs=("recipe", "run"))


def _hold(out: Path) -> AbstractContextManager[None]:
    busy = f"another process is training in {out}; wait for it or choose another folder with -o"
    return work_folder(out).lock(busy=busy)


def _write_config(out: Path, run: RunConfig, describe: dict[str, Any]) -> None:
    config = {**to_dict(describe), "run": to_dict(run), **_made_with()}
    replace_file(out / "config.json", (json.dumps(config, indent=2) + "\n").encode())
