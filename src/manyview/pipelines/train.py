"""Train a recipe into a run directory, or go on with one: what `manyview train` and `mv.train` do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manyview.config import RunConfig, from_dict, override
from manyview.data.synthetic.streams import parse_stream
from manyview.engine import ranks
from manyview.engine.loop import FitResult, fit
from manyview.engine.rundir import read_config
from manyview.engine.schedule import sized
from manyview.errors import UserError
from manyview.layers.positions import refit_table
from manyview.pipelines.judging import Judge, ValidationLoss, all_of, write_report
from manyview.recipes.base import RECIPES, Preset, Recipe
from manyview.recipes.base import preset as find_preset
from manyview.types import Batches

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a training left behind."""

    out: Path
    """The run directory."""
    model: Path | None
    """The model directory of the student, or None when the run was interrupted before its end."""
    fit: FitResult
    """Steps done, seconds, whether it was interrupted, the last loss, the newest checkpoint."""


def train(
    recipe: str,
    *,
    out: str | Path,
    preset: str | None = None,
    data: Sequence[str | Path] = (),
    cache: str | Path | None = None,
    init: str | Path | None = None,
    settings: Sequence[str] = (),
    device: str = "auto",
    validate: Sequence[str | Path] = (),
    judges: Sequence[Judge] = (),
) -> Trained:
    """Start a run of `recipe` in the new folder `out`.

    `settings` are assignments over the preset, such as `run.lr=1e-4` or `method.views=8`; `init` is a zoo
    name or a model directory whose weights the student starts from. `validate`: manifests whose loss is told every
    `run.judge_every` steps, beside the numbers of `judges`.
    """
    kind = RECIPES.get(recipe)
    preset, chosen = find_preset(kind, preset)
    chosen = override(chosen, _plainly(settings))
    with torch.random.fork_rng():
        torch.manual_seed(chosen.run.seed)
        model = kind.build(chosen.method)
    if init is not None:
        from manyview import zoo

        mend = "choose a model of the same shape, or another --preset or --set method.…"
        weights = _with_refitted_tables(zoo.load(init).state_dict(), model.student)
        zoo.take_weights(model.student, weights, f"--init {init}", mend)
    described = {"recipe": recipe, "preset": preset, "init": None if init is None else str(init)}
    inputs = _Inputs(data, cache, device, validate, judges)
    return _fit(model, chosen, Path(out), described, inputs, resume=False)


def resume(
    out: str | Path,
    *,
    recipe: str | None = None,
    steps: int | None = None,
    data: Sequence[str | Path] = (),
    cache: str | Path | None = None,
    device: str = "auto",
    validate: Sequence[str | Path] = (),
    judges: Sequence[Judge] = (),
) -> Trained:
    """Go on with the run in `out` from its newest checkpoint, with the options it was started with.

    Only the number of steps, the device and the places of the data may be given anew.
    """
    config = read_config(Path(out))
    name = config.get("recipe")
    if recipe is not None and recipe != name:
        raise UserError(f"{out} is a run of recipe {name!r}, not {recipe!r}; resume it as {name!r}")
    kind = RECIPES.get(str(name))
    run = from_dict(RunConfig, config["run"], "run.")
    chosen = Preset(method=from_dict(kind.Config, config["method"], "method."), run=run)
    if steps is not None:
        chosen = override(chosen, [f"run.steps={steps}"])
    if "order" not in (config.get("batches") or {"order": None}):
        LOG.warning(
            "%s was started by an older manyview, whose batches came in another order; from here on they come "
            "in the new one",
            out,
        )
    described = {key: config.get(key) for key in ("recipe", "preset", "init")}
    inputs = _Inputs(data or config.get("data", ()), cache or config.get("cache"), device, validate, judges)
    return _fit(kind.build(chosen.method), chosen, Path(out), described, inputs, resume=True)


def _plainly(settings: Sequence[str]) -> list[str]:
    """A rate or a number of steps that a user states is meant as it stands, whatever the preset counts it in."""
    given = {text.partition("=")[0].strip() for text in settings}
    plain = [f"run.{other}=null" for key, other in (("lr", "lr_per"), ("steps", "images")) if f"run.{key}" in given]
    return [*(text for text in plain if text.partition("=")[0] not in given), *settings]


@dataclass(frozen=True)
class _Inputs:
    """Where a run's data lie and where it computes: what may differ from one machine to the next."""

    data: Sequence[str | Path]
    cache: str | Path | None
    device: str
    validate: Sequence[str | Path] = ()
    judges: Sequence[Judge] = ()

    def judge(self, model: Recipe, chosen: Preset) -> Judge | None:
        """All that judges the run while it trains."""
        judges = list(self.judges)
        if self.validate:
            paths = [Path(path) for path in self.validate]
            batches = model.batches(chosen.method, chosen.run, cache=None, data=paths)
            if not isinstance(batches, Batches):
                raise UserError("--validate: this recipe makes its own data; leave it away")
            judges.insert(0, ValidationLoss(batches, chosen.run))
        return all_of(judges)


def _fit(
    model: Recipe, chosen: Preset, out: Path, described: dict[str, Any], inputs: _Inputs, *, resume: bool
) -> Trained:
    run, told = sized(chosen.run, model.images_of(chosen.method, chosen.run), ranks.world())
    if told and ranks.rank() == 0:
        LOG.info("%s", told)
    chosen = replace(chosen, run=run)
    paths = [Path(path) for path in inputs.data]
    cache = None if inputs.cache is None else Path(inputs.cache)
    batches = model.batches(chosen.method, chosen.run, cache=cache, data=paths)
    described = {
        **described,
        "method": chosen.method,
        "data": [str(path if parse_stream(path) else path.resolve()) for path in paths],
        "cache": None if cache is None else str(cache.resolve()),
        "batches": batches.describe() if isinstance(batches, Batches) else None,
    }
    judge = inputs.judge(model, chosen)
    result = fit(model, batches, chosen.run, out, device=inputs.device, resume=resume, describe=described, judge=judge)
    if judge is not None and ranks.rank() == 0:
        write_report(out, title=f"{described.get('recipe')}: {out.name}")
    if result.stopped:
        return Trained(out, None, result)
    sources = [described.get("init"), *(t.source for t in getattr(model, "teachers", {}).values())]
    ranks.from_first(lambda: _save(model.student, out / "model", [s for s in sources if s is not None]))
    return Trained(out, out / "model", result)


def _save(student: Any, path: Path, sources: Sequence[str]) -> None:
    """The student's model directory, which names the licences of the weights and teachers it comes from."""
    from manyview import zoo

    inherited = [licence for source in sources for licence in zoo.licences_of(source)]
    zoo.save_model(student.cpu().eval(), path, derived_from=inherited)


def _with_refitted_tables(weights: dict[str, Tensor], student: nn.Module) -> dict[str, Tensor]:
    """The weights with every learned position table at the student's grid, where only that differs."""
    found = dict(weights)
    for name, wanted in student.state_dict().items():
        table = weights.get(name)
        if table is None or not name.endswith(("pos_embed", "positions")) or table.shape == wanted.shape:
            continue
        if table.shape[2] == wanted.shape[2]:
            try:
                found[name] = refit_table(table, wanted.shape[1])
            except ValueError:
                continue  # told as a mismatch
            LOG.info("%s: %d positions resampled to %d", name, table.shape[1], wanted.shape[1])
    return found
