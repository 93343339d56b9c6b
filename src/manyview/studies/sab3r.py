"""SAB3R's Table 3 in miniature: points with meaning in one pass, or by a reconstructor and a student of single photos.

Every job trains features in the space of words from the same streamed rooms, picture for picture, and is judged by Map
and Locate on groups of 2, 3 and 4 photos of rooms that nobody has seen. All points are those of one reconstructor, but
for the variant in which it goes on learning.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from manyview.config import parse_size
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.synthetic import write_scenes
from manyview.evaluation.base import evaluate
from manyview.evaluation.map_and_locate import SIZES, MapAndLocate, features_alone, nearest_classes
from manyview.evaluation.tables import markdown_table
from manyview.files import parse_json, write_text
from manyview.pipelines.answers import told
from manyview.studies.base import RESULT, STUDIES, Question, Study, Variant, trained

TABLE_3 = "Table 3 (mIoU)"
MODEL, RECONSTRUCTOR, SPACE = "manyview-small-words", "manyview-small", "minilm"
TIMES, GROUPS, REPEATS = "times.json", 4, 3
PAPER = {
    "Baseline (MASt3R and FeatUp)": ((4.57, 18.10, 3.92), (6.03, 21.26, 22.74), (5.12, 19.31, 36.72)),
    "SAB3R (C)": ((17.26, 41.11, 1.92), (22.83, 53.19, 7.49), (19.92, 48.07, 9.97)),
    "SAB3R (CD)": ((17.50, 42.72, 2.54), (22.94, 52.86, 8.67), (20.31, 46.26, 12.15)),
}
"""mIoU, accuracy and seconds for 2, 3 and 4 views."""
OWN = ("method.alone=true",)
UNFROZEN = "one-pass-unfrozen"


@dataclass(frozen=True)
class Sab3ROptions:
    """What every job shares."""

    steps: int = 160
    """Optimiser steps of a run."""
    scenes: int = 1
    """Rooms of a step, with eight pictures each."""
    size: str = "112x154"
    """Rows x columns of the photos that are judged, and of most that are learned from."""
    unseen: int = 10
    """Unseen rooms that it is judged on."""
    sets: int = 1
    """Groups of each size that are judged in a room."""
    workers: int = 0
    """Processes that render beside the one that trains."""


@STUDIES.add("sab3r")
class Sab3RStudy(Study):
    name, line = "sab3r", "Map and Locate: meaning in one pass, or by a second network"
    score = "1 - mIoU"
    columns: ClassVar[dict[str, str]] = {
        **{f"miou_{count}": f"mIoU, {count} views" for count in SIZES},
        "accuracy": "accuracy",
        "shuffled": "mIoU, shuffled texts",
        "oracle": "mIoU, oracle",
        "cpu_seconds": "CPU seconds of training",
    }
    details: ClassVar[dict[str, str]] = {
        **{f"accuracy_{count}": f"accuracy, {count} views" for count in SIZES},
        "constant": "mIoU, commonest class",
        "noise": "mIoU, noise",
        "distance": "points to truth, oracle",
    }
    Options = Sab3ROptions
    variants = (
        Variant(name="one-pass", line="heads on the frozen reconstructor that sees all views", paper=0.80),
        Variant(
            name="pipelined",
            line="the reconstructor, and a student of the same layout, from random weights, on each photo alone",
            settings=(*OWN, "method.start=null", "method.freeze=nothing", "run.lr=5e-4"),
            paper=0.95,
        ),
        Variant(
            name="pipelined-warm",
            line="control: the same, but its heads are on the frozen reconstructor's weights: only company differs",
            settings=OWN,
        ),
        Variant(
            name=UNFROZEN,
            line="one pass, and the reconstructor learns points and features on, as the paper's does",
            settings=("method.freeze=nothing", "method.geometry=true", "run.lr=5e-4"),
        ),
    )
    questions = (
        Question(name="one pass", better="one-pass", worse="pipelined", source=TABLE_3),
        Question(name="views together", better="one-pass", worse="pipelined-warm", source="ours"),
        Question(name="all of it learns", better=UNFROZEN, worse="one-pass", source="ours"),
    )

    def prepare(self, out: Path) -> None:
        options = self.options
        size = parse_size(options.size, "size")
        scenes = {"scenes": options.unseen, "views": 8, "size": size, "seed": 994, "kind": "room"}
        self.test = write_scenes(out / "unseen", **scenes)
        if not (out / TIMES).is_file():
            write_text(out / TIMES, json.dumps(side_by_side(Manifest.load(self.test), size), indent=1) + "\n")

    def run(self, variant: Variant, seed: int, out: Path) -> dict[str, float]:
        options, before = self.options, _cpu()
        height, width = parse_size(options.size, "size")
        sizes = [options.size, options.size, f"{width}x{height}"]
        run = [f"run.seed={seed}", f"run.steps={options.steps}", f"run.batch={options.scenes}"]
        run += [f"run.workers={options.workers}", "run.checkpoint_every=40", "method.stream.count=[2,3,4]"]
        settings = [*run, f"method.stream.sizes={json.dumps(sizes)}", *variant.settings]
        folder = trained("sab3r", out / "run", preset="tiny", data=[f"rooms:{seed + 1}"], settings=settings)
        spent, data = _cpu() - before, Manifest.load(self.test)
        one_pass = "method.alone=true" not in variant.settings
        model = at_width(folder if one_pass else RECONSTRUCTOR, width)
        protocol = MapAndLocate(
            space=SPACE, scenes=options.unseen, sets=options.sets, pipelined="" if one_pass else str(folder)
        )
        summary = evaluate(protocol, model, data, out / "judged")
        return {**numbers(summary, "model" if one_pass else "pipelined"), "cpu_seconds": spent}

    def notes(self, out: Path) -> list[str]:
        """How it is judged, Table 3 beside ours, what two passes cost, and that the points stay."""
        rows = [[name, *(f"{number:.2f}" for of in values for number in of)] for name, values in PAPER.items()]
        away: dict[str, float] = {}
        for variant in self.variants:
            found = [parse_json(path.read_text("utf-8")) for path in sorted(out.glob(f"{variant.name}/*/{RESULT}"))]
            means = {key: statistics.fmean(run[key] for run in found) for key in (found or [{}])[0]}
            away |= {variant.name: means["distance"]} if means else {}
            keys = [(f"miou_{count}", f"accuracy_{count}") for count in SIZES if means]
            cells = [cell for pair in keys for cell in (*(f"{100 * means[key]:.2f}" for key in pair), "")]
            rows += [[f"here: {variant.name}", *cells]] if cells else []
        heads = ["", *(f"{head}, {count} views" for count in SIZES for head in ("mIoU %", "accuracy %", "seconds"))]
        spent, ratios = [], []
        for count, times in parse_json((out / TIMES).read_text("utf-8")).items():
            once, twice = times["one_pass"], times["pipelined"]
            ratios.append(twice / once)
            spent.append([f"{count} views", f"{once:.3f}", f"{twice:.3f}", f"{ratios[-1]:.2f}"])
        points = ""  # how far those of the variant that learns on are from the truth
        if {UNFROZEN, "one-pass"} <= away.keys():
            share = away[UNFROZEN] / away["one-pass"] - 1
            where = "farther from" if share > 0 else "nearer to"
            points = f" Those of `{UNFROZEN}`, which learned on, are {abs(share):.0%} {where} the truth."
        return [
            f"{self.options.unseen} unseen rooms, {self.options.sets} group(s) of each size in each (`manyview eval "
            "map-and-locate`). All variants of a seed learn from the same pictures in the same order and steps; the "
            "baseline's student trains all its weights and so takes more CPU seconds. The reconstructor "
            f"({RECONSTRUCTOR}) had been trained before on rooms of the same kind; `pipelined-warm` shares that: "
            "what one pass has over `pipelined` and not over `pipelined-warm` comes from weights that were trained for "
            "points, not from the company of the other photos. "
            "Reconstructor frozen: the points with feature heads are those without, to the bit, so the oracle's row is "
            f"one for all.{points} The paper's scores above are the means over its three sizes.",
            "## Table 3 of the paper, and here",
            markdown_table(heads, rows),
            "The paper: ScanNet, NYU40 labels, MASt3R and CLIP at full size. Here: small rooms, 37 names. Compare the "
            "order, not the size.",
            "## What two passes cost",
            markdown_table(["", "one pass, CPU s", "pipelined, CPU s", "ratio"], spent),
            f"One pass was to be twice as fast; it is {min(ratios):.2f} to {max(ratios):.2f} times as fast. "
            f"CPU seconds from files to labelled points, one thread, medians of {REPEATS} turns over {GROUPS} groups, "
            "both in turn in one process. The baseline computes no point twice: its student says features alone. Two "
            "networks with the same trunk cannot be more than twice as slow as one; the paper's ratio comes from "
            f"CLIP at full size and an upsampler. {shares(count, times)}",
        ]


def shares(count: str, times: dict[str, float]) -> str:
    """Where one pass spends its time, and what that leaves to be won, in two sentences."""
    if "trunk" not in times:
        return ""  # of a study that was begun before they were measured
    once, trunk, alone = times["one_pass"], times["trunk"], times["alone"]
    points, features = times["trunk_and_points"] - trunk, times["trunk_and_features"] - trunk
    return (
        f"Of one pass of {count} views the trunk takes {trunk / once:.0%}, the heads of points {points / once:.0%}, "
        f"that of features {features / once:.0%}, reading and naming the rest. The second network adds little but its "
        f"trunk, on each photo alone, which costs {alone / once:.0%} of one: so about {1 + alone / once:.2f} times "
        "is what can be won here, and twice would need heads that cost nothing."
    )


def numbers(summary: Any, method: str) -> dict[str, float]:
    """Of a summary of Map and Locate: the score, the means over the sizes of groups, and those of each size."""
    tables = {count: {row["method"]: row for row in summary["by_views"][count]} for count in SIZES}
    each = {f"{key}_{count}": tables[count][method][key] for key in ("miou", "accuracy") for count in SIZES}
    whole = {row["method"]: row for row in summary["rows"]}
    return {
        Sab3RStudy.score: 1 - whole[method]["miou"],
        **each,
        "accuracy": whole[method]["accuracy"],
        **{name: whole[name]["miou"] for name in ("shuffled", "oracle", "constant", "noise")},
        "distance": whole["oracle"]["pred_to_true"],
    }


def at_width(source: Any, width: int) -> Any:
    """A many-view model that protocols ask about photos of this long side."""
    from manyview import zoo

    model: Any = zoo.load(source).eval()
    model.config = replace(model.config, encoder=replace(model.config.encoder, image_size=width))
    return model


@torch.inference_mode()
def side_by_side(data: Manifest, size: tuple[int, int]) -> dict[str, dict[str, float]]:
    """CPU seconds from files to labelled points, by number of views: in one pass, and by two networks.

    Then those of parts, of pictures that were read: the trunk, it with each kind of heads, and it on each photo alone.
    """
    from manyview import zoo

    together, points = (zoo.load(name).eval() for name in (MODEL, RECONSTRUCTOR))
    texts = zoo.embed_texts(SPACE, data.info["classes"])

    def photos(rows: list[int]) -> list[torch.Tensor]:
        return list(load_views(data, rows, size, depth=False).images[0])

    def one_pass(rows: list[int]) -> None:
        said = told(together, photos(rows))
        nearest_classes([view["features"][SPACE] for view in said], texts, size)

    def pipelined(rows: list[int]) -> None:
        pictures = photos(rows)
        told(points, pictures)
        nearest_classes([view["features"][SPACE] for view in features_alone(together, pictures)], texts, size)

    kinds: dict[str, Callable[[list[int]], Any]] = {
        "one_pass": one_pass,
        "pipelined": pipelined,
        "trunk": lambda rows: told(points, read[rows[0]], points=False),
        "trunk_and_points": lambda rows: told(points, read[rows[0]]),
        "trunk_and_features": lambda rows: told(together, read[rows[0]], points=False),
        "alone": lambda rows: [told(points, [picture], points=False) for picture in read[rows[0]]],
    }
    found = {}
    for count in SIZES:
        groups = [rows[:count] for rows in data.scenes().values()][:GROUPS]
        read = {rows[0]: photos(rows) for rows in groups}
        turns: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(REPEATS + 1):  # the first turn warms up
            for kind, call in kinds.items():
                start = time.process_time()
                for rows in groups:
                    call(rows)
                turns[kind].append((time.process_time() - start) / len(groups))
        found[str(count)] = {kind: statistics.median(spent[1:]) for kind, spent in turns.items()}
    return found


def _cpu() -> float:
    """CPU seconds of this process and of those that it has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
