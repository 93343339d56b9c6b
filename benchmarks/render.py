"""Speed of the procedural renderer in views per second, on one thread, everything included but writing files.

    manyview bench render [--json FILE]        or: python benchmarks/render.py [FILE]

Scenes of 8 and of 20 views, at 224x518 and 112x154; building the world and choosing the camera's path count.
On a CUDA device, if there is one, the same again.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from manyview.data.synthetic import render_scene

CASES = ((8, (224, 518), 6), (20, (224, 518), 3), (20, (112, 154), 6))  # views, size, scenes


def run(json_path: str | Path | None = None) -> dict[str, Any]:
    """Measure, and write the numbers to `json_path` if given."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    results = []
    for device in devices:
        render_scene(0, views=2, size=(64, 64), device=device)
        for views, size, scenes in CASES:
            results.append(measure(views, size, scenes, device))
    report = {"threads": 1, "torch": torch.__version__, "results": results}
    if json_path is not None:
        Path(json_path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def measure(views: int, size: tuple[int, int], scenes: int, device: str) -> dict[str, Any]:
    """Median, slowest and fastest views per second over `scenes` scenes.

    Views per second of processor time leave out what other programs took of the machine meanwhile.
    """
    speeds, busy = [], time.process_time()
    for seed in range(1, scenes + 1):
        start = time.perf_counter()
        render_scene(seed, views=views, size=size, device=device)
        if device == "cuda":
            torch.cuda.synchronize()
        speeds.append(views / (time.perf_counter() - start))
    return {
        "device": device,
        "size": f"{size[0]}x{size[1]}",
        "views": views,
        "scenes": scenes,
        "views_per_second": round(statistics.median(speeds), 2),
        "views_per_processor_second": round(views * scenes / (time.process_time() - busy), 2),
        "slowest": round(min(speeds), 2),
        "fastest": round(max(speeds), 2),
    }


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1] if len(sys.argv) > 1 else None), indent=2))
