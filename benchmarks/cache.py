"""Size and speed of the cache's archives beside np.savez_compressed, on the same maps in the same run.

    manyview bench cache [--json FILE]        or: python benchmarks/cache.py

Maps: views of a wall with boxes, 224x518, local and first-view pointmaps and two confidences in float16, once
exact and once with the noise of a depth camera. MB/s count uncompressed float16 bytes; best of three; files
on the temporary folder's disk, read from the page cache.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from manyview.cache import archive, codec

VIEWS, HEIGHT, WIDTH, FOCAL = 8, 224, 518, 400.0


def scene(noise: float) -> dict[str, np.ndarray]:
    """Fields of one sample; `noise` is the standard deviation of inverse depth, in 1/m."""
    rng = np.random.default_rng(0)
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    fields: dict[str, list[np.ndarray]] = {"pointmap": [], "pointmap_local": [], "confidence": [], "valid": []}
    for view in range(VIEWS):
        inverse = 0.3 + 2e-4 * (u - WIDTH / 2) + 1e-3 * (v - HEIGHT / 2).clip(0)
        for box in range(6):
            top, left = 30 * box, 70 * box + 4 * view
            inverse[top : top + 60, left : left + 80] = 0.4 + 0.05 * box + 1e-4 * u[top : top + 60, left : left + 80]
        inverse = inverse + noise * rng.standard_normal(inverse.shape)
        depth = 1 / inverse
        local = np.stack([(u - WIDTH / 2) / FOCAL * depth, (v - HEIGHT / 2) / FOCAL * depth, depth], -1)
        angle = 0.03 * view
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        steps = np.abs(np.diff(inverse, axis=1, prepend=inverse[:, :1])) / inverse
        valid = rng.random(inverse.shape) > 0.02 if noise else np.ones(inverse.shape, bool)
        maps = {
            "pointmap": local @ turn.T + [0.1 * view, 0, 0],
            "pointmap_local": local,
            "confidence": 1 + 9 * np.exp(-((steps / 0.03) ** 2)),
        }
        for name, values in maps.items():
            fields[name].append(codec.to_half(values, valid)[0])
        fields["valid"].append(valid)
    return {name: np.stack(values) for name, values in fields.items()}


def best(action: Callable[[], Any], repeats: int = 3) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def measure(fields: dict[str, np.ndarray], folder: Path) -> dict[str, dict[str, float]]:
    """Per store: compression ratio, MB/s written, read whole, and read one view at a time."""
    raw = sum(values.nbytes for values in fields.values() if values.dtype == np.float16)
    ours, theirs = folder / "sample.zip", folder / "sample.npz"
    stores = {
        "manyview": (
            ours,
            lambda: ours.write_bytes(archive.encode_archive(fields, {})),
            lambda: archive.decode_archive(ours),
            lambda: archive.decode_archive(ours, views=[3]),
        ),
        "np.savez_compressed": (
            theirs,
            lambda: np.savez_compressed(theirs, **fields),
            lambda: read_npz(theirs),
            lambda: {name: values[3] for name, values in read_npz(theirs).items()},
        ),
    }
    results = {}
    for name, (path, write, read, read_one) in stores.items():
        written = best(write)
        results[name] = {
            "ratio": round(raw / path.stat().st_size, 2),
            "write_mb_s": round(raw / 1e6 / written, 1),
            "read_mb_s": round(raw / 1e6 / best(read), 1),
            "one_view_mb_s": round(raw / VIEWS / 1e6 / best(read_one), 1),
        }
    _, back = archive.decode_archive(ours)
    assert all(np.array_equal(back[name], values) for name, values in fields.items())
    return results


def run(json_path: Path | None = None) -> dict[str, Any]:
    """Measure both stores on both kinds of maps."""
    results: dict[str, Any] = {"shape": [VIEWS, HEIGHT, WIDTH]}
    with tempfile.TemporaryDirectory() as folder:
        for kind, noise in (("exact", 0.0), ("noisy", 3e-4)):
            results[kind] = measure(scene(noise), Path(folder))
    if json_path is not None:
        Path(json_path).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
