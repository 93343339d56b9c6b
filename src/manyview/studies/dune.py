"""DUNE's ablations (the poster's two tables) in miniature: three small teachers, one student no larger than any.

A job trains a student and asks the probe of each teacher's task. What counts is the share of the way from a student
with random weights to the teacher itself, the gap closed, on pictures that neither has seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyview.data.manifest import Manifest
from manyview.evaluation.base import evaluate
from manyview.evaluation.dense_fit import Schedule
from manyview.evaluation.tables import markdown_table
from manyview.files import read_json, write_json, write_text
from manyview.studies.base import STUDIES, Question, Study, Variant, trained
from manyview.studies.dune_losses import final_losses
from manyview.studies.teachers import TASKS, Task, draw_domains, train_teacher

SHARING = "poster, data sharing (ADE20K mIoU / NYUd RMSE: full 44.9 / 0.377, {})"
PROJECTOR = "poster, projector design (ADE20K mIoU / NYUd RMSE / BEDLAM PA-PVE: TP 44.9 / 0.377 / 68.3, {})"
ALONE = "alone-"
REFERENCES = "references.json"


@dataclass(frozen=True, kw_only=True)
class DuneOptions:
    """What all jobs of the study share."""

    steps: int = 400
    """Optimiser steps of every student."""
    teacher_steps: int = 400
    """Optimiser steps of every teacher."""
    images: int = 900
    """Training pictures of each of the three domains."""
    unseen: int = 400
    """Further pictures of each domain: seven tenths train the probes, the others test them."""
    size: int = 96
    """Side of the square pictures."""
    batch: int = 15
    """Pictures per step, of all domains together."""
    crops: int = 4
    """Fixed crops per picture, whose answers all variants share (60 kB each); 0: new crops, teachers asked live."""
    probe_steps: int = 400
    """Optimiser steps of every probe."""
    norm: bool = True
    """Probe tokens after the final norm, which distillation leaves untrained; false: as they leave the last block."""
    projected: bool = False
    """Also probe each task through the projector of its teacher."""
    encoder: tuple[str, ...] = ()
    """Encoder fields of teachers and student over the presets', as key=value."""


