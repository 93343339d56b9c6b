"""Pictures for training a second, beside torchvision's ImageFolder and DataLoader with the same transforms.

    python benchmarks/data_speed.py [--write docs/data-speed.md] [--rows 1280000 20000000]

DUNE: 224x224 crops of 640x480 JPEGs with the release's augmentation. MuM: random resized crops of 256x256 with mirrors.
Every picture is decoded anew; two processes load, a third one (ours: crops and colours, where a GPU would do them;
theirs: nothing) takes the batches. Both ways take turns, and the time of all processes is counted, since a busy machine
gives each another share of its clock. Then rows: what a manifest of pictures takes of the memory
of a machine, when a second process opens it too, and how long a batch's draws take; at the first of --rows also with
cameras.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PICTURES, BATCH, WORKERS, ROUNDS, DRAWN = 256, 32, 2, 3, 128


def write_pictures(folder: Path) -> None:
    """JPEGs of 640x480 with the spectrum of photos, about 90 kB each, in ImageFolder's layout, and their manifest."""
    import numpy as np
    from PIL import Image

    from manyview.data.manifest import Frame, Manifest

    frames = []
    for number in range(PICTURES):
        rng = np.random.default_rng(number)
        picture = np.zeros((480, 640, 3), np.float32)
        for octave in range(7):
            rows, columns = 3 * 2**octave, 4 * 2**octave
            layer = Image.fromarray(rng.integers(0, 256, (min(rows, 480), min(columns, 640), 3), np.uint8))
            picture += np.asarray(layer.resize((640, 480), Image.Resampling.BICUBIC), np.float32) / 2 ** (octave + 1)
        picture += rng.normal(0, 6, picture.shape)  # the camera's noise
        name = f"pictures/scene{number // 16}/{number}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / name, quality=92)
        frames.append(Frame("pictures", f"scene{number // 16}", str(number), "train", name, 640, 480))
    Manifest(frames, folder).save(folder / "m.parquet")


def ours(task: str, folder: Path) -> Any:
    """An iterator of batches of images on the CPU: (count, 3, H, W) each."""
    import torch

    from manyview.batches.pictures import PictureBatches, PictureWish
    from manyview.batches.sequences import Sequences, SequenceWish
    from manyview.engine.feed import Feed

    manifest = folder / "m.parquet"
    batches: Any
    if task == "dune":
        batches = PictureBatches([manifest], PictureWish(size=(224, 224), batch=BATCH, memory_mb=0))
    else:
        wish = SequenceWish(size=(256, 256), frames=BATCH, views=(8, 8), single=0.0, crop="random", memory_mb=0)
        batches = Sequences([manifest], wish)
    feed = Feed(batches, range(1 << 20), device=torch.device("cpu"), workers=WORKERS)
    while True:
        yield feed.next().images.flatten(0, 1)


