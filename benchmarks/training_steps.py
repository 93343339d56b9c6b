"""Training steps of the large presets on a GPU: views a second, time spent waiting for data, share of the GPU's rate.

    python benchmarks/training_steps.py -o OUT --write docs/training-steps.md       one GPU and 16 cores
    python benchmarks/training_steps.py -o OUT --debug --device cpu                 the same road with debug widths

Weights are random, data are rooms that are rendered first (PNG, 480x640), read by the processes that a run has. A step
is all of it: loading, forward, backward, clipping, AdamW. Its operations are counted in one more step and divided by
the time and by the rate of a large matrix product in bfloat16, measured in the same run. The first steps do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from manyview import zoo
from manyview.batches.road import Road
from manyview.cache.build import build
from manyview.config import override
from manyview.data.synthetic import write_scenes
from manyview.engine.device import autocast, pick_device
from manyview.engine.feed import Feed, workers_for
from manyview.engine.optim import adamw, clip_gradients, set_learning_rate, trainable
from manyview.engine.schedule import sized
from manyview.evaluation.tables import markdown_table
from manyview.recipes.base import RECIPES, preset
from manyview.teachers.named import teacher_named

WARM, STEPS = 4, 12
ROWS = {
    "MuM ViT-L, 96 frames at 256×256": ("mum", "paper", ["method.weights={}"]),
    "DUNE ViT-B, three ViT-L teachers live, 128 pictures at 336×336": ("dune", "paper", []),
    "Distill3R 72M, 4 scenes of 20 views at 224×518": ("distill3r", "paper", []),
    "MASt3R ViT-L pairs, both ways, 4 at up to 384×512": ("pairs", "mast3r", ["method.start=null"]),
}


def prepared(folder: Path, size: tuple[int, int], scenes: int, views: int, workers: int) -> Path:
    return write_scenes(folder / "rooms", scenes=scenes, views=views, size=size, seed=4, workers=workers)


def rate_of(device: torch.device) -> float:
    """FLOPs a second of a large product in bfloat16."""
    side = 8192 if device.type == "cuda" else 512
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    spent = []
    for _ in range(6):
        wait(device)
        begin = time.perf_counter()
        a @ a
        wait(device)
        spent.append(time.perf_counter() - begin)
    return 2 * side**3 / min(spent)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(row: str, data: Path, work: Path, device: torch.device, args: argparse.Namespace) -> dict[str, Any]:
    name, usual, settings = ROWS[row]
    kind = RECIPES.get(name)
    cache = None
    if name == "dune":
        teacher = work / "teacher"
        if not teacher.exists():
            network = "dinov2-vits14" if args.debug else "dinov2-vitl14"
            zoo.save_model(zoo.build(network, seed=0), teacher)
        settings = [*settings, f"method.teachers=[dinov2={teacher},b={teacher},c={teacher}]"]
    if name == "distill3r":
        cache = work / "cache"
        size, views = ((28, 42), 2) if args.debug else ((224, 518), 20)
        build(data, teacher_named("sensor", size), cache, size=size, views=views, step=2)
    settings = settings if name == "dune" or not args.debug else []
    chosen = override(preset(kind, "debug" if args.debug else usual)[1], settings)
    run, _ = sized(chosen.run, kind.images_of(chosen.method, chosen.run), 1)
    torch.manual_seed(0)
    recipe = kind.build(chosen.method).train().to(device)
    optimizer, parameters = adamw(recipe, run), list(trainable(recipe).values())
    set_learning_rate(optimizer, 1e-6)
    batches = kind.batches(chosen.method, replace(run, steps=STEPS), cache=cache, data=[data])
    assert isinstance(batches, Road)
    workers, precision = workers_for(device, None if device.type == "cuda" else 0), "bf16"

    def step(views: Any) -> None:
        with autocast(device, precision):
            result = recipe.step(views, progress=0.0, generator=torch.Generator().manual_seed(0))
        result.loss.backward()
        clip_gradients(parameters, run)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    count = WARM + (3 if args.debug else STEPS)
    spent, waited, pictures = [], [], 0
    with Feed(batches, range(count + 1), device=device, workers=workers) as feed:
        for number in range(count):
            begin = time.perf_counter()
            views = feed.next()
            loaded = time.perf_counter()
            step(views)
            wait(device)
            if number >= WARM:
                spent.append(time.perf_counter() - begin)
                waited.append(loaded - begin)
                pictures += views.batch * views.views
        views = feed.next()
        with FlopCounterMode(display=False) as counter:
            step(views)
    flops = counter.get_total_flops() / (views.batch * views.views) * pictures / len(spent)  # of a mean step
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    return {
        "seconds": statistics.median(spent),
        "views_s": pictures / sum(spent),
        "loading": sum(waited) / sum(spent),
        "flops": flops,
        "tflops_s": flops / (sum(spent) / len(spent)) / 1e12,
        "peak_gb": peak,
        "workers": workers,
    }


def page(found: dict[str, Any]) -> str:
    rate = found["rate"]
    rows = [
        [
            name,
            f"{row['seconds']:.3f}",
            f"{row['views_s']:.0f}",
            f"{100 * row['loading']:.0f} %",
            f"{row['flops'] / 1e12:.1f}",
            f"{100 * row['tflops_s'] * 1e12 / rate:.0f} %",
            f"{row['peak_gb']:.1f}",
        ]
        for name, row in found["rows"].items()
        if "seconds" in row
    ]
    failed = [f"{name}: {row['failed']}" for name, row in found["rows"].items() if "failed" in row]
    head = ["", "s a step", "views a second", "waiting for data", "TFLOP a step", "of the rate", "peak GB"]
    parts = [
        "# Training steps of the large presets",
        f"Written by `{found['command']}`. Machine: {found['device']}, {found['cores']} cores, torch {found['torch']}.",
        "\n\n".join((__doc__ or "").split("\n\n")[2:]).replace("\n", " ").strip(),
        markdown_table(head, rows),
        f"The rate: {rate / 1e12:.0f} TFLOP/s.",
        *failed,
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("out/training-steps"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--debug", action="store_true", help="debug widths, a few steps")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no row after so long")
    parser.add_argument("--write", type=Path, metavar="MD")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept, device, began = args.out / "training-steps.json", pick_device(args.device), time.perf_counter()
    if not kept.is_file():
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        found: dict[str, Any] = {"device": name, "cores": os.cpu_count(), "torch": torch.__version__.partition("+")[0]}
        found |= {"command": "python benchmarks/training_steps.py", "rate": rate_of(device), "rows": {}}
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            size, scenes, views = ((48, 64), 4, 6) if args.debug else ((480, 640), 16, 24)
            data = prepared(work, size, scenes, views, workers=max(1, (os.cpu_count() or 1) - 1))
            for row in ROWS:
                if time.perf_counter() - began > args.seconds:
                    break
                try:
                    found["rows"][row] = measured(row, data, work, device, args)
                except Exception as error:  # the others are still wanted
                    found["rows"][row] = {"failed": f"{type(error).__name__}: {error}"[:400]}
                print(row, found["rows"][row], flush=True)
                kept.write_text(json.dumps(found, indent=1) + "\n")
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats(device)
    text = page(json.loads(kept.read_text()))
    print(text)
    if args.write:
        args.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