@STUDIES.add("dune")
class DuneStudy(Study):
    """One student of three teachers against what the poster's tables took away."""

    name, line = ("dune", "DUNE in miniature: can one encoder hold three unlike teachers? (paper: mIoU on ADE20K)")
    score = "unclosed"
    columns = {  # noqa: RUF012
        **{f"closed_{task.name}": f"gap closed, {task.name}" for task in TASKS},
        **{f"over_constant_{task.name}": f"loss / best constant, {task.name}" for task in TASKS},
    }
    Options = DuneOptions
    variants = (
        Variant(name="full", line="every teacher sees every image, transformer projectors", paper=44.9),
        Variant(name="none", line="teachers see their own domain only", settings=("method.sharing=none",), paper=41.6),
        Variant(
            name="generic", line="their own and the first domain", settings=("method.sharing=generic",), paper=40.1
        ),
        Variant(name="simple", line="projectors of one MLP (SP)", settings=("method.projector=simple",), paper=42.3),
        Variant(
            name="ladder",
            line="projectors with an MLP per block (LP)",
            settings=("method.projector=ladder",),
            paper=44.7,
        ),
        *(Variant(name=ALONE + task.name, line=f"a student of {task.name} alone, on its domain") for task in TASKS),
        Variant(name="float16", line="teachers' answers kept unquantised", settings=("method.keep=float16",)),
        Variant(name="pca", line="a quarter of the answers' channels kept", settings=("method.keep=pca",)),
        Variant(name="shuffled", line="control: answers to another image", settings=("method.shuffle=true",)),
    )
    questions = (
        Question(name="share all", better="full", worse="none", source=SHARING.format("none 41.6 / 0.426")),
        Question(name="share all", better="full", worse="generic", source=SHARING.format("generic 40.1 / 0.416")),
        Question(
            name="attend when projecting",
            better="full",
            worse="simple",
            source=PROJECTOR.format("SP 42.3 / 0.413 / 73.1"),
        ),
        Question(
            name="attend when projecting",
            better="full",
            worse="ladder",
            source=PROJECTOR.format("LP 44.7 / 0.384 / 78.2"),
        ),
        Question(name="quantising costs something", better="float16", worse="full", source="ours: int8 answers"),
        Question(name="the answers matter", better="full", worse="shuffled", source="control"),
    )

    def prepare(self, out: Path) -> None:
        """Draw the domains, train the teachers, judge them and random weights: references.json."""
        options, self.out = self.options, out
        self.data = draw_domains(out, images=options.images, unseen=options.unseen, side=options.size)
        settings = [
            f"method.image_size={options.size}",
            f"run.steps={options.teacher_steps}",
            f"method.encoder=[{', '.join(self.encoder)}, cls_token=false]",
        ]
        self.teachers = {task.name: train_teacher(task, self.data[task.name][0], out, settings) for task in TASKS}
        if not (out / REFERENCES).is_file():
            references = self._references(out)
            write_json(out / REFERENCES, references)
            write_text(out / "references.md", describe(references))
        self.references = _read(out)

    @property
    def encoder(self) -> tuple[str, ...]:
        """Encoder fields: the tiny presets' and the study's own."""
        side = self.options.size // 8
        shape = ("dim=128", "depth=6", "heads=2", "patch_size=8", "registers=0", "layer_scale=null")
        return (*shape, f"positions={side}", *self.options.encoder)

    def run(self, variant: Variant, seed: int, out: Path) -> dict[str, float]:
        from manyview import zoo

        alone = [task for task in TASKS if variant.name == ALONE + task.name]
        tasks = alone or list(TASKS)
        student: Any = zoo.load(self._train(variant, tasks, seed, out / "run"))
        numbers: dict[str, float] = {}
        for task in TASKS:
            project = task.name if self.options.projected and task in tasks else ""
            rows = self._probe(student, task, out / "probes" / task.name, norm=self.options.norm, project=project)
            for method, value in rows.items():
                ending = "" if method == "model" else f"_{method}"
                numbers[f"{task.column}_{task.name}{ending}"] = value
                numbers[f"closed_{task.name}{ending}"] = self.closed(task, value)
        numbers["unclosed"] = 1 - sum(numbers[f"closed_{task.name}"] for task in TASKS) / len(TASKS)
        for task in tasks:
            unseen = Manifest.load(self.data[task.name][1])
            losses = final_losses(student, task.name, self.teachers[task.name], unseen, self.options.size)
            numbers |= {f"{key}_{task.name}": value for key, value in losses.items()}
            numbers[f"over_constant_{task.name}"] = losses["loss"] / losses["constant"]
        return numbers

    def notes(self, out: Path) -> list[str]:
        """The references, and how large student and teachers are."""
        if not (out / REFERENCES).is_file():
            return []
        from manyview import zoo

        folders = {task.name: out / "teachers" / task.name / "model" for task in TASKS}
        students = sorted((out / "full").glob("seed-*/run/model"))
        folders |= dict.fromkeys(["the student with its projectors"][: len(students)], *students[:1])
        there = {name: zoo.load(folder) for name, folder in folders.items() if (folder / "config.json").is_file()}
        counts = (f"{name} {sum(p.numel() for p in model.parameters()):,}" for name, model in there.items())
        return [
            "Teachers, each trained from nothing on its own domain, judged by a linear probe of every task on pictures "
            "that nothing was trained on:",
            describe(_read(out)).strip(),
            f"Parameters: {', '.join(counts)}.",
        ]

    def closed(self, task: Task, value: float) -> float:
        """Share of the way from random weights to the task's own teacher."""
        teacher, random = (self.references[name][task.name] for name in (task.name, "random"))
        return task.gain(value, random) / (task.gain(teacher, random) or math.nan)

    def _train(self, variant: Variant, tasks: Sequence[Task], seed: int, folder: Path) -> Path:
        options = self.options
        teachers = ", ".join(f"{task.name}={self.teachers[task.name]}" for task in tasks)
        settings = [
            f"method.teachers=[{teachers}]",
            f"method.encoder=[{', '.join(self.encoder)}]",
            f"method.image_size={options.size}",
            f"method.crops={options.crops}",
            "method.drop=0.5",
            f"run.steps={options.steps}",
            f"run.batch={options.batch}",
            f"run.seed={seed}",
            *variant.settings,
        ]
        data = [self.data[task.name][0] for task in tasks]
        kept = any(text.startswith("method.keep=") for text in variant.settings)
        pictures = variant.name if len(tasks) == 1 or kept else "all"
        cache = self.out / "answers" / f"seed-{seed}-{pictures}" if options.crops else None
        return trained("dune", folder, preset="tiny", data=data, cache=cache, settings=settings)

    def _probe(
        self, model: Any, task: Task, out: Path, *, norm: bool = True, project: str = "", baselines: bool = False
    ) -> dict[str, float]:
        """The task's number for every kind of token."""
        options = self.options
        fit = Schedule(steps=options.probe_steps)
        protocol = task.probe(options.size, fit, norm=norm, project=project, baselines=baselines)
        summary = evaluate(protocol, model, Manifest.load(self.data[task.name][1]), out)
        return {row["method"]: row[task.column] for row in summary["rows"]}

    def _references(self, out: Path) -> dict[str, dict[str, float]]:
        """Every task's number for every teacher, a random student, raw pixels and a constant."""
        from manyview import zoo
        from manyview.config import read_assignments

        references: dict[str, dict[str, float]] = {task.name: {} for task in TASKS}
        references |= {"random": {}, "pixels": {}, "constant": {}}
        student = zoo.build(
            "dinov2-vits14", seed=1, image_size=self.options.size, **read_assignments(self.encoder, "encoder")
        )
        for task in TASKS:
            folder = out / "references" / task.name
            rows = self._probe(student.eval(), task, folder / "random", baselines=True)
            references["random"][task.name] = (rows["model"] + rows["untrained"]) / 2  # two draws
            references["pixels"][task.name], references["constant"][task.name] = (rows["pixels"], rows["constant"])
            for name, directory in self.teachers.items():
                references[name][task.name] = self._probe(zoo.load(directory), task, folder / name)["model"]
        return references


def _read(out: Path) -> dict[str, dict[str, float]]:
    references: dict[str, dict[str, float]] = read_json(out / REFERENCES, mend="remove it and go on")
    return references


def describe(references: dict[str, dict[str, float]]) -> str:
    """The references as a table, and whether every teacher is one."""
    heads = [f"{task.name} ({task.column} {'↑' if task.higher else '↓'})" for task in TASKS]
    rows = ([name, *(f"{numbers[task.name]:.3f}" for task in TASKS)] for name, numbers in references.items())
    lines = [markdown_table(["linear probe of", *heads], rows), ""]
    for task in TASKS:
        own, random = references[task.name][task.name], references["random"][task.name]
        others = [references[t.name][task.name] for t in TASKS if t is not task]
        best = (max if task.higher else min)(others)
        lines.append(
            f"- {task.name}: {task.gain(own, random) / random:+.0%} on random weights, "
            f"{task.gain(own, best) / best:+.0%} on the best other teacher"
        )
    return "\n".join(lines) + "\n"
