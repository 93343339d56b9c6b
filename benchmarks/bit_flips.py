"""Is every flipped bit found by the check that says it would?

    python benchmarks/bit_flips.py --write docs/bit-flips.md

A store, a run, a model and a scene are made; in each of their files single bits are flipped, one at a time: the first
and the last byte, and bytes drawn at random. A flip is found when the check ends in an error, or names the file.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import manyview as mv
from manyview.cache.build import build
from manyview.cache.verify import verify
from manyview.data.synthetic import write_scenes
from manyview.engine import checkpoint
from manyview.errors import UserError
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView, Source
from manyview.teachers.sensor import Sensor
from manyview.written import RECORD


@dataclass(frozen=True)
class Work:
    """A folder, the files in it that a check answers for, and the check: True when it finds everything as it was."""

    name: str
    check: str
    folder: Path
    files: list[Path]
    whole: Callable[[], bool]


@dataclass(frozen=True)
class Row:
    work: str
    check: str
    file: str
    bytes: int
    flips: int
    found: int


def works(folder: Path) -> Iterator[Work]:
    """A small store, run, model and scene, made in `folder`."""
    write_scenes(folder / "rooms", scenes=2, views=2, size=(28, 42), workers=1)
    manifest = folder / "rooms/manifest.parquet"
    build(manifest, Sensor(), folder / "store", views=2, size=(28, 42))
    store = sorted(path for path in (folder / "store").rglob("*") if path.is_file() and not path.name.startswith("."))
    yield Work("store", "manyview cache verify", folder / "store", store, lambda: not verify(folder / "store"))

    mv.train("distill3r", out=folder / "run", preset="debug", data=[manifest], cache=folder / "store",
             settings=["run.steps=2", "run.checkpoint_every=1", "method.views=2"], device="cpu")  # fmt: skip
    newest = checkpoint.folder(folder / "run") / "00000002"
    yield Work("run", "train --resume", folder / "run", sorted(newest.iterdir()),
               lambda: getattr(checkpoint.latest(folder / "run"), "step", None) == 2)  # fmt: skip

    model = folder / "run/model"
    files = sorted(path for path in model.iterdir() if path.is_file())
    yield Work("model", "mv.load(DIR, verify=True)", model, files, lambda: bool(mv.load(model, verify=True)))

    k = np.array([[20.0, 0, 21], [0, 20, 14], [0, 0, 1]])
    draw = np.random.default_rng(0)
    views = [
        SceneView(
            name=f"{index}.png",
            image=draw.integers(0, 255, (28, 42, 3), np.uint8),
            depth=draw.uniform(1, 2, (28, 42)).astype(np.float32),
            confidence=draw.uniform(1, 2, (28, 42)).astype(np.float32),
            intrinsics=k,
            cam2world=np.eye(4),
            source=Source(size=(28, 42), affine=np.eye(3), intrinsics=k),
        )
        for index in range(2)
    ]
    scene = Scene(views).save(folder / "scene")
    files = sorted(path for path in scene.rglob("*") if path.is_file())
    yield Work("scene", "Scene.load(DIR, verify=True), export --verify", scene, files,
               lambda: bool(Scene.load(scene, verify=True)))  # fmt: skip


def found(work: Work) -> bool:
    """Whether the check notices that something is not as it was."""
    try:
        return not work.whole()
    except UserError:
        return True


def flip(work: Work, times: int, seed: int = 0) -> Iterator[Row]:
    """A row per file of a work: how many bits were flipped, and how many of the flips were found."""
    for path in work.files:
        name, whole = path.relative_to(work.folder).as_posix(), path.read_bytes()
        rng = random.Random(f"{seed} {work.name} {name}")
        places = {0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(times))}
        caught = 0
        for place in sorted(places):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            caught += found(work)
        path.write_bytes(whole)
        yield Row(work.name, work.check, name, len(whole), len(places), caught)


def run(times: int = 200) -> list[Row]:
    """Rows of all works; RuntimeError when a check is not content with what was not touched."""
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows: list[Row] = []
        for work in works(Path(place)):
            if found(work):
                raise RuntimeError(f"{work.check} refuses a {work.name} that nobody touched")
            rows += flip(work, times if work.name != "model" else min(times, 40))
        return rows


def page(rows: list[Row]) -> str:
    """docs/bit-flips.md."""
    lines = [
        "# Flipped bits",
        "",
        "A store of a teacher's answers, a run, a model and a scene; single bits flipped in each of their files, one "
        "at a time, the first and the last byte and others at random. Found: the check that is named ends in an error.",
        "",
        "| work | check | file | bytes | flips | found |",
        "| --- | --- | --- | ---: | ---: | ---: |",
        *(f"| {r.work} | `{r.check}` | {r.file} | {r.bytes:,} | {r.flips} | {r.found} |" for r in rows),
        "",
        f"{sum(r.found for r in rows):,} of {sum(r.flips for r in rows):,} are found.",
        "",
        "What no check answers for: of a run `config.json` and `metrics.jsonl`, which are text for people (an option "
        "that changed is refused by --resume where the recipe is called with its options again); of a scene or a model "
        f"that is loaded without `verify` everything that still reads; a scene or model whose record `{RECORD}` is "
        "lost is refused by `verify`, and an edited record with edited files is not noticed: digests are no "
        "signatures.",
        "",
        "Written by `python benchmarks/bit_flips.py --write docs/bit-flips.md`.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200, help="bits per file")
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    args = parser.parse_args()
    logging.getLogger("manyview").setLevel(logging.ERROR)  # what is damaged warns, and is meant to
    text = page(run(args.times))
    print(text)
    if args.write:
        args.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
