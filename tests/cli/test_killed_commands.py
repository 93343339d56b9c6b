"""Commands killed at every rename: the old result or the new one is there, the user's files always, and again works."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manyview import zoo
from manyview.cli.main import main
from manyview.data.manifest import Manifest
from manyview.scene.scene import Scene

KILLED = 137
MINE = {"w/notes.txt": "mine", "w/out/mine.txt": "mine", "w/out/images/mine.png": "mine", "photos/0.png": None}
"""Files of the user's beside and among the results; None: as they are."""


@dataclass(frozen=True)
class Job:
    """A command that makes a result, and the one that makes the next in its place."""

    old: str
    new: str
    result: str
    """What is written, a file or a folder."""
    read: Callable[[Path], object]
    """Reads the result; whatever was cut off is finished by it."""


JOBS = {
    "reconstruct": Job(
        "reconstruct photos --model m --cameras model --max-frames 1 --no-report -o w/out",
        "reconstruct photos --model m --cameras model --no-report -o w/out",
        "w/out",
        Scene.load,
    ),
    "convert": Job(
        "convert a.pth --arch dinov2-vits14 -o w/out", "convert b.pth --arch dinov2-vits14 -o w/out", "w/out", zoo.load
    ),
    "export to a folder": Job(
        "export s1 --to colmap -o w/out", "export s2 --to colmap -o w/out", "w/out", lambda path: list(path.iterdir())
    ),
    "export to a file": Job("export s1 -o w/c.ply", "export s2 -o w/c.ply", "w/c.ply", Path.read_bytes),
    "data scan": Job(
        "data scan photos --format folder --max-frames 1 -o w/m.parquet",
        "data scan photos --format folder -o w/m.parquet",
        "w/m.parquet",
        Manifest.load,
    ),
}


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """Photos, two scenes, a model, two checkpoints."""
    folder = tmp_path_factory.mktemp("kitchen")
    draw = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for index in range(2):
        Image.fromarray(draw.integers(0, 255, (56, 70, 3), np.uint8)).save(folder / f"photos/{index}.png")
    torch.manual_seed(0)
    zoo.save_model(zoo.build("manyview-tiny", size="debug"), folder / "m")
    weights = zoo.export_official(zoo.build("dinov2-vits14", size="debug"))
    torch.save(dict(weights), folder / "a.pth")
    torch.save({name: tensor + 1 for name, tensor in weights.items()}, folder / "b.pth")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name, most in (("s1", 1), ("s2", 2)):
            line = f"reconstruct photos --model m --cameras model --no-report --max-frames {most} -o {name}"
            assert main(line.split()) == 0
    finally:
        os.chdir(before)
    return folder


def run(line: str, *, stop: int | None = None) -> int:
    """The command's exit code in a process of its own, which dies before its rename number `stop`."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.alarm(60)
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            count = iter(range(1, 10_000))
            for name in ("replace", "rename"):
                setattr(os, name, partial(counted, getattr(os, name), count, stop))
            code = main(line.split())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def counted(real: Callable[..., None], count: Iterator[int], stop: int | None, *words: object, **more: object) -> None:
    if next(count) == stop:
        os._exit(KILLED)
    real(*words, **more)


def content(path: Path) -> dict[str, bytes]:
    """Every visible file and what it holds."""
    if path.is_file():
        return {"": path.read_bytes()}
    files = {p.relative_to(path).as_posix(): p for p in sorted(path.rglob("*")) if p.is_file()}
    return {name: p.read_bytes() for name, p in files.items() if not name.startswith(".manyview")}


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".*") if p.name.startswith((".manyview-draft", ".manyview-next"))]


@pytest.mark.parametrize("name", JOBS)
def test_a_kill_at_any_rename_leaves_the_old_or_the_new(kitchen, tmp_path, monkeypatch, name):
    job = JOBS[name]
    home, fresh = tmp_path / "home", tmp_path / "fresh"
    shutil.copytree(kitchen, fresh)
    (fresh / "w/out/images").mkdir(parents=True)
    for place, text in MINE.items():
        if text is not None and (place.startswith("w/out") <= (job.result == "w/out")):
            (fresh / place).write_text(text)
    mine = {place: (fresh / place).read_bytes() for place in MINE if (fresh / place).is_file()}

    def begin() -> None:
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(fresh, home)
        monkeypatch.chdir(home)

    begin()
    asked = "" if job.result != "w/out" else " --overwrite"  # into a folder with files of the user's
    assert run(job.old + asked) == 0
    shutil.rmtree(fresh)
    shutil.copytree(home, fresh)
    old = content(home / job.result)
    assert run(job.new) == 0
    new = content(home / job.result)
    assert old != new
    stop = 0
    while True:
        begin()
        stop += 1
        code = run(job.new, stop=stop)
        assert code in (0, KILLED)
        said = f"{name}, rename {stop}"
        assert {place: (home / place).read_bytes() for place in mine} == mine, said
        job.read(home / job.result)
        if job.read is not JOBS["export to a folder"].read:
            assert content(home / job.result) in (old, new), said
        assert run(job.new) == 0, said
        assert content(home / job.result) == new, said
        assert leftovers(home) == [], said
        assert {place: (home / place).read_bytes() for place in mine} == mine, said
        if code == 0:
            break
    assert stop > 2
