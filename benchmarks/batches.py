"""Making training batches: views per second from a teacher cache, and draws from manifests of millions of rows.

    python benchmarks/batches.py DATA/redkitchen_000_499 [--before CHECKOUT] [--rounds 3] [--json FILE]
    python benchmarks/batches.py --draws [--rows 1280000 20000000] [--before CHECKOUT]

The first line builds a cache of 20 views of 224x518 and reads scenes from it with nothing kept in memory, up to the
views that a step is given. --before names a checkout of an older commit, whose own code makes its cache and reads it
in one thread; old and new take turns, each in a fresh process. The second line times `train dune`'s draws: a batch of
128 rows, by name, of a synthetic manifest whose rows share a few files, and reports its memory per row.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZE, VIEWS, BATCH = (224, 518), 20, 128


def prepare(source: Path, folder: Path) -> None:
    """A manifest of the frames and a cache of the sensor's answers, by the code of this process."""
    from manyview.cache.build import build
    from manyview.cli.main import main
    from manyview.teachers.sensor import Sensor

    main(["data", "scan", str(source), "--format", "manyview", "-o", str(folder / "m.parquet")])
    build(folder / "m.parquet", Sensor(), folder / "cache", views=VIEWS, step=10, size=SIZE)


def read_before(folder: Path, scenes: int) -> tuple[float, float]:
    """Seconds, and seconds of a processor, of the old road: one thread."""
    from manyview.cache.dataset import CachedViews  # type: ignore[import-not-found]
    from manyview.engine.prefetch import Prefetcher  # type: ignore[import-not-found]

    batches = CachedViews(folder / "cache", views=VIEWS, batch=1, memory_mb=0)
    ahead = Prefetcher(batches, range(scenes + 1))
    ahead.next()
    started, busy = time.perf_counter(), time.process_time()
    for _ in range(scenes):
        ahead.next()
    return time.perf_counter() - started, time.process_time() - busy


def read_now(folder: Path, scenes: int, workers: int) -> tuple[float, float]:
    """The same of this road, all its processes together, which are at work before and after."""
    import torch

    from manyview.batches.scenes import SceneBatches, SceneWish
    from manyview.engine.feed import Feed

    batches = SceneBatches(folder / "cache", (), SceneWish(views=VIEWS, batch=1, memory_mb=0))
    # Up to two batches of every process are made before the clock starts, and as many when it has stopped.
    with Feed(batches, range(scenes + 5 * workers + 1), device=torch.device("cpu"), workers=workers) as feed:
        for _ in range(2 * workers + 1):
            feed.next()
        processes = [worker.pid for worker in getattr(feed._loaded, "_workers", [])]
        started, busy = time.perf_counter(), _busy(processes)
        for _ in range(scenes):
            feed.next()
        return time.perf_counter() - started, _busy(processes) - busy


def _busy(processes: list[int]) -> float:
    """Seconds of a processor that this process and others have used (Linux)."""
    ticks = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13] for pid in processes]
    return time.process_time() + sum(int(t) for both in ticks for t in both) / os.sysconf("SC_CLK_TCK")


def rates(source: Path, before: Path | None, rounds: int, scenes: int) -> dict[str, Any]:
    """Views per second of each way, medians of the rounds, and the ratio within each round.

    A busy machine gives each way another share of its time: milliseconds of a processor per view depend less on that.
    """
    here = Path(__file__).resolve().parents[1]
    ways: dict[str, tuple[Path, list[str]]] = {
        f"{workers} processes": (here, ["now", str(scenes), str(workers)]) for workers in (0, 1, 4)
    }
    if before is not None:
        ways = {"before, one thread": (before, ["before", str(scenes)]), **ways}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    used: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folders = {root: Path(name) / str(number) for number, root in enumerate({here, before or here})}
        for root, folder in folders.items():
            folder.mkdir()
            _child(root, ["prepare", str(source.resolve()), str(folder)])
        for _ in range(rounds):
            for way, (root, words) in ways.items():
                seconds, busy = _child(root, [words[0], str(folders[root]), *words[1:]])
                taken[way].append(scenes * VIEWS / seconds)
                used[way].append(1e3 * busy / (scenes * VIEWS))
    report: dict[str, Any] = {
        way: {"views_per_s": round(statistics.median(values), 1), "cpu_ms_per_view": round(min(used[way]), 2)}
        for way, values in taken.items()
    }
    if before is not None:
        pairs = zip(taken["4 processes"], taken["before, one thread"], strict=True)
        report["4 processes over one thread before"] = [round(now / then, 2) for now, then in pairs]
    return report


