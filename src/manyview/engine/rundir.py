"""The folder of a run: config.json (what is trained, how, on what), metrics.jsonl, checkpoints/, model/."""

from __future__ import annotations

import importlib.metadata
import json
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch

from manyview.config import RunConfig, to_dict
from manyview.engine import checkpoint
from manyview.errors import UserError
from manyview.files import replace_file, writing
from manyview.workfolder import WorkFolder

MAY_CHANGE = {"run": ("steps", "checkpoint_every", "log_every", "keep", "shard", "workers"), "batches": ("cache",)}
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
        config = json.loads(path.read_text(encoding="utf-8"))
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
    now = {**describe, "run": to_dict(run)}
    for part in ("recipe", "method", "batches", "run"):
        if now.get(part) is not None and before.get(part) is not None:
            _same(out, part, before[part], to_dict(now[part]))
    found = checkpoint.latest(out)
    if found is None:
        raise UserError(f"{out} holds no intact checkpoint to resume from; start without --resume in a new folder")
    if run.seconds is None and found.step > run.steps:
        raise UserError(f"{out} is already at step {found.step}, past the {run.steps} asked for; raise --steps")
    return found


def proceed(out: Path, run: RunConfig, describe: dict[str, Any], step: int) -> None:
    """Make the folder ready to go on from `step`: no broken checkpoints past it, config.json up to date."""
    before = read_config(out)
    with writing(f"the run folder {out}"):
        checkpoint.clean(out)
        checkpoint.set_aside(out, step)
        _write_config(out, run, {**before, **describe})


def work_folder(out: Path) -> WorkFolder:
    """A run's folder: its record is config.json."""
    return WorkFolder(out, "run", "config.json", ("metrics.jsonl", "checkpoints", "model", "tensorboard"))


def _hold(out: Path) -> AbstractContextManager[None]:
    busy = f"another process is training in {out}; wait for it or choose another folder with -o"
    return work_folder(out).lock(busy=busy)


def _same(out: Path, name: str, before: Any, now: Any) -> None:
    if name == "recipe" and before != now:
        raise UserError(f"{out} is a run of recipe {before!r}, not {now!r}; resume it as {before!r}")
    if not isinstance(before, dict) or not isinstance(now, dict):
        return
    # An option that one of the two versions of the package does not know yet is no difference.
    for key in sorted((before.keys() & now.keys()) - set(MAY_CHANGE.get(name, ()))):
        if isinstance(before[key], dict) and isinstance(now[key], dict):
            _same(out, f"{name}.{key}", before[key], now[key])
        elif before[key] != now[key]:
            raise UserError(
                f"{out} was started with {name}.{key} = {before[key]!r}, not {now[key]!r}; "
                "a resumed run keeps its options: leave it out, or start a new run in another folder"
            )


def _write_config(out: Path, run: RunConfig, describe: dict[str, Any]) -> None:
    try:
        version = importlib.metadata.version("manyview")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    config = {**to_dict(describe), "run": to_dict(run), "version": version, "torch": str(torch.__version__)}
    replace_file(out / "config.json", (json.dumps(config, indent=2) + "\n").encode())
