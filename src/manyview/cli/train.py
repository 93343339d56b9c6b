"""Train a student with a recipe. The run can be interrupted at any time and resumed bit for bit.

manyview train --list                                            recipes and their presets
manyview train mum --help                                        what a recipe learns, and all of its options
manyview train mum --preset tiny --data M.parquet -o RUN         image sequences alone, no teacher
manyview train distill3r --preset tiny --cache CACHE -o RUN      a new run
manyview train distill3r --cache CACHE --run.lr 2e-4 -o RUN      options over the preset (or --set run.lr=2e-4)
manyview train distill3r --preset views --data abstract:1 -o RUN  scenes rendered while it trains, no data needed
manyview train --resume -o RUN                                   continue from the newest checkpoint
torchrun --nproc-per-node 4 -m manyview train …                  one process per GPU
"""

from __future__ import annotations

import argparse
import inspect
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from manyview.cli.options import add_device, add_options, add_set, imported, named, number, value_of
from manyview.cli.output import Answer, printable
from manyview.errors import UserError

_recipes = partial(imported, "manyview.recipes.base:RECIPES")


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    add = parser.add_argument
    text = "which recipe (see --list); RECIPE --help explains its options"
    add("recipe", nargs="?", metavar="RECIPE", help=text)
    add("--list", action="store_true", help="list recipes and presets")
    add("--preset", metavar="P", help="named settings; default: the recipe's first")
    add(
        "--data",
        nargs="+",
        default=[],
        type=Path,
        metavar="M.parquet[:WEIGHT]",
        help="manifests of frames, each maybe with how often it is drawn; distill3r also: abstract:1, rooms:1 …",
    )
    add("--cache", type=Path, help="teacher cache to learn from (manyview cache build)")
    add("--init", metavar="NAME|DIR", help="zoo name or model directory the student starts from")
    add_set(parser, "change options: run.lr=1e-4 method.views=8")
    add("--steps", type=number(int, least=1), metavar="N", help="optimiser steps in all (short for --run.steps)")
    add(
        "--seconds",
        type=number(float, least=1e-3),
        metavar="S",
        help="a run of so many seconds in place of --steps (--run.seconds)",
    )
    text = "manifests of pictures not to learn from: their loss every run.judge_every steps, and data for --probe"
    add("--validate", nargs="+", default=[], type=Path, metavar="M.parquet", help=text)
    text = "an evaluation (manyview eval --list) of the student on the first of --validate, at the same steps"
    add("--probe", metavar="PROTOCOL", help=text)
    text = "options of the probe: pairs=100 sweep.steps=400"
    add("--probe-set", nargs="+", default=[], metavar="KEY=VALUE", help=text)
    add_device(parser)
    add("-o", "--out", type=Path, metavar="DIR", help="run directory; default: runs/RECIPE-PRESET")
    add("--resume", action="store_true", help="continue the run in DIR")
    name = named(parser, words, lambda: _recipes().names())
    if name is not None:
        _add_recipe(parser, name, value_of(words, "--preset"))


def _add_recipe(parser: argparse.ArgumentParser, name: str, preset_name: str | None) -> None:
    """The options of a recipe, with the defaults of the preset."""
    from manyview.recipes.base import preset

    recipe = _recipes().get(name)
    label, chosen = preset(recipe, preset_name)
    presets = [inspect.getdoc(recipe.presets) or "", *_preset_lines(recipe)]
    about = f"{_line(recipe)}\n\npresets (the first is the default):\n" + "\n".join(filter(None, presets))
    title = f"options of {name}, with the defaults of --preset {label}"
    add_options(parser, chosen.method, title=title, about=about, prefix="method.")
    add_options(parser, chosen.run, title="how it is optimised", prefix="run.")


def run(args: argparse.Namespace) -> Answer:
    if args.list:
        return _list()
    if args.recipe is None and not args.resume:
        raise UserError("which recipe? manyview train --list names them")
    _log_to_stderr()
    from manyview.engine import ranks

    joined = ranks.join()
    try:
        with _resumable(args):
            trained = _train(args)
        answer = _report(trained, args)
        if ranks.rank() == 0:
            return answer
        args.json = None  # the first process speaks for all
        return Answer(values={}, code=answer.code)
    finally:
        if joined:
            ranks.leave()


@contextmanager
def _resumable(args: argparse.Namespace) -> Iterator[None]:
    """A second Ctrl-C, which ends the run at once, says what goes on from the newest checkpoint."""
    try:
        yield
    except KeyboardInterrupt:
        from manyview.engine import checkpoint

        if args.out is None or not (there := checkpoint.steps(args.out)):
            raise
        line = f"manyview train --resume -o {shlex.quote(str(args.out))}"
        raise KeyboardInterrupt(f"the checkpoint of step {there[-1]} is kept, go on from it: {line}") from None


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _train(args: argparse.Namespace) -> Any:
    from manyview.pipelines import train as pipeline
    from manyview.recipes.base import preset

    if args.resume:
        for flag, value in (("--preset", args.preset), ("--init", args.init), ("--set", args.settings)):
            if value:
                raise UserError(
                    f"{flag} cannot be given with --resume: a run keeps the options in its config.json; "
                    "leave it out, or start a new run in another folder with -o"
                )
        if args.out is None:
            raise UserError("--resume needs the folder of the run: -o DIR")
        return pipeline.resume(
            args.out,
            recipe=args.recipe,
            steps=args.steps,
            data=args.data,
            cache=args.cache,
            device=args.device,
            validate=args.validate,
            judges=_judges(args),
        )
    settings = args.settings + ([f"run.steps={args.steps}"] if args.steps is not None else [])
    settings += [f"run.seconds={args.seconds}"] if args.seconds is not None else []
    if args.out is None:
        args.out = Path("runs", f"{args.recipe}-{preset(_recipes().get(args.recipe), args.preset)[0]}")
    return pipeline.train(
        args.recipe,
        out=args.out,
        preset=args.preset,
        data=args.data,
        cache=args.cache,
        init=args.init,
        settings=settings,
        device=args.device,
        validate=args.validate,
        judges=_judges(args),
    )


