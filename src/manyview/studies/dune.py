"""DUNE's ablations (the poster's two tables) in miniature: three small teachers, one student no larger than any.

A job trains a student and asks the probe of each teacher's task. What counts is the share of the way from a student
with random weights to the teacher itself, the gap closed, on pictures that neither has seen. A task whose gap is closed
by the control, which is told the answers to other pictures, says nothing of what is distilled, and does not count.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.evaluation.base import evaluate
from manyview.evaluation.dense_fit import Schedule
from manyview.evaluation.tables import markdown_table
from manyview.files import read_json, write_json, write_text
from manyview.losses.distillation import token_loss
from manyview.models.dune.network import Dune
from manyview.models.family import encoder_of
from manyview.studies.base import STUDIES, Question, Results, Study, Variant, read_results, trained
from manyview.studies.teachers import TASKS, Task, draw_domains, train_teacher

SHARING = "poster, data sharing (ADE20K mIoU / NYUd RMSE: full 44.9 / 0.377, {})"
PROJECTOR = "poster, projector design (ADE20K mIoU / NYUd RMSE / BEDLAM PA-PVE: TP 44.9 / 0.377 / 68.3, {})"
ALONE = "alone-"
REFERENCES = "references.json"
GENERIC = ("method.sharing=generic", f"method.generic={TASKS[0].name}")
CONTROL = "shuffled"
CLOSED = 0.5
"""Share of a task's gap from which on the control closes it."""
IMAGES = 48
"""Unseen pictures on which losses are measured."""


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
        **{f"over_constant_{task.name}": f"loss / best constant on fresh pictures, {task.name}" for task in TASKS},
    }
    details = {  # noqa: RUF012
        key.format(task.name): f"{words} on fresh pictures, {task.name}"
        for task in TASKS
        for key, words in (("loss_{}", "loss"), ("constant_{}", "loss of the best constant"))
    }
    Options = DuneOptions
    variants = (
        Variant("full", "every teacher sees every image, transformer projectors", paper=44.9),
        Variant("none", "teachers see their own domain only", ("method.sharing=none",), 41.6),
        Variant("generic", f"their own and the domain of {TASKS[0].name}", GENERIC, 40.1),
        Variant("simple", "projectors of one MLP (SP)", ("method.projector=simple",), 42.3),
        Variant("ladder", "projectors with an MLP per block (LP)", ("method.projector=ladder",), 44.7),
        *(Variant(ALONE + task.name, f"a student of {task.name} alone, on its domain") for task in TASKS),
        Variant("float16", "teachers' answers kept unquantised", ("method.keep=float16",)),
        Variant("pca", "a quarter of the answers' channels kept", ("method.keep=pca",)),
        Variant(CONTROL, "control: answers to another image", ("method.shuffle=true",)),
    )
    questions = (
        Question("share all", "full", "none", SHARING.format("none 41.6 / 0.426")),
        Question("share all", "full", "generic", SHARING.format("generic 40.1 / 0.416")),
        Question("attend when projecting", "full", "simple", PROJECTOR.format("SP 42.3 / 0.413 / 73.1")),
        Question("attend when projecting", "full", "ladder", PROJECTOR.format("LP 44.7 / 0.384 / 78.2")),
        Question("quantising costs something", "float16", "full", "ours: int8 answers"),
        Question("the answers matter", "full", CONTROL, "control"),
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

    def judged(self, results: Results) -> Results:
        """The score over the tasks that inform alone, once the control is there."""
        counting = [task for task in TASKS if task.name not in uninformative(results)]
        if 0 < len(counting) < len(TASKS):
            for run in (run for runs in results.values() for run in runs.values()):
                run["unclosed"] = 1 - sum(run[f"closed_{task.name}"] for task in counting) / len(counting)
        return results

    def notes(self, out: Path) -> list[str]:
        """What counts, the references, and how large student and teachers are."""
        if not (out / REFERENCES).is_file():
            return []
        results = read_results(self, out)
        without = uninformative(results)
        from manyview import zoo

        folders = {task.name: out / "teachers" / task.name / "model" for task in TASKS}
        students = sorted((out / "full").glob("seed-*/run/model"))
        folders |= dict.fromkeys(["the student with its projectors"][: len(students)], *students[:1])
        there = {name: zoo.load(folder) for name, folder in folders.items() if (folder / "config.json").is_file()}
        counts = [f"{name} {sum(p.numel() for p in model.parameters()):,}" for name, model in there.items()]
        options = self.options
        return [
            f"One budget for all: students learn for {options.steps} steps of {options.batch} pictures, teachers for "
            f"{options.teacher_steps}, from {options.images} pictures of {options.size}x{options.size} of each domain; "
            f"probes for {options.probe_steps} steps.",
            "Losses and probes are on fresh pictures: of the domains, but none that a teacher or student learned from.",
            *([told(without)] if results[CONTROL] else []),
            "Teachers, each trained from nothing on its own domain, judged by a linear probe of every task on pictures "
            "that nothing was trained on:",
            describe(_read(out)).strip(),
            *([f"Parameters: {', '.join(counts)}."] if counts else []),
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


def uninformative(results: Results) -> dict[str, float]:
    """Task -> share of its gap that the control closes, of the tasks where that is CLOSED or more."""
    runs = list(results.get(CONTROL, {}).values())
    shares = {t.name: statistics.fmean(run[f"closed_{t.name}"] for run in runs) for t in TASKS} if runs else {}
    return {name: share for name, share in shares.items() if share >= CLOSED}


def told(without: dict[str, float]) -> str:
    """Which tasks count, for the page."""
    if not without:
        return f"The control closes less than {CLOSED:.0%} of every task's gap: all of them count."
    tasks = ", ".join(f"{name} ({share:.0%})" for name, share in without.items())
    if len(without) == len(TASKS):
        return f"Uninformative, since students that were told the answers to other pictures close their gaps: {tasks}."
    return (
        f"Uninformative: {tasks}. So much of the gap is closed by students that were told the answers to other "
        "pictures. These tasks are shown, and count neither in `unclosed` nor in a verdict."
    )


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


@torch.no_grad()
def final_losses(
    student: Dune, name: str, teacher: Path, data: Manifest, side: int, *, images: int = IMAGES
) -> dict[str, float]:
    """`loss` of the student, of `zero` (the mean of standardised features) and of the best `constant` vector.

    Over the patches of unseen pictures, the teacher's features standardised by the statistics of the training.
    """
    from manyview import zoo

    network = encoder_of(zoo.load(teacher))
    frames = list(range(0, len(data), max(1, len(data) // images)))[:images]
    pictures = torch.cat([load_views(data, [index], (side, side), depth=False).images[0] for index in frames])
    answers, targets = [], []
    for part in pictures.split(8):
        blocks = student.encode(part, norm=False, layers=student.projected_layers)
        answers.append(student.project(blocks, name).patches)
        targets.append(student.standardise(network.encode(part), name).patches)
    answer, target = torch.cat(answers), torch.cat(targets)
    said = {"loss": answer, "zero": torch.zeros_like(target), "constant": best_constant(target).expand_as(target)}
    return {key: float(token_loss(values, target)["total"].mean()) for key, values in said.items()}


def best_constant(target: Tensor, steps: int = 60) -> Tensor:
    """The vector (D,) of least loss when it is said for all tokens (N, T, D), by gradient descent."""
    rows = target.flatten(0, 1)[:: max(1, target.shape[0] * target.shape[1] // 2000)]
    guess = rows.median(0).values.clone().requires_grad_()
    optimiser = torch.optim.Adam([guess], lr=0.02)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            token_loss(guess.expand_as(rows)[None], rows[None])["total"].mean().backward()
            optimiser.step()
    return guess.detach()
