"""Loading a ViT-L and one forward on the CPU, against reading the file's bytes into memory and that forward.

    manyview bench loading [--json FILE]        or: python benchmarks/loading.py [FILE]

Every measurement is a fresh process with the imports done, the file in the page cache, ways alternating, the
median of RUNS. Peak memory is what the process grew by, over the weights and what the forward of the reference
grew by. Converting an official .pth is measured against reading its bytes and writing them again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAME, IMAGE, RUNS = "dinov2-vitl14", (1, 3, 224, 224), 3


def run(json_path: str | Path | None = None) -> dict[str, Any]:
    """Measure, and write the numbers to `json_path` if given."""
    with tempfile.TemporaryDirectory() as folder:
        _child("prepare", folder)
        taken: dict[str, list[dict[str, float]]] = {}
        for _ in range(RUNS):
            for way in ("read", "load", "copy", "convert"):
                taken.setdefault(way, []).append(_child(way, folder))
    best = {way: {key: statistics.median(t[key] for t in times) for key in times[0]} for way, times in taken.items()}
    needed = best["read"]["weights"] + best["read"]["activations"]
    report = {
        "model": NAME,
        "image": list(IMAGE),
        "runs": RUNS,
        "read_and_forward_s": round(best["read"]["seconds"], 3),
        "load_and_forward_s": round(best["load"]["seconds"], 3),
        "time_ratio": round(best["load"]["seconds"] / best["read"]["seconds"], 3),
        "weights_mb": round(best["read"]["weights"]),
        "activations_mb": round(best["read"]["activations"]),
        "load_peak_mb": round(best["load"]["peak"]),
        "memory_ratio": round(best["load"]["peak"] / needed, 3),
        "read_and_write_pth_s": round(best["copy"]["seconds"], 3),
        "convert_pth_s": round(best["convert"]["seconds"], 3),
        "convert_peak_mb": round(best["convert"]["peak"]),
        "convert_memory_ratio": round(best["convert"]["peak"] / best["read"]["weights"], 3),
    }
    if json_path is not None:
        Path(json_path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _child(way: str, folder: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--way", way, folder], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(way: str, folder: Path) -> dict[str, float]:
    """One way in this process: seconds, and megabytes that it grew by at its peak."""
    import torch

    from manyview import zoo

    zoo.names()  # imports the families
    directory, official = folder / "model", folder / "official.pth"
    if way == "prepare":
        model = zoo.build(NAME, seed=0)
        zoo.save_model(model, directory)
        torch.save(zoo.export_official(model), official)
        return {}
    images = torch.rand(IMAGE, generator=torch.Generator().manual_seed(0))
    torch.rand(64, 64) @ torch.rand(64, 64)  # wakes the threads
    before, start = _resident(), time.perf_counter()
    with torch.inference_mode():
        if way == "load":
            zoo.load(directory).encode(images)
        elif way == "convert":
            zoo.convert(official, NAME, folder / "converted")
        elif way == "copy":
            (folder / "copy").write_bytes(official.read_bytes())
        else:
            return _reference(directory / "model.safetensors", images, before)
    return {"seconds": time.perf_counter() - start, "peak": _peak() - before}


def _reference(path: Path, images: Any, before: float) -> dict[str, float]:
    """Bytes read into memory; the network made of those very bytes, not timed; the forward."""
    import torch

    from manyview import zoo
    from manyview.zoo.directory import fill

    start = time.perf_counter()
    data = bytearray(path.stat().st_size)
    with path.open("rb", buffering=0) as stream:
        view = memoryview(data)
        while view and (count := stream.readinto(view)):
            view = view[count:]
    reading = time.perf_counter() - start
    length = int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8 : 8 + length]))
    header.pop("__metadata__", None)
    state = {
        name: torch.frombuffer(
            data,
            dtype=torch.float32,
            offset=8 + length + at["data_offsets"][0],
            count=(at["data_offsets"][1] - at["data_offsets"][0]) // 4,
        ).view(at["shape"])
        for name, at in header.items()
    }
    with torch.device("meta"):
        model = zoo.build(NAME)
    fill(model, state, where=str(path))
    model.eval()
    held, start = _resident(), time.perf_counter()
    model.encode(images)
    forward = time.perf_counter() - start
    return {
        "seconds": reading + forward,
        "weights": len(data) / 1e6,
        "activations": _peak() - held,
        "peak": _peak() - before,
    }


def _resident() -> float:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 1e6


def _peak() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]))))
    else:
        print(json.dumps(run(*sys.argv[1:2]), indent=2))
