"""What a student learns of a real place: `manyview distil` on the first half of a set, judged on the other half.

    python benchmarks/distil.py ../shared/data --write docs/distil.md [--work DIR --only SET]

The pictures of the first half are all that `photos` sees; `sensor` also has their measured depth and poses. Both are
judged by AbsRel (after median scaling) against the measured depth of the other half, one picture at a time, beside the
student they started from. With --work what was measured is kept there, and an interrupted measurement goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from manyview import zoo
from manyview.cache.store import Cache
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.sources import SOURCES, scan
from manyview.evaluation.tables import markdown_table
from manyview.files import write_text
from manyview.metrics import abs_rel
from manyview.pipelines.distil import distil
from manyview.pipelines.options import DistilOptions

SETS = ("redkitchen_000_499", "hololens_000_185")
SIZE, EVERY, DEEPEST = (168, 224), 3, 10.0
SUREST = 0.3
"""Share of a view's pixels whose answers are also judged alone."""


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


def judge_answers(cache: Cache, manifest: Manifest, half: int) -> tuple[float, float]:
    """Mean AbsRel of a teacher's answers to photos of the first half, all valid pixels and the surest of each."""
    row_of = {Path(manifest[row].image).stem: row for row in range(half)}
    everywhere, surest = [], []
    for index in range(len(cache)):
        sample = cache.sample(index)
        local, sure = (sample.signals[name] for name in ("pointmap_local", "confidence_local"))
        for view, name in enumerate(sample.frames):
            views = load_views(manifest, [row_of[Path(name).stem]], cache.size_of(index))
            assert views.depth is not None
            assert local.valid is not None
            true = views.depth[0, 0].numpy()
            said, how = local.value[0, view, ..., 2].numpy(), sure.value[0, view].numpy()
            known = (true > 0) & (true < DEEPEST) & local.valid[0, view].numpy()
            best = known & (how >= np.quantile(how[known], 1 - SUREST)) if known.any() else known
            everywhere += [abs_rel(said, true, known)] if known.any() else []
            surest += [abs_rel(said, true, best)] if best.any() else []
    return float(np.mean(everywhere)), float(np.mean(surest))


def measure(folder: Path, work: Path, steps: int) -> dict[str, float]:
    done = work / "numbers.json"
    if done.is_file():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    work.mkdir(parents=True, exist_ok=True)
    manifest, _ = scan(folder, format="manyview", options=SOURCES.get("manyview").options())
    half = len(manifest) // 2
    rows = range(half, len(manifest), EVERY)
    first = manifest.select(slice(0, half))
    first.save(work / "first.parquet")
    pictures = [manifest.path(manifest[row].image) for row in range(half)]
    student = DistilOptions().student
    numbers = {"before": judge(student, manifest, rows), "seen": judge(student, manifest, range(0, half, EVERY))}
    for teacher, images in (("photos", pictures), ("sensor", work / "first.parquet")):
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = DistilOptions(teacher=teacher, steps=steps)
            result = distil(
                images, work / teacher, config=options, device="cpu", say=lambda line: print(line, flush=True)
            )
        numbers[f"{teacher}: CPU seconds"] = time.process_time() - start
        numbers[teacher] = judge(result["model"], manifest, rows)
        print(folder.name, teacher, numbers, flush=True)
    numbers["answers"], numbers["surest"] = judge_answers(Cache.open(work / "photos/cache"), manifest, half)
    write_text(done, json.dumps(numbers, indent=1) + "\n")
    return numbers


def page(found: dict[str, dict[str, float]], data: Path, write: Path | None, steps: int) -> str:
    learned, answered = [], []
    for name, n in found.items():
        cells = [f"{n[t]:.3f} ({n[t] / n['before'] - 1:+.0%})" for t in ("photos", "sensor")]
        seconds = f"{n['photos: CPU seconds']:.0f}, {n['sensor: CPU seconds']:.0f}"
        learned.append([name, f"{n['before']:.3f}", *cells, seconds])
        answered.append([name, f"{n['seen']:.3f}", f"{n['answers']:.3f}", f"{n['surest']:.3f}"])
    parts = [
        "# A student of a place",
        f"Written by `python benchmarks/distil.py {data} --write {write}`.",
        "`manyview distil` on the pictures of the first half of a real set; AbsRel against measured depth on every "
        "third frame of the other half, one picture at a time. Beside it the same with measured depth and poses as the "
        f"teacher. {steps} steps. The other half of the second set looks mostly elsewhere: its views are up to 100 "
        "degrees from any that was learned.",
        markdown_table(
            [
                "set",
                "student before",
                "after, taught by photos",
                "after, taught by the sensor",
                "CPU s (photos, sensor)",
            ],
            learned,
        ),
        "What the photos' answers are worth themselves, on the frames they were made for (cameras from matches, plane "
        "sweep over all photos, the student's own depth bent to what it finds):",
        markdown_table(["set", "student there", "the answers, everywhere", f"their surest {SUREST:.0%}"], answered),
        "How the answers are made (the widths of bending, votes), and rate and steps of the training, were chosen on "
        f"the first half of {SETS[0]} and one look at its other half; {SETS[1]} judged only.",
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--steps", type=int, default=DistilOptions().steps)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", choices=SETS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        names = [args.only] if args.only else SETS
        found = {name: measure(args.data / name, work / name, args.steps) for name in names}
    text = page(found, args.data, args.write, args.steps)
    print(text)
    if args.write:
        write_text(args.write, text)


if __name__ == "__main__":
    main()
