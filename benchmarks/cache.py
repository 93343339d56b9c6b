"""Size and speed of the cache's archives beside other ways to keep the same maps, in the same run.

    manyview bench cache [--json FILE]        or: python benchmarks/cache.py
    python benchmarks/cache.py ../shared/data --write docs/cache.md        (wants numcodecs and imagecodecs)

Without data: views of a wall with boxes, 224x518, local and first-view pointmaps and two confidences in float16, once
exact and once with the noise of a depth camera, kept without loss. MB/s count uncompressed float16 bytes; best of
three; files on the temporary folder's disk, read from the page cache.

With data: a depth camera's and manyview-small's maps of real photos, as `manyview cache build` keeps them.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyview.cache import archive, codec
from manyview.cache.build import build
from manyview.cache.store import Cache
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.sources import SOURCES, scan
from manyview.evaluation.tables import markdown_table
from manyview.files import write_text
from manyview.teachers.named import teacher_named
from manyview.types import Signal

VIEWS, HEIGHT, WIDTH, FOCAL = 8, 224, 518, 400.0
SETS = {"redkitchen_000_499": (40, 46, 52, 58), "hololens_000_185": (20, 24, 28, 32)}
"""Real sets, and the frames whose maps are kept."""
MAPS = ("pointmap", "pointmap_local", "confidence", "confidence_local")


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


def best(action: Callable[[], Any], repeats: int = 3, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(repeats):
        start = clock()
        action()
        times.append(clock() - start)
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


def real(data: Path) -> list[list[Any]]:
    """Rows of set, maps, way of keeping, kB a view, times the photo's JPEG, views/s, error at the 99.9th percentile."""
    rows: list[list[Any]] = []
    for name, frames in SETS.items():
        whole, _ = scan(data / name, format="manyview", options=SOURCES.get("manyview").options())
        manifest = Manifest(whole.frames.take(np.array(frames)), whole.root, whole.info)
        photo = float(np.mean([manifest.path(frame.image).stat().st_size for frame in manifest.frames]))
        views = load_views(manifest, range(len(frames)), (HEIGHT, WIDTH))
        for source in ("sensor", "manyview-small"):
            teacher = teacher_named(source, (HEIGHT, WIDTH))
            answers = teacher(views)
            halves = {key: codec.to_half(*_arrays(answers[key]), saturate="conf" in key)[0] for key in MAPS}
            with tempfile.TemporaryDirectory() as folder:
                build(manifest, teacher, folder, views=len(frames), size=(HEIGHT, WIDTH))
                cache = Cache.open(folder)
                back = cache.signals(0)
                error = max(_error(answers[key], back[key].value) for key in MAPS[:2])
                speed = 1 / best(lambda: cache.signals(0, [1]), 20, time.process_time)  # noqa: B023
                rows.append([name, source, "ours", cache.entries[0].bytes / len(frames), photo, speed, error])
                parts = _bytes_by_part(Path(folder) / cache.entries[0].archive, len(frames))
                print(name, source, parts, flush=True)
            for way, (keep, read) in others().items():
                kept = [{key: keep(values[view]) for key, values in halves.items()} for view in range(len(frames))]
                size = sum(len(content) for one in kept for content in one.values()) / len(frames)
                shapes = {key: values.shape[1:] for key, values in halves.items()}
                speed = 1 / best(lambda: [read(kept[1][key], shapes[key]) for key in MAPS], 5, time.process_time)  # noqa: B023
                rounded = {key: torch.from_numpy(halves[key]).float()[None] for key in MAPS[:2]}
                error = max(_error(answers[key], rounded[key]) for key in MAPS[:2])
                rows.append([name, source, way, size, photo, speed, error])
    return rows


def others() -> dict[str, tuple[Callable[[np.ndarray], bytes], Callable[[bytes, tuple[int, ...]], np.ndarray]]]:
    """Lossless ways to keep float16 maps: what writes one, and what reads it."""
    blosc = importlib.import_module("numcodecs").Blosc(cname="zstd", clevel=5, shuffle=2)
    jxl = importlib.import_module("imagecodecs")

    def saved(values: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, values)
        return buffer.getvalue()

    return {
        "np.savez_compressed": (saved, lambda content, shape: np.load(io.BytesIO(content))["arr_0"]),
        "zarr's Blosc (zstd, bit shuffle)": (
            lambda values: blosc.encode(np.ascontiguousarray(values)),
            lambda content, shape: np.frombuffer(blosc.decode(content), np.float16).reshape(shape),
        ),
        "JPEG-XL, lossless": (
            lambda values: jxl.jpegxl_encode(np.ascontiguousarray(values).view(np.uint16), lossless=True),
            lambda content, shape: jxl.jpegxl_decode(content).view(np.float16).reshape(shape),
        ),
    }


def _arrays(signal: Signal) -> tuple[np.ndarray, np.ndarray]:
    """(V, H, W, ...) values and (V, H, W) where they are valid."""
    value = signal.value[0].float().numpy()
    return value, np.ones(value.shape[:3], bool) if signal.valid is None else signal.valid[0].numpy()


def _error(signal: Signal, back: torch.Tensor) -> float:
    """Relative distance of points that all but a thousandth of the pixels stay below."""
    value, valid = _arrays(signal)
    away = np.linalg.norm(back[0].float().numpy() - value, axis=-1) / np.linalg.norm(value, axis=-1).clip(1e-30)
    return float(np.percentile(away[valid], 99.9))


def _bytes_by_part(path: Path, views: int) -> dict[str, int]:
    """Bytes a view of each field of an archive."""
    import zipfile

    sizes: dict[str, float] = {}
    with zipfile.ZipFile(path) as members:
        for member in members.infolist():
            name = member.filename.rpartition("/")[0] or member.filename
            sizes[name] = sizes.get(name, 0) + member.file_size / views
    return {name: round(size) for name, size in sizes.items()}


def page(rows: list[list[Any]], command: str) -> str:
    heads = ["set", "maps of", "kept as", "kB a view", "times the photo's JPEG", "views/s read", "99.9 % error"]
    cells = [
        [name, source, way, f"{size / 1000:.1f}", f"{size / photo:.2f}", f"{speed:.0f}", f"{error:.1e}"]
        for name, source, way, size, photo, speed, error in rows
    ]
    mean = {
        source: np.mean([size / photo for _, said, way, size, photo, *_ in rows if (said, way) == (source, "ours")])
        for source in ("sensor", "manyview-small")
    }
    views = len(next(iter(SETS.values())))
    parts = [
        "# What a teacher's maps cost on disk",
        f"Written by `{command}`.",
        f"Both pointmaps and both confidences of {views} views of each set at {HEIGHT}x{WIDTH}; views are "
        "read one by one, per CPU second, best of several, what follows from other maps (a motion, the sensor's "
        "confidence) made on reading. Error: relative distance of points, the larger of both pointmaps. The others "
        "keep float16.",
        markdown_table(heads, cells, texts=True),
        f"Mean over both sets: {mean['sensor']:.2f} times the JPEG for the sensor (asked: at most 1.0), "
        f"{mean['manyview-small']:.2f} for a network (asked: at most 1.5), most of it for its local points, which are "
        "not smooth to a thousandth. Where the error is above a thousandth, it is that of the first view's pointmap, "
        "which is the local one moved.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    args = parser.parse_args()
    if args.data is None:
        print(json.dumps(run(), indent=1))
        return
    torch.set_num_threads(1)
    text = page(real(args.data), f"python benchmarks/cache.py {args.data} --write {args.write}")
    print(text)
    if args.write:
        write_text(args.write, text)


if __name__ == "__main__":
    main()
