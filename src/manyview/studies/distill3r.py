"""Distill3R's Table III in miniature: what the teacher's confidence is worth, with a student and a teacher of ours.

Every job distils the tiny student from answers of one network teacher about the same procedural rooms, and is judged
view by view against the true depth of rooms that neither has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from manyview.cache.build import build
from manyview.data.manifest import Manifest
from manyview.data.synthetic import write_scenes
from manyview.evaluation.base import evaluate
from manyview.evaluation.recon_per_view import ReconPerView
from manyview.studies.base import STUDIES, Question, Study, Variant, trained
from manyview.teachers.reconstructors import ReconstructorTeacher

TABLE_3 = "Table III (accuracy x100, DTU)"
SIZE = (112, 154)


@dataclass(frozen=True)
class Distill3ROptions:
    """What every job shares."""

    steps: int = 600
    """Optimiser steps of a run."""
    teacher: str = "manyview-small"
    """Zoo name or directory of the reconstructor that is asked once."""
    scenes: int = 160
    """Rooms it is asked about."""
    unseen: int = 24
    """Rooms that students are judged on."""


@STUDIES.add("distill3r")
class Distill3RStudy(Study):
    name, line = "distill3r", "Distill3R's loss terms: labels only, no weighting, full"
    score = "accuracy"
    columns: ClassVar[dict[str, str]] = {
        "completeness": "completeness ×100",
        "scale_factor": "scale factor",
        "abs_rel": "AbsRel",
    }
    Options = Distill3ROptions
    variants = (
        Variant(name="full", line="weighted by the teacher's confidence, which is learned too", paper=1.25),
        Variant(
            name="no-weighting",
            line="the teacher's confidence is learned and weights nothing",
            settings=("method.weighting=none",),
            paper=1.42,
        ),
        Variant(
            name="labels-only",
            line="weighted by the student's own confidence, which nobody teaches",
            settings=("method.weighting=student", "method.confidence=false"),
            paper=1.37,
        ),
    )
    questions = (
        Question(name="distilled confidence", better="full", worse="labels-only", source=TABLE_3),
        Question(name="weighting", better="full", worse="no-weighting", source=TABLE_3),
    )

    def prepare(self, out: Path) -> None:
        options = self.options
        self.train = write_scenes(out / "rooms", scenes=options.scenes, views=4, size=SIZE, seed=1200)
        self.test = write_scenes(out / "unseen", scenes=options.unseen, views=4, size=SIZE, seed=991)
        self.cache = out / "answers"
        build(self.train, ReconstructorTeacher(options.teacher, name="teacher"), self.cache, views=4, size=SIZE)

    def notes(self, out: Path) -> list[str]:
        return [
            f"Students of the preset tiny, teacher {self.options.teacher}. Accuracy and completeness: median distances "
            "×100 after one scale a view (`manyview eval recon-per-view`), on unseen procedural rooms, in centimetres. "
            "The paper's numbers are of its 72M student on DTU: compare the order, not the size."
        ]

    def run(self, variant: Variant, seed: int, out: Path) -> dict[str, float]:
        from manyview import zoo

        settings = [*variant.settings, f"run.seed={seed}", f"run.steps={self.options.steps}"]
        folder = trained(
            "distill3r", out / "run", preset="tiny", data=[self.train], cache=self.cache, settings=settings
        )
        row = evaluate(ReconPerView(views=1), zoo.load(folder), Manifest.load(self.test), out / "judged")["rows"][0]
        return {key: row[key] for key in ("accuracy", *self.columns)}
