"""The whole road on real frames, and docs/results.md with what came out.

    python benchmarks/real_frames.py DATA/redkitchen_000_499 -o out/real [--steps N] [--write docs/results.md]

Train on kept frames 0 to 59, test on 80 to 99: at least 100 video frames apart. Each command that runs is printed and
can be typed by hand. Three students are trained, one after the other, each at most 15 CPU minutes: from the bundled
weights, from random weights, and from random weights with another loss than the paper's.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from manyview.cli.main import main as manyview

SIZE = "112x154"
STUDENTS = {
    "from the bundled model": ["--init", "manyview-tiny", "--set", "run.lr=5e-4"],
    "from random weights": [],
    "from random weights, robust loss": ["--set", "method.loss=robust", "method.alpha_global=0.5", "method.gamma=0.05"],
}


def command(*words: object) -> None:
    """Print one manyview command, run it, stop the script when it fails."""
    line = [str(word) for word in words]
    print("\n$ manyview " + shlex.join(line), flush=True)
    code = manyview(line)
    if code != 0:
        raise SystemExit(code)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def road(source: Path, out: Path, steps: int, chosen: Iterable[int]) -> dict[str, Any]:
    """Everything from the raw frames to the judged students. Finished parts are not done again."""
    train, test, cache = out / "train.parquet", out / "test.parquet", out / "cache"
    command("data", "scan", source, "--format", "manyview", "--frames", "0:60", "-o", train)
    command("data", "scan", source, "--format", "manyview", "--frames", "80:100", "-o", test)
    command("cache", "build", train, "--teacher", "sensor", "--size", SIZE, "--views", 8, "--step", 4, "-o", cache)
    command("cache", "verify", cache)
    results: dict[str, Any] = {}
    for number in chosen:
        name, options = list(STUDENTS.items())[number]
        folder, note = out / f"student{number}", out / f"student{number}.json"
        if not note.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            before = cpu_seconds()
            command(
                "train",
                "distill3r",
                "--preset",
                "tiny",
                "--cache",
                cache,
                "--data",
                train,
                "--steps",
                steps,
                "-o",
                folder,
                *options,
            )
            minutes = (cpu_seconds() - before) / 60
            judged = out / f"eval{number}"
            beside = ["--baselines", "--train", train] if number == 0 else []
            command(
                "eval",
                "recon-per-view",
                "--model",
                folder / "model",
                "--data",
                test,
                *beside,
                "-o",
                judged,
                "--json",
                judged.with_suffix(".json"),
                "--overwrite",
            )
            note.write_text(json.dumps({"cpu_minutes": minutes, "steps": steps, "options": options}))
        results[name] = {**json.loads(note.read_text()), "scores": json.loads((out / f"eval{number}.json").read_text())}
    return results


def machine() -> str:
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder with cameras.json, images and depth")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/real"))
    parser.add_argument("--steps", type=int, default=900, help="training steps of each student")
    parser.add_argument("--only", type=int, nargs="+", help="only these students: 0 bundled, 1 random, 2 robust loss")
    parser.add_argument("--write", type=Path, metavar="MD", help="write the page of results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = range(len(STUDENTS)) if args.only is None else args.only
    results = road(args.source, args.out, args.steps, chosen)
    (args.out / "results.json").write_text(json.dumps({"machine": machine(), "students": results}, indent=1))
    if args.write:
        from results_page import page, write_section

        write_section(args.write, "real-frames", page(results, machine()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
