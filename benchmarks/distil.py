"""What a student learns of a real place: `manyview distil` on the first half of a set, judged on the other half.

    python benchmarks/distil.py ../shared/data --write docs/distil.md

The pictures of the first half are all that `photos` sees; `sensor` also has their measured depth and poses. Both are
judged by AbsRel (after median scaling) against the measured depth of the other half, one picture at a time, beside the
student they started from.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from manyview import zoo
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.sources import SOURCES, scan
from manyview.files import write_text
from manyview.metrics import abs_rel
from manyview.pipelines.distil import distil
from manyview.pipelines.options import DistilOptions

SETS = ("redkitchen_000_499", "hololens_000_185")
SIZE, EVERY, DEEPEST = (168, 224), 3, 10.0


def judge(model: str | Path, manifest: Manifest, rows: range) -> float:
    """Mean AbsRel of single pictures."""
    network, errors = zoo.load(model).eval(), []
    with torch.inference_mode():
        for row in rows:
            views = load_views(manifest, [row], SIZE)
            assert views.depth is not None
            true = views.depth[0, 0].numpy()
            said = network(views.images)["pointmap_local"][0, 0, ..., 2].numpy()
            errors.append(abs_rel(said, true, (true > 0) & (true < DEEPEST)))
    return float(np.mean(errors))


def measure(folder: Path, work: Path, steps: int) -> dict[str, float]:
    manifest, _ = scan(folder, format="manyview", options=SOURCES.get("manyview").options())
    half = len(manifest) // 2
    rows = range(half, len(manifest), EVERY)
    first = manifest.select(slice(0, half))
    first.save(work / "first.parquet")
    pictures = [manifest.path(manifest[row].image) for row in range(half)]
    numbers = {"before": judge(DistilOptions().student, manifest, rows)}
    for teacher, images in (("photos", pictures), ("sensor", work / "first.parquet")):
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = distil(images, work / teacher, config=DistilOptions(teacher=teacher, steps=steps), device="cpu")
        numbers[f"{teacher}: CPU seconds"] = time.process_time() - start
        numbers[teacher] = judge(result["model"], manifest, rows)
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--steps", type=int, default=DistilOptions().steps)
    args = parser.parse_args()
    lines = [
        "# A student of a place",
        "",
        f"Written by `python benchmarks/distil.py {args.data} --write {args.write}`.",
        "",
        "`manyview distil` on the pictures of the first half of a real set; AbsRel against measured depth on every",
        "third frame of the other half, one picture at a time. Beside it the same with measured depth and poses as the",
        "teacher.",
        f"{args.steps} steps. Loss, rate and steps of the command were tried on the first of these sets.",
        "",
        "| set | student before | after, taught by photos | after, taught by the sensor | CPU s (photos, sensor) |",
        "|---|---|---|---|---|",
    ]
    for name in SETS:
        with tempfile.TemporaryDirectory() as work:
            n = measure(args.data / name, Path(work), args.steps)
        cells = [f"{n[t]:.3f} ({n[t] / n['before'] - 1:+.0%})" for t in ("photos", "sensor")]
        seconds = f"{n['photos: CPU seconds']:.0f}, {n['sensor: CPU seconds']:.0f}"
        lines.append(f"| {name} | {n['before']:.3f} | {cells[0]} | {cells[1]} | {seconds} |")
        print(lines[-1], flush=True)
    if args.write:
        write_text(args.write, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
