"""Make `manyview-tiny`, the model in the box, and its card: render, cache, train, judge, install.

    python benchmarks/bundled_model.py -o out/bundled [--real DATA/redkitchen_000_499] [--install]

Every command that runs is printed and can be typed by hand; finished parts are not done again. `--install` writes
src/manyview/assets/manyview-tiny (float16 weights, config, card).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from real_frames import command

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "src/manyview/assets/manyview-tiny"
SIZE = ("--size", "112x154")
RENDER = ("--scenes", 900, "--views", 8, *SIZE, "--seed", 1)
TRAIN = (
    "--preset",
    "tiny",
    "--steps",
    2800,
    "--set",
    "run.batch=3",
    "method.views=3",
    "method.loss=robust",
    "method.alpha_global=1.0",
    "method.gamma=0.05",
)

PROVENANCE = (
    " These weights were made with the code of commit 55dff2d (scene generator version 1), in 2,533 s on one core; "
    "the present generator (version 2) draws other rooms from the same seeds, so running the commands today gives "
    "another model of the same kind."
)
"""What is true of the weights now in the box and not of the script; empty again when it has made new ones."""


def make(out: Path, workers: int) -> list[str]:
    """The run directory's model in `out/run/model`; the commands that made it."""
    rooms, cache, run = out / "rooms", out / "cache", out / "run"
    steps: list[tuple[object, ...]] = [
        ("data", "synth", rooms, *RENDER),
        ("cache", "build", rooms / "manifest.parquet", "--teacher", "sensor", *SIZE, "--views", 8, "-o", cache),
        ("train", "distill3r", *TRAIN, "--cache", cache, "--data", rooms / "manifest.parquet", "-o", run),
    ]
    if not (run / "model").is_dir():
        command(*steps[0], "--workers", workers)
        command(*steps[1])
        command(*(("train", "--resume", "-o", run) if (run / "config.json").is_file() else steps[2]))
    return [" ".join(["manyview", *(_short(word, out) for word in step)]) for step in steps]


def _short(word: object, out: Path) -> str:
    return str(word.relative_to(out)) if isinstance(word, Path) else str(word)


def judge(model: Path, out: Path, real: Path | None) -> dict[str, dict[str, Any]]:
    """{what: summary of recon-per-view} on rooms with other seeds, and on real frames it never saw."""
    rooms = out / "unseen_rooms"
    command("data", "synth", rooms, "--scenes", 12, "--views", 4, *SIZE, "--seed", 2)
    data = {"12 procedural scenes with other seeds (4 views each)": rooms / "manifest.parquet"}
    if real is not None:
        data["Real frames: 7-Scenes red kitchen (Kinect), every 20th video frame, no training on it"] = (
            out / "real.parquet"
        )
        command("data", "scan", real, "--format", "manyview", "--stride", 4, "-o", out / "real.parquet")
    found = {}
    for number, (name, manifest) in enumerate(data.items()):
        file = out / f"judged{number}.json"
        command(
            "eval",
            "recon-per-view",
            "--model",
            model,
            "--data",
            manifest,
            "--baselines",
            "-o",
            out / f"judged{number}",
            "--json",
            file,
            "--overwrite",
        )
        found[name] = json.loads(file.read_text(encoding="utf-8"))
    return found


def card(commands: list[str], judged: dict[str, dict[str, Any]]) -> str:
    """The README.md beside the weights."""
    from manyview.evaluation.recon_per_view import ReconPerView

    parts = [
        "# manyview-tiny",
        "A Distill3R-style reconstructor of 5.8 million parameters that runs on a CPU: pictures in, pointmaps and "
        "confidences out, 154 pixels on the long side. Trained by us on procedural rooms and tables only, with "
        "measured (rendered) depth and poses as its teacher. **Licence: Apache-2.0**, weights included.",
        "**What it is for:** trying the package offline, a warm start for your own small student, tests.",
        "**What it is not:** accurate. It sees 154 pixels, has seen no photo in training, has no metric scale on "
        "real pictures, and is weak at relating views: look at the last table of each section before you rely on "
        "its poses. `manyview reconstruct` warns when cameras and points disagree.",
        "## The commands that made it",
        "```sh\n" + "\n".join(commands) + "\n```",
        "`python benchmarks/bundled_model.py --install` runs them and writes this page; weights are stored as "
        "float16." + PROVENANCE,
    ]
    for name, summary in judged.items():
        parts += [f"## {name}", ReconPerView().markdown(summary).split("\n", 2)[2].strip()]
    return "\n\n".join(parts) + "\n"


def install(model: Path, text: str) -> None:
    """Half-precision weights and the card into the package."""
    from manyview import zoo
    from manyview.files import write_text

    zoo.save_model(zoo.load(model), ASSETS, zoo.CARDS["manyview-tiny"], half=True)
    write_text(ASSETS / "README.md", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("out/bundled"))
    parser.add_argument("--real", type=Path, help="also judge on this folder of real posed RGB-D frames")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--install", action="store_true", help="write the model into the package")
    args = parser.parse_args()
    commands = make(args.out, args.workers)
    model = args.out / "run" / "model"
    judged = judge(model, args.out, args.real)
    text = card(commands, judged)
    (args.out / "card.md").write_text(text, encoding="utf-8")
    if args.install:
        install(model, text)
        print(f"wrote {ASSETS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