def draws(rows: int, before: bool) -> dict[str, Any]:
    """Milliseconds of a batch's rows (names and all), and bytes a row."""
    manifest = _synthetic(rows, before)
    if not before:
        import manyview.batches.pictures  # noqa: F401 - not in the time of opening
    started = time.perf_counter()
    if before:
        make, count, scale = _draw_before(manifest), 2, BATCH  # of the 128 pictures, one is drawn and read
    else:
        make, count, scale = _draw_now(manifest), 20, 1
    opened = time.perf_counter() - started
    make(0)
    times: dict[str, list[float]] = {"draw_ms": [], "draw_cpu_ms": []}
    for index in range(1, count + 1):
        started, busy = time.perf_counter(), time.process_time()
        make(index)
        times["draw_ms"].append(1e3 * scale * (time.perf_counter() - started))
        times["draw_cpu_ms"].append(1e3 * scale * (time.process_time() - busy))
    report: dict[str, Any] = {"rows": rows, "open_s": round(opened, 2)}
    report |= {name: round(statistics.median(values), 2) for name, values in times.items()}
    if not before:
        report["bytes_a_row"] = round(manifest.frames.nbytes / rows, 1)
    report["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    return report


def _draw_before(manifest: Any) -> Callable[[int], Any]:
    from manyview.data.domains import DomainImages  # type: ignore[import-not-found]

    batches = DomainImages([[manifest]], batch=BATCH, size=(336, 336))
    return lambda draw: batches._picture(0, draw)


def _draw_now(manifest: Any) -> Callable[[int], Any]:
    from manyview.batches.pictures import PictureBatches, PictureWish

    batches = PictureBatches([manifest], PictureWish(size=(336, 336), batch=BATCH))
    return lambda index: [manifest[row].image for *_, row, _ in batches.rows(index)]


def _synthetic(rows: int, before: bool) -> Any:
    """ImageNet's layout; one small picture stands for all files that are read."""
    from PIL import Image

    from manyview.data.manifest import Frame, Manifest

    folder = Path(tempfile.mkdtemp())
    Image.new("RGB", (500, 375)).save(folder / "one.jpg")

    class Pointed(Manifest):
        def path(self, relative: str) -> Path:
            return folder / "one.jpg"

    if not before:
        return Pointed(_columns(rows), folder)
    names = ((f"n{i % 1000:08d}", str(i)) for i in range(rows))
    frames = (Frame("imagenet", c, i, "train", f"train/{c}/{c}_{i}.JPEG", 500, 375) for c, i in names)
    return Pointed(frames, folder)


def _columns(rows: int, *, cameras: bool = False) -> Any:
    """The same frames without making them one by one; with `cameras`, every frame has a lens and a pose of its own."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from manyview.data.columns import Frames, schema

    tables = []
    for start in range(0, rows, 1_000_000):
        number = np.arange(start, min(rows, start + 1_000_000))
        text = pa.array(number).cast(pa.string())
        scenes = pa.array([f"n{k:08d}" for k in range(1000)]).take(pa.array(number % 1000))
        columns = {
            "dataset": pa.array(["imagenet"]).take(pa.array(np.zeros(len(number), int))),
            "scene": scenes,
            "frame": text,
            "split": pa.array(["train"]).take(pa.array(np.zeros(len(number), int))),
            "image": pc.binary_join_element_wise("train/", scenes, "/", scenes, "_", text, ".JPEG", ""),
            "width": pa.array(np.full(len(number), 500, np.int32)),
            "height": pa.array(np.full(len(number), 375, np.int32)),
        }
        if cameras:
            rng, poses = np.random.default_rng(start), np.tile(np.eye(4).ravel(), (len(number), 1))
            poses[:, [3, 7, 11]] = rng.normal(size=(len(number), 3))
            columns |= {name: pa.array(rng.uniform(400, 600, len(number))) for name in ("fx", "fy", "cx", "cy")}
            columns["cam2world"] = pa.FixedSizeListArray.from_arrays(pa.array(poses.ravel()), 16)
        tables.append(pa.table({f.name: columns.get(f.name, pa.nulls(len(number), f.type)) for f in schema()}))
    return Frames(pa.concat_tables(tables))


def _child(root: Path, words: list[str]) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _in_child(way: str, words: list[str]) -> Any:
    if way == "prepare":
        return prepare(Path(words[0]), Path(words[1]))
    if way == "before":
        return read_before(Path(words[0]), int(words[1]))
    if way == "now":
        return read_now(Path(words[0]), int(words[1]), int(words[2]))
    return draws(int(words[0]), words[1] == "before")


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(_in_child(sys.argv[2], sys.argv[3:])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", help="a folder with cameras.json, images and depth")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an older commit to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=24, help="scenes of 20 views that are timed")
    parser.add_argument("--draws", action="store_true", help="time draws instead")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_280_000, 20_000_000])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    report: dict[str, Any] = {}
    if args.draws:
        report["now"] = [_child(here, ["draws", str(rows), "now"]) for rows in args.rows]
        if args.before is not None:
            report["before"] = [_child(args.before, ["draws", str(args.rows[0]), "before"])]
    elif args.source is not None:
        report = rates(args.source, args.before, args.rounds, args.scenes)
    else:
        parser.error("give a folder of frames, or --draws")
    text = json.dumps(report, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
