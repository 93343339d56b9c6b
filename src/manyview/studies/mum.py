"""MuM's ablations (Tables 10 and 11) in miniature: the same tiny encoder, the same images, as many steps.

Every job trains, then asks the linear matching probe on rooms that no job has seen, on real frames if there are any,
and how much the other views of a scene help to complete a view. Frames differ in exposure, white balance and gamma, in
training and in the probe, since otherwise the mean colours of patches match without anything learned.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyview.data.manifest import Manifest
from manyview.evaluation.base import evaluate
from manyview.evaluation.masked_views import MaskedViews
from manyview.evaluation.matching_protocols import MatchingProbe
from manyview.evaluation.probe import Sweep
from manyview.files import parse_json, read_json, write_json
from manyview.recipes.base import RECIPES
from manyview.studies.base import BAR, RESULT, SCENES, STUDIES, Question, Study, Variant, trained

TABLE_10 = "Table 10 (EPE, 2 to 12 views)"
TABLE_11 = "Table 11 (EPE; 10.6 with 2 to 24 views)"
CROCO = (
    *("method.min_views=2", "method.max_views=2", "method.reference=true"),
    *("method.mask_ratio=0.9", "method.single=0"),
)
NORMALISED = ("method.normalise=true",)
CROPS = ("method.crop=random", "method.flip=true")
LENGTHS = "section 3.4 (EPE by most views: 2 to 6 12.8, 2 to 12 12.5, 2 to 24 10.6)"
UNTRAINED = {
    "colours": "mean colour and position of the patch, nothing learned but the probe",
    "balanced": "the same, colours balanced within the frame",
    "pixels": "raw pixels of the patch",
    "untrained": "the encoder with random weights",
    "zero_flow": "zero flow, no probe",
}
"""Methods of the probe that need no pretraining, and what they are."""
SAME = "-same-light"
CHANGED, UNCHANGED = tuple(UNTRAINED), tuple(name + SAME for name in UNTRAINED)
TRAIN_SEED, TEST_SEED = 1000, 950_000
"""Of the rooms that are rendered; those of 900000, which trials were judged on before, take no part."""


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
    views: tuple[int, int] = (4, 8)
    """Fewest and most views of a scene, where a variant does not say."""
    gain: float = 0.35
    """Exposure and white balance of frames, in training and in the probe: channels change by up to this share."""
    gamma: float = 0.5
    """And their exponents: exp(-gamma) to exp(gamma)."""
    steps: int = 2500
    """Optimiser steps of every job."""
    preset: str = "tiny"
    """Preset of the recipe that the variants change."""
    pairs: int = 500
    """Test pairs of each probe."""
    probe_steps: int = 1600
    """Optimiser steps of the probes."""


def _light(name: str, line: str, settings: tuple[str, ...] = ()) -> Variant:
    """A control whose frames are all exposed alike, in training and in the probe."""
    return Variant(name + SAME, f"control: {line}, all frames exposed alike", settings, beside=UNCHANGED)


def _variant(name: str, line: str, settings: tuple[str, ...] = (), paper: float | None = None) -> Variant:
    return Variant(name, line, settings, paper, beside=CHANGED)


ALONE = ("method.across=nowhere",)
PAIRS = ("method.min_views=2", "method.max_views=2")


@STUDIES.add("mum")
class MumStudy(Study):
    """Multi-view masked autoencoding against what the paper took away from it."""

    name, line = "mum", "MuM in miniature: what makes features match across views?"
    score = "epe"
    columns = {  # noqa: RUF012
        "percent": "EPE, % of the side",
        "below": "px below the best without training",
        "real_epe": "EPE on real frames",
        "views_other_scene": "% worse beside another scene",
        "views_apart": "% worse beside another place",
    }
    Options = MumOptions
    variants = (
        _variant(
            "multi-view", "the tiny preset, 4 to 8 views: 75 % hidden, the decoder attends across views", (), 12.5
        ),
        _variant("mae", "the same images and steps, no attention across views", ALONE, 18.7),
        _light("multi-view", "multi-view"),
        _light("mae", "mae", ALONE),
        _variant("croco", "pairs, one view whole, 90 % of the other hidden", CROCO, 41.4),
        _variant("two-views", "2 views", PAIRS),
        _variant("two-to-four", "2 to 4 views", ("method.min_views=2", "method.max_views=4")),
        _variant("mask-65", "65 % hidden", ("method.mask_ratio=0.65",), 13.3),
        _variant("mask-85", "85 % hidden", ("method.mask_ratio=0.85",), 12.7),
        _variant("reference", "the first view hides nothing", ("method.reference=true",), 11.9),
        _variant("normalised", "patches normalised by their own mean and spread, as in the paper", NORMALISED),
        _variant("crops", "random crops and mirrors, frame by frame, as released", CROPS),
        _variant("encoder", "attention across views in the encoder", ("method.across=encoder",), 16.7),
        _variant("absolute", "learned absolute positions", ("method.positions=absolute",), 12.1),
    )
    untrained = (
        *(Variant(name, line) for name, line in UNTRAINED.items()),
        *(Variant(name + SAME, f"{line}; all frames exposed alike") for name, line in UNTRAINED.items()),
    )
    questions = (
        Question("it learned to match", "multi-view", BAR, "ours: what no training reaches"),
        Question("many views", "multi-view", "mae", TABLE_10),
        Question("many views, same light", "multi-view" + SAME, "mae" + SAME, "control: colours match by themselves"),
        Question("more than pairs", "multi-view", "croco", TABLE_10),
        Question("longer than two", "multi-view", "two-views", LENGTHS),
        Question("longer than four", "multi-view", "two-to-four", LENGTHS),
        Question("not less hidden", "multi-view", "mask-65", TABLE_11),
        Question("not more hidden", "multi-view", "mask-85", TABLE_11),
        Question("no reference", "multi-view", "reference", TABLE_11),
        Question("normalised target", "normalised", "multi-view", TABLE_11),
        Question("decoder", "multi-view", "encoder", TABLE_11),
        Question("rotary", "multi-view", "absolute", TABLE_11),
    )

    def prepare(self, out: Path) -> None:
        from manyview.data.synthetic import write_scenes

        self.out, size = out, (112, 144)
        self.train = list(self.options.train) or [
            str(write_scenes(out / "rooms", scenes=500, views=12, size=size, seed=TRAIN_SEED))
        ]
        self.test = self.options.test or str(
            write_scenes(out / "unseen", scenes=120, views=8, size=size, seed=TEST_SEED)
        )

    def notes(self, out: Path) -> list[str]:
        options = self.options
        real = f"; real frames are those of {options.real}" if options.real else ""
        rooms = (
            "The rooms that judge were rendered for this study and judged nothing before: views, changes, learning "
            "rate and steps were chosen in trials on other rooms, and each probe's rate and moment on training rooms."
        )
        return [
            "EPE: mean end-point error in pixels of a linear matching probe (`manyview eval matching-probe`) on pairs "
            f"of unseen rooms{real}. Every frame has its own exposure and white balance (channels ±{options.gain:.0%}) "
            f"and gamma (exp(±{options.gamma:g})), in training and in the probe, but for the controls in the same "
            "light. Views: by how many percent a completion is worse beside views of another scene, or of another "
            "place of the room, than beside its own (`manyview eval masked-views`, frames as they are).",
            *([] if options.test else [rooms]),
        ]

    def run(self, variant: Variant, seed: int, out: Path) -> dict[str, float]:
        from manyview import zoo

        options, changes = self.options, self._changes(variant)
        settings = [
            f"method.min_views={options.views[0]}",
            f"method.max_views={options.views[1]}",
            *(f"method.{name}={value}" for name, value in changes.items()),
            *variant.settings,
            f"run.seed={seed}",
            f"run.steps={options.steps}",
        ]
        if options.weights:
            settings.append(f"method.weights={json.dumps(options.weights)}")
        self._measure_references(variant)
        folder = trained("mum", out / "run", preset=options.preset, data=self.train, settings=settings)
        model = zoo.load(folder)
        numbers = self._probe(model, out, changes)["model"]
        best = min(self._reference(name)["epe"] for name in variant.beside)
        return {**numbers, "below": best - numbers["epe"], **self._views(model, variant, out / "views")}

    def _changes(self, variant: Variant) -> dict[str, float]:
        same = variant.beside == UNCHANGED
        return {"gain": 0.0, "gamma": 0.0} if same else {"gain": self.options.gain, "gamma": self.options.gamma}

    def _measure_references(self, variant: Variant) -> None:
        """Judge what needs no training as the variant is judged, unless another job has."""
        folder = {name: self.out / name / "seed-0" for name in variant.beside}
        if all((path / RESULT).is_file() for path in folder.values()):
            return
        from manyview import zoo

        config = RECIPES.get("mum").presets()[self.options.preset].method
        model = zoo.build(config.model, seed=0, size=config.size, **config.student).eval()
        rows = self._probe(
            model,
            self.out / f"references{variant.beside[0].removeprefix('colours')}",
            self._changes(variant),
            baselines=True,
        )
        for name, method in zip(variant.beside, UNTRAINED, strict=True):
            write_json(folder[name] / SCENES, rows[method].pop(SCENES))
            write_json(folder[name] / RESULT, rows[method])

    def _reference(self, name: str) -> dict[str, float]:
        found: dict[str, float] = read_json(self.out / name / "seed-0" / RESULT, mend="remove it and go on")
        return found

    def _probe(
        self, model: Any, out: Path, changes: dict[str, float], *, baselines: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Of the model and, with baselines, of what needs no training: end-point errors; SCENES of the unseen rooms.

        The model's scenes go to their file, those of the others are told.
        """
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for prefix, data in (("", self.test), ("real_", self.options.real)):
            if not data:
                continue
            folder = out / ("real" if prefix else "probe")
            protocol = MatchingProbe(
                train=Manifest.load(self.train[0]),
                pairs=self.options.pairs,
                sweep=Sweep(steps=self.options.probe_steps),
                baselines=baselines,
                gain=changes["gain"],
                gamma=changes["gamma"],
            )
            summary = evaluate(protocol, model, Manifest.load(data), folder)
            for row in summary["rows"]:
                found[row["method"]][f"{prefix}epe"] = row["epe"]
                found[row["method"]][f"{prefix}percent"] = 100 * row["epe"] / max(summary["size"])
            if not prefix:
                for method, scenes in of_scenes(folder / "results.jsonl").items():
                    found[method][SCENES] = scenes
        if not baselines:
            write_json(out / SCENES, found["model"].pop(SCENES))
        return found

    def _views(self, model: Any, variant: Variant, out: Path) -> dict[str, float]:
        """By how many percent a completion is worse beside views of another scene, or that show another place."""
        protocol = MaskedViews(
            reference="method.reference=true" in variant.settings, normalise="method.normalise=true" in variant.settings
        )
        summary = evaluate(protocol, model, Manifest.load(self.test), out)
        return {f"views_{name}": d["percent"] for name, d in summary["differences"].items() if d["items"]}


def of_scenes(results: Path) -> dict[str, dict[str, list[float]]]:
    """Method -> scene -> sum of the end-point errors of its pairs, and their number, from a file of results."""
    sums: dict[str, dict[str, list[float]]] = {}
    for line in results.read_text(encoding="utf-8").splitlines():
        row = parse_json(line)
        if "failed" not in row:
            of = sums.setdefault(row["method"], {}).setdefault(row["scene"], [0.0, 0.0])
            of[0], of[1] = of[0] + row["epe"], of[1] + 1
    return sums
