"""Train a student with a recipe. The run can be interrupted at any time and resumed bit for bit.

manyview train --list                                            recipes and their presets
manyview train mum --preset tiny --data M.parquet -o RUN         image sequences alone, no teacher
manyview train distill3r --preset tiny --cache CACHE -o RUN      a new run
manyview train distill3r --cache CACHE --set run.lr=2e-4 -o RUN  options over the preset
manyview train --resume -o RUN                                   go on from the newest checkpoint
torchrun --nproc-per-node 4 -m manyview train …                  one process per GPU
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

from manyview.errors import UserError

# What to type after training, by recipe: students that reconstruct, and encoders.
NEXT_FEATURES = ("manyview features IMAGES --model {model} -o features --pca",)
NEXT = {
    "distill3r": (
        "manyview reconstruct IMAGES --model {model} -o scene",
        "manyview eval recon-per-view --model {model} --data {data}",
    ),
    "mum": ("manyview eval matching-probe --model {model} --data {data}", *NEXT_FEATURES),
    "dune": NEXT_FEATURES,
    "pairs": ("manyview reconstruct FIRST SECOND --model {model} -o scene",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="which recipe (see --list)")
    parser.add_argument("--list", action="store_true", help="list recipes and presets")
    parser.add_argument("--preset", help="named settings; default: the recipe's first")
    parser.add_argument(
        "--data", nargs="+", default=[], type=Path, metavar="M.parquet", help="manifests of frames"
    )
    parser.add_argument("--cache", type=Path, help="teacher cache to learn from (manyview cache build)")
    parser.add_argument(
        "--init", metavar="NAME|DIR", help="zoo name or model directory the student starts from"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
        help="change one option: run.lr=1e-4, method.views=8",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, help="optimiser steps of the whole run (short for run.steps)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="run directory; default: runs/RECIPE-PRESET"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def run(args: argparse.Namespace) -> int:
    if args.list:
        return _list(as_json=args.json)
    if args.recipe is None and not args.resume:
        raise UserError("which recipe? manyview train --list names them")
    _log_to_stderr()
    from manyview.engine import ranks

    joined = ranks.join()
    try:
        return _report(_train(args), args, first=ranks.rank() == 0)
    finally:
        if joined:
            ranks.leave()


def _train(args: argparse.Namespace) -> Any:
    from manyview.pipelines import train as pipeline
    from manyview.recipes.base import RECIPES, preset

    if args.resume:
        given = [
            f
            for f, value in (("--preset", args.preset), ("--init", args.init), ("--set", args.settings))
            if value
        ]
        if given:
            raise UserError(
                f"{given[0]} cannot be given with --resume: a run keeps the options in its config.json; "
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
        )
    settings = args.settings + ([f"run.steps={args.steps}"] if args.steps is not None else [])
    if args.out is None:
        args.out = Path("runs", f"{args.recipe}-{preset(RECIPES.get(args.recipe), args.preset)[0]}")
    return pipeline.train(
        args.recipe, out=args.out, preset=args.preset, data=args.data, cache=args.cache,
        init=args.init, settings=settings, device=args.device,
    )  # fmt: skip


def _report(trained: Any, args: argparse.Namespace, *, first: bool) -> int:
    """Say what was written and what to do next; the exit code."""
    done, out = trained.fit, shlex.quote(str(trained.out))
    if done.stopped:
        following = [f"manyview train {args.recipe or ''} --resume -o {out}".replace("  ", " ")]
    else:
        model, data = (
            shlex.quote(str(trained.model)),
            shlex.quote(str(args.data[0])) if args.data else "M.parquet",
        )
        following = [
            line.format(model=model, data=data) for line in NEXT.get(_recipe_of(trained), NEXT["distill3r"])
        ]
    if first and args.json:
        report = {
            "out": str(trained.out), "model": trained.model and str(trained.model), "steps": done.steps,
            "seconds": round(done.seconds, 1), "final_loss": done.final_loss, "stopped": done.stopped,
            "checkpoint": str(done.checkpoint), "next": following,
        }  # fmt: skip
        print(json.dumps(report))
    elif first and done.stopped:
        print(f"interrupted at step {done.steps}; everything is in {done.checkpoint}\ngo on: {following[0]}")
    elif first:
        loss = "" if done.final_loss is None else f", last loss {done.final_loss:.4g}"
        print(f"trained {done.steps} steps in {done.seconds:.0f} s{loss}")
        print(f"wrote {trained.model} (the student), {trained.out / 'metrics.jsonl'}, {done.checkpoint}")
        print("next: " + "\n      ".join(following))
    return 130 if done.stopped else 0


def _recipe_of(trained: Any) -> str:
    """The name a run was started with; `--resume` need not repeat it."""
    from manyview.engine.rundir import read_config

    return str(read_config(trained.out).get("recipe"))


def _list(*, as_json: bool) -> int:
    from manyview.config import to_dict
    from manyview.recipes.base import RECIPES

    recipes = RECIPES
    presets = {name: recipes.get(name).presets() for name in recipes.names()}
    if as_json:
        print(json.dumps({name: {k: to_dict(v) for k, v in p.items()} for name, p in presets.items()}))
        return 0
    for name, choices in presets.items():
        print(f"{name}: {(sys.modules[recipes.get(name).__module__].__doc__ or '').strip().splitlines()[0]}")
        for label, choice in choices.items():
            r = choice.run
            scenes = r.batch * r.accumulate
            print(f"  --preset {label:8} {r.steps} steps of {scenes} scenes, lr {r.lr:g}, seed {r.seed}")
    print("next: manyview train RECIPE --preset P --cache CACHE -o RUN")
    return 0


def _log_to_stderr() -> None:
    """Progress lines and warnings of the run, plainly, unless the caller has set up logging."""
    logger = logging.getLogger("manyview")
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
