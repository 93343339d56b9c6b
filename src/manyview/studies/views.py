"""What teaches a small student to relate views, from random weights, on streamed scenes, on two CPU cores.

Every job trains the preset `views` of recipe distill3r with something changed, and is judged by the gate `views-used`
on wide windows of scenes that no run sees: four views, every second frame of eight.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyview.data.manifest import Manifest
from manyview.data.synthetic import write_scenes
from manyview.engine import checkpoint
from manyview.evaluation.base import evaluate
from manyview.evaluation.tables import markdown_table
from manyview.evaluation.views_used import ViewsUsed
from manyview.files import parse_json, write_text
from manyview.studies.base import STUDIES, Question, Study, Variant, trained

OURS = "calibration trials of this package"
CURVE = "curve.json"


@dataclass(frozen=True)
class ViewsOptions:
    """What every job shares."""

    steps: int = 10_000
    """Optimiser steps of a run."""
    data: str = "abstract"
    """Scenes that are streamed and, with other seeds, judged on: abstract, outdoors, rooms or worlds."""
    points: int = 10
    """Checkpoints of a run that are judged: the curve."""
    scenes: int = 48
    """Unseen scenes that it is judged on."""
    workers: int = 1
    """Processes that render beside the one that trains."""


@STUDIES.add("views")
class ViewsStudy(Study):
    name, line = "views", "Relating views: what a small student needs to learn it on two cores"
    score = "turn"
    columns = {  # noqa: RUF012
        "wrong_reference": "error with another scene's reference / own",
        "identity": "global error / identity pose's",
        "depth": "AbsRel, 4 views / 1",
        "cpu_seconds": "CPU seconds",
    }
    details = {"true_turn": "true turn, degrees", "abs_rel": "AbsRel"}  # noqa: RUF012
    Options = ViewsOptions
    variants = (
        Variant(name="wide", line="the preset: wide windows, blocks in turn, camera head, matching tokens, Xavier"),
        Variant(
            name="near",
            line="control: two or three consecutive frames, deviation 0.02",
            settings=("method.stream.order=video", "method.stream.count=[2,3]", "+xavier=false"),
        ),
        Variant(
            name="joint",
            line="fusion as published, without a camera head",
            settings=("+fusion=joint", "+camera_depth=0", "method.camera=0", "method.attending=0"),
        ),
        Variant(name="no-camera", line="without a camera head", settings=("+camera_depth=0", "method.camera=0")),
        Variant(name="no-attending", line="attention is not told where to look", settings=("method.attending=0",)),
        Variant(name="no-matching", line="tokens are not matched", settings=("method.matching=0",)),
        Variant(
            name="paper-loss",
            line="the paper's loss alone",
            settings=("method.loss=distill3r", "method.matching=0", "method.camera=0", "method.attending=0"),
        ),
        Variant(name="small-init", line="deviation 0.02 in place of Xavier", settings=("+xavier=false",)),
    )
    questions = tuple(
        Question(name=claim, better="wide", worse=worse, source=OURS)
        for claim, worse in (
            ("wide windows, Xavier", "near"),
            ("blocks in turn", "joint"),
            ("camera head", "no-camera"),
            ("attention told where to look", "no-attending"),
            ("matching tokens", "no-matching"),
            ("confident loss", "paper-loss"),
            ("Xavier", "small-init"),
        )
    )

    def prepare(self, out: Path) -> None:
        kind = {"rooms": "auto", "worlds": "abstract"}.get(self.options.data, self.options.data)
        count = {"scenes": self.options.scenes, "views": 8, "size": (64, 64), "seed": 991, "kind": kind}
        self.test = write_scenes(out / "unseen", **count)

    def notes(self, out: Path) -> list[str]:
        """The curve of every run, by CPU seconds of all its processes."""
        lines = []
        for path in sorted(out.glob(f"*/seed-*/{CURVE}")):
            points = parse_json(path.read_text(encoding="utf-8"))
            name = f"{path.parent.parent.name}, {path.parent.name.replace('-', ' ')}"
            lines += [[name, p["step"], p["turn"], p["wrong_reference"], p["identity"]] for p in points]
        table = markdown_table(["run", "step", "turn error / true turn", "wrong reference", "identity"], lines)
        return [
            "Turn: the error of a view's turn as a share of the true turn (1: nothing learned; lower is better). CPU "
            "seconds are those of all processes of a run, judging not counted.",
            "## On the way",
            table,
        ]

    def run(self, variant: Variant, seed: int, out: Path) -> dict[str, float]:
        from manyview import zoo
        from manyview.recipes.base import preset
        from manyview.recipes.distill3r import Distill3R

        options, before = self.options, _cpu()
        student = dict(preset(Distill3R, "views")[1].method.student)
        plain = [setting for setting in variant.settings if not setting.startswith("+")]
        for setting in variant.settings:
            if setting.startswith("+"):
                key, _, text = setting[1:].partition("=")
                student[key] = parse_json(text) if text[0].isdigit() or text in ("true", "false") else text
        every = math.ceil(options.steps / options.points)
        run = [f"run.seed={seed}", f"run.steps={options.steps}", f"run.checkpoint_every={every}"]
        run += [f"run.keep={options.points + 1}", f"run.workers={options.workers}"]
        settings = [*plain, f"method.student={json.dumps(student)}", *run]
        data = [f"{options.data}:{seed}"]
        folder = trained("distill3r", out / "run", preset="views", data=data, settings=settings)
        spent = _cpu() - before
        model = zoo.load(folder)
        curve = []
        for step in checkpoint.steps(out / "run"):
            weights = checkpoint.at(out / "run", step).weights()
            model.load_state_dict({k.partition(".")[2]: v for k, v in weights.items() if k.startswith("student.")})
            curve.append({"step": step, **self._judged(model, out / "judged" / f"{step}")})
        write_text(out / CURVE, json.dumps(curve, indent=1) + "\n")
        return {**{k: v for k, v in curve[-1].items() if k != "step"}, "cpu_seconds": spent}

    def _judged(self, model: Any, out: Path) -> dict[str, float]:
        summary = evaluate(ViewsUsed(), model, Manifest.load(self.test), out)
        row = summary["rows"][0]
        ratios = {name: round(line["value"], 4) for name, line in summary["gate"].items()}
        return {**ratios, "true_turn": row["true_turn"], "abs_rel": row["abs_rel"]}


def _cpu() -> float:
    """CPU seconds of this process and of those that it has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
