"""MuM's ablations (Tables 10 and 11) in miniature: the same tiny encoder, the same images, as many steps.

Every job trains, then asks the linear matching probe on rooms that no job has seen, on real frames if there are any,
and how much the other views of a scene help to complete a view.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyview.data.manifest import Manifest
from manyview.evaluation.base import Work, evaluate
from manyview.evaluation.masked_views import MaskedViews
from manyview.evaluation.matching_protocols import MatchingProbe
from manyview.evaluation.probe import Sweep
from manyview.files import read_json, write_json
from manyview.models.model import weights_digest
from manyview.studies.base import STUDIES, Question, Study, Variant, trained

TABLE_10 = "Table 10 (EPE, 2 to 12 views)"
TABLE_11 = "Table 11 (EPE; 10.6 with 2 to 24 views)"
CROCO = (
    *("method.min_views=2", "method.max_views=2", "method.reference=true"),
    *("method.mask_ratio=0.9", "method.single=0"),
)
NORMALISED = ("method.normalise=true",)
CROPS = ("method.crop=random", "method.flip=true")


@dataclass(frozen=True, kw_only=True)
class MumOptions:
    """What all jobs of the study share."""

    train: tuple[str, ...] = ()
    """Manifests to pretrain on, the first one also to train probes on; empty: 500 procedural scenes, rendered first."""
    test: str = ""
    """Manifest of unseen scenes with depth and poses; empty: 120 procedural scenes, rendered first."""
    real: str = ""
    """Manifest of real frames with depth and poses, for a second probe; empty: none."""
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> how often it is drawn, in proportion; empty: all alike."""
    steps: int = 1000
    """Optimiser steps of every job."""
    preset: str = "tiny"
    """Preset of the recipe that the variants change."""
    pairs: int = 500
    """Test pairs of each probe."""
    probe_steps: int = 1600
    """Optimiser steps of the probes."""


@STUDIES.add("mum")
class MumStudy(Study):
    """Multi-view masked autoencoding against what the paper took away from it."""

    name, line = "mum", "MuM in miniature: what makes features match across views?"
    score = "epe"
    columns = {  # noqa: RUF012
        "gain": "share below random weights",
        "real_epe": "EPE on real frames",
        "views_other_scene": "% worse beside another scene",
        "views_apart": "% worse beside another place",
    }
    details = {  # noqa: RUF012
        "epe_untrained": "random weights",
        "epe_pixels": "raw pixels",
        "epe_zero_flow": "zero flow",
        "real_epe_untrained": "random weights, real",
        "real_epe_pixels": "raw pixels, real",
        "real_epe_zero_flow": "zero flow, real",
    }
    Options = MumOptions
    variants = (
        Variant("multi-view", "the tiny preset: 75 % hidden, the decoder attends across views", paper=12.5),
        Variant("mae", "the same images and steps, no attention across views", ("method.across=nowhere",), 18.7),
        Variant("croco", "pairs, one view whole, 90 % of the other hidden", CROCO, 41.4),
        Variant("mask-65", "65 % hidden", ("method.mask_ratio=0.65",), 13.3),
        Variant("mask-85", "85 % hidden", ("method.mask_ratio=0.85",), 12.7),
        Variant("reference", "the first view hides nothing", ("method.reference=true",), 11.9),
        Variant("normalised", "patches normalised by their own mean and spread, as in the paper", NORMALISED),
        Variant("crops", "random crops and mirrors, frame by frame, as released", CROPS),
        Variant("encoder", "attention across views in the encoder", ("method.across=encoder",), 16.7),
        Variant("absolute", "learned absolute positions", ("method.positions=absolute",), 12.1),
    )
    questions = (
        Question("many views", "multi-view", "mae", TABLE_10),
        Question("more than pairs", "multi-view", "croco", TABLE_10),
        Question("not less hidden", "multi-view", "mask-65", TABLE_11),
        Question("not more hidden", "multi-view", "mask-85", TABLE_11),
        Question("no reference", "multi-view", "reference", TABLE_11),
        Question("normalised target", "normalised", "multi-view", TABLE_11),
        Question("decoder", "multi-view", "encoder", TABLE_11),
        Question("rotary", "multi-view", "absolute", TABLE_11),
    )

    def prepare(self, out: Path) -> None:
        from manyview.data.synthetic import write_scenes

        self.references, size = out / "references", (112, 144)
        self.train = list(self.options.train) or [
            str(write_scenes(out / "rooms", scenes=500, views=12, size=size, seed=1000))
        ]
        self.test = self.options.test or str(write_scenes(out / "unseen", scenes=120, views=8, size=size, seed=900_000))

    def notes(self, out: Path) -> list[str]:
        real = f"; real frames are those of {self.options.real}" if self.options.real else ""
        return [
            "EPE: mean end-point error in pixels of a linear matching probe (`manyview eval matching-probe`) on pairs "
            f"of unseen rooms{real}. Views: by how many percent a "
            "completion is worse beside views of another scene, or of another place of the room, than beside its own "
            "(`manyview eval masked-views`)."
        ]

    def run(self, variant: Variant, seed: int, out: Path) -> dict[str, float]:
        from manyview import zoo

        options = self.options
        settings = [*variant.settings, f"run.seed={seed}", f"run.steps={options.steps}"]
        if options.weights:
            settings.append(f"method.weights={json.dumps(options.weights)}")
        folder = trained("mum", out / "run", preset=options.preset, data=self.train, settings=settings)
        model = zoo.load(folder)
        numbers = self._probe(model, options.test or self.test, out / "probe", "")
        if options.real:
            numbers |= self._probe(model, options.real, out / "real", "real_")
        return numbers | self._views(model, variant, out / "views")

    def _probe(self, model: Any, data: str, out: Path, prefix: str) -> dict[str, float]:
        """End-point errors of the probe, and what random weights, raw pixels and no motion give.

        Jobs whose encoders start alike share those references.
        """
        start = weights_digest(model.untrained(0).encoder)
        references = self.references / f"{prefix}{start[:12]}.json"
        begun = Work.folder(out).read() is not None  # an interrupted job goes on as it began
        baselines = Work.open(out).settings["baselines"] if begun else not references.is_file()
        protocol = MatchingProbe(
            train=Manifest.load(self.train[0]),
            pairs=self.options.pairs,
            sweep=Sweep(steps=self.options.probe_steps),
            baselines=baselines,
        )
        rows = evaluate(protocol, model, Manifest.load(data), out)["rows"]
        errors = {row["method"]: row["epe"] for row in rows}
        if not baselines:
            errors = {**read_json(references, mend="remove it and go on"), "model": errors["model"]}
        elif not references.is_file():
            write_json(references, {name: value for name, value in errors.items() if name != "model"})
        named = {f"{prefix}{'epe' if name == 'model' else f'epe_{name}'}": value for name, value in errors.items()}
        return {**named, f"{prefix}gain": 1 - errors["model"] / errors["untrained"]}

    def _views(self, model: Any, variant: Variant, out: Path) -> dict[str, float]:
        """By how many percent a completion is worse beside views of another scene, or that show another place."""
        protocol = MaskedViews(
            reference="method.reference=true" in variant.settings, normalise="method.normalise=true" in variant.settings
        )
        summary = evaluate(protocol, model, Manifest.load(self.test), out)
        return {f"views_{name}": d["percent"] for name, d in summary["differences"].items() if d["items"]}