def _judges(args: argparse.Namespace) -> list[Any]:
    """The probe that is asked for, if one is."""
    if args.probe is None:
        if args.probe_set:
            raise UserError("--probe-set has options of a probe, but none is named: add --probe PROTOCOL")
        return []
    if not args.validate:
        raise UserError(f"--probe {args.probe} needs unseen data: add --validate M.parquet")
    from manyview.config import override
    from manyview.data.manifest import Manifest
    from manyview.evaluation.base import PROTOCOLS
    from manyview.evaluation.while_training import Probed

    protocol = override(PROTOCOLS.get(args.probe)(), args.probe_set)
    return [Probed(protocol, Manifest.load(args.validate[0]), args.out / "judged")]


def _report(trained: Any, args: argparse.Namespace) -> Answer:
    """What was written and what to do next."""
    from manyview.engine.track import watched

    done, following, seen = trained.fit, _next_steps(trained, args), watched(trained.out)
    values = {
        "out": str(trained.out),
        "model": trained.model and str(trained.model),
        "steps": done.steps,
        "seconds": round(done.seconds, 1),
        "final_loss": done.final_loss,
        "stopped": done.stopped,
        "precision": done.precision,
        "checkpoint": str(done.checkpoint),
        "next": following,
        **({"watched": seen} if seen else {}),
    }
    if done.stopped:
        line = f"interrupted at step {done.steps}; everything is in {done.checkpoint}"
        return Answer(values=values, lines=[line, f"go on: {following[0]}"], code=130)
    loss = "" if done.final_loss is None else f", last loss {done.final_loss:.4g}"
    judged = trained.out / "report.html"
    lines = [
        f"trained {done.steps} steps in {done.seconds:.0f} s, {done.precision}{loss}",
        f"wrote {trained.model} (the student), {trained.out / 'metrics.jsonl'}, {done.checkpoint}",
        *([f"wrote {judged}: how it was judged while it trained"] if args.validate and judged.is_file() else []),
    ]
    if len(seen) > 1:
        before, after = seen[0], seen[-1]
        both = {key: [row.get(key) for row in (before, after)] for key in before if key != "step"}
        shown = {key: ["not finite" if v is None else f"{v:.4g}" for v in values] for key, values in both.items()}
        told = ", ".join(f"{key} {first} -> {last}" for key, (first, last) in shown.items())
        lines.append(f"not learned from, before and after: {told}")
    return Answer(values=values, lines=lines, next=following)


def _next_steps(trained: Any, args: argparse.Namespace) -> list[str]:
    """The line that resumes an interrupted run, or what the recipe proposes for its student."""
    from manyview.engine.rundir import read_config

    if trained.fit.stopped:
        recipe = f"{args.recipe} " if args.recipe else ""
        return [f"manyview train {recipe}--resume -o {shlex.quote(str(trained.out))}"]
    kind = _recipes().get(str(read_config(trained.out).get("recipe")))  # --resume need not name it
    data = shlex.quote(str(args.data[0])) if args.data else "M.parquet"
    return [line.format(model=shlex.quote(str(trained.model)), data=data) for line in kind.next_steps]


def _list() -> Answer:
    from manyview.config import to_dict

    recipes = {name: _recipes().get(name) for name in _recipes().names()}
    values, lines = {}, []
    for name, kind in recipes.items():
        lines += [f"{name}: {_line(kind)}", *_preset_lines(kind)]
        values[name] = {key: to_dict(preset) for key, preset in kind.presets().items()}
    return Answer(values=values, lines=lines, next=["manyview train RECIPE --preset P --cache CACHE -o RUN"])


def _line(recipe: Any) -> str:
    """The first line of the recipe's module: what it learns from what."""
    return (sys.modules[recipe.__module__].__doc__ or recipe.__doc__ or "").strip().partition("\n")[0]


def _preset_lines(recipe: Any) -> list[str]:
    """A line of numbers for each preset."""
    lines = []
    for label, choice in recipe.presets().items():
        r = choice.run
        scenes = r.batch * r.accumulate
        lines.append(f"  --preset {label:9} {r.steps:,} steps of {scenes} scenes, lr {r.lr:g}, seed {r.seed}")
    return lines


def _log_to_stderr() -> None:
    """Progress lines and warnings of the run, plainly, unless the caller has set up logging."""
    logger = logging.getLogger("manyview")
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Plain("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