def theirs(task: str, folder: Path) -> Any:
    """The same from torchvision: ImageFolder, its transforms in the processes that load, DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import InterpolationMode

    bicubic = InterpolationMode.BICUBIC
    if task == "dune":
        steps = [
            T.RandomResizedCrop(224, scale=(0.4, 1.0), interpolation=bicubic),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            T.RandomGrayscale(0.2),
            T.RandomApply([T.GaussianBlur(9, (0.1, 5.0))], p=0.2),
            T.RandomSolarize(128, p=0.2),
            T.ToTensor(),
        ]
    else:
        steps = [
            T.RandomResizedCrop(256, scale=(0.2, 1.0), interpolation=bicubic),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
        ]
    pictures = ImageFolder(str(folder / "pictures"), T.Compose(steps))
    loader = DataLoader(pictures, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, drop_last=True)
    while True:
        for images, _ in loader:
            yield images


def busy() -> float:
    """Seconds of a processor that this process and its children have used so far (Linux)."""
    own, total = os.getpid(), 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if own in (int(stat.parent.name), int(fields[1])) or _grandchild(int(fields[1]), own):
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _grandchild(parent: int, own: int) -> bool:
    try:
        return int(Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[1]) == own
    except OSError:
        return False


def speeds(task: str, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Of both ways, in turn: pictures a second of the clock, and milliseconds of a processor for each."""
    import torch

    torch.set_num_threads(1)
    ways = {"ours": ours(task, folder), "theirs": theirs(task, folder)}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, batches in ways.items():
            for _ in range(2 * WORKERS + 1):
                shape = next(batches).shape  # what lies ready is not counted
            assert shape == (BATCH, 3, *((224, 224) if task == "dune" else (256, 256)))
            started, used = time.perf_counter(), busy()
            for _ in range(PICTURES // BATCH):
                next(batches)
            seconds, used = time.perf_counter() - started, busy() - used
            found[way].append({"rate": PICTURES / seconds, "ms": 1e3 * used / PICTURES})
    return found


def rows(count: int, cameras: bool) -> dict[str, Any]:
    """Open a manifest of so many pictures in two processes: bytes a row, seconds, milliseconds of a batch's draws."""
    sys.path.insert(0, str(Path(__file__).parent))
    from batches import _columns, _draw_now
    from manyview.data.manifest import Manifest

    with tempfile.TemporaryDirectory() as name:
        path = Manifest(_columns(count, cameras=cameras), Path(name)).save(Path(name) / "m.parquet")
        started = time.perf_counter()
        manifest = Manifest.load(path, check_files=False)
        first = time.perf_counter() - started
        second = _child(["second", str(path)])
        draw = _draw_now(manifest)
        draw(0)
        started = time.process_time()
        for index in range(1, 11):
            draw(index)
        spent = 1e3 * (time.process_time() - started) / 10
    about = {"rows": count, "cameras": cameras, "bytes": manifest.frames.nbytes / count}
    return {**about, "open": first, "draw": spent, **second}


def second_process(path: Path) -> dict[str, float]:
    """What a further rank pays: seconds, and bytes of its own when rows have been looked at, which must be none."""
    import pyarrow as pa
    import pyarrow.parquet

    from manyview.data.manifest import Manifest

    started = time.perf_counter()
    manifest = Manifest.load(path, check_files=False)
    seconds = time.perf_counter() - started
    for row in range(0, len(manifest), max(1, len(manifest) // 1000)):
        assert manifest[row].image
    assert pa.total_allocated_bytes() < len(manifest), "rows were copied"
    return {"again": seconds}


def _child(words: list[str]) -> Any:
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--child", *words], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _in_child(way: str, words: list[str]) -> Any:
    if way == "rows":
        return rows(int(words[0]), words[1] == "cameras")
    if way == "second":
        return second_process(Path(words[0]))
    return speeds(way, Path(words[0]))


def measure(counts: list[int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Of each task and way the numbers of every round, and the rows."""
    with tempfile.TemporaryDirectory() as name:
        write_pictures(Path(name))
        found = {task: _child([task, name]) for task in ("dune", "mum")}
    asked = [(counts[0], "cameras"), *((count, "none") for count in counts)]
    return found, [_child(["rows", str(count), cameras]) for count, cameras in asked]


def page(found: dict[str, Any], counted: list[dict[str, Any]], command: str) -> str:
    """The tables as markdown."""
    import torch
    import torchvision

    def median(values: list[dict[str, float]], key: str) -> float:
        return statistics.median(value[key] for value in values)

    lines = []
    for task, what in (("dune", "DUNE, 224x224"), ("mum", "MuM, 256x256")):
        mine, other = found[task]["ours"], found[task]["theirs"]
        clock = [a["rate"] / b["rate"] for a, b in zip(mine, other, strict=True)]
        work = [b["ms"] / a["ms"] for a, b in zip(mine, other, strict=True)]
        numbers = [f"{median(of, 'rate'):.0f}" for of in (mine, other)]
        numbers += [f"{statistics.median(clock):.2f} ({min(clock):.2f} to {max(clock):.2f})"]
        numbers += [f"{median(of, 'ms'):.1f}" for of in (mine, other)]
        numbers += [f"{statistics.median(work):.2f} ({min(work):.2f} to {max(work):.2f})"]
        lines.append(f"| {what} | {' | '.join(numbers)} |")
    memory = [
        f"| {of['rows']:,}{' with cameras' if of['cameras'] else ''} | {of['bytes']:.0f} | {of['open']:.1f} "
        f"| {of['again']:.2f} | {of['draw']:.1f} |"
        for of in counted
    ]
    machine = (
        f"{os.cpu_count()} {platform.machine()} cores, torch {torch.__version__}, torchvision {torchvision.__version__}"
    )
    return "\n".join(
        [
            "# Data that feeds a GPU",
            "",
            f"Written by `{command}`. Machine: {machine}.",
            "",
            f"Pictures from JPEGs of 640x480 to batches of {BATCH} floats, {WORKERS} processes that load, nothing kept "
            f"in memory, medians of {ROUNDS} rounds in which both ways take turns (ratios: median, lowest, highest). "
            "Other work may share the machine: milliseconds of a processor, over all processes, depend less on that.",
            "",
            "| | ours, pictures/s | torchvision, pictures/s | ratio | ours, CPU ms | torchvision, CPU ms | ratio |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *lines,
            "",
            "torchvision: ImageFolder and DataLoader, transforms in the processes that load. Ours decode there and "
            "crop and change colours in the process that trains, which is the GPU's work where there is one.",
            "",
            "Manifests of pictures without cameras, and where every picture has a pose and a lens of its own. The rows "
            f"are in one file that all processes of the machine map; drawing: the rows of a batch of {DRAWN}, by name.",
            "",
            "| rows | bytes a row | s to open, first | s to open, further | ms to draw |",
            "|---:|---:|---:|---:|---:|",
            *memory,
            "",
        ]
    )


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(_in_child(sys.argv[2], sys.argv[3:])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_280_000, 20_000_000])
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="write the tables as a page")
    args = parser.parse_args()
    rows = "" if args.rows == parser.get_default("rows") else f" --rows {' '.join(map(str, args.rows))}"
    command = "python benchmarks/data_speed.py" + (f" --write {args.write}" if args.write else "") + rows
    text = page(*measure(args.rows), command)
    print(text)
    if args.write:
        args.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
