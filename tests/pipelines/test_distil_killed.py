"""`manyview distil` killed at random moments: nothing done is done again, nothing is lost, the end is the same.

Every attempt is a process of its own, forked from this one so that it need not import anything.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analytic_room import circle, render
from manyview.data.manifest import Manifest
from manyview.engine import checkpoint
from manyview.geometry import cameras
from manyview.pipelines.distil import distil
from manyview.pipelines.options import DistilOptions
from painted_walls import write_walls

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
COMMON = {"student": "manyview-tiny", "window": 4, "views": 2, "pixels": 28 * 42}
KEPT = ("frames/*", "scene/scene.json", "posed/transforms.json", "cache/samples/*.zip", "run/model/*")
"""What is never made again once it lies whole in its place."""


def photos(folder: Path) -> Path:
    """Ten photos of a room with coloured blocks of several sizes on its walls."""
    size, intrinsics = (144, 192), torch.tensor([[160.0, 0, 96], [0, 160.0, 72], [0, 0, 1]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    tables = [torch.rand(4096, 3, generator=generator) for _ in range(3)]
    folder.mkdir()
    for number, pose in enumerate(circle(10, degrees=14)):
        points = pose[:3, 3] + render(pose, intrinsics, *size)[0][..., None] * (
            cameras.rays(intrinsics, *size) @ pose[:3, :3].T
        )
        picture = torch.zeros(*size, 3)
        for table, cell, share in zip(tables, (0.35, 0.12, 0.05), (0.5, 0.3, 0.2), strict=True):
            x, y, z = (points / cell).floor().long().unbind(-1)
            picture += share * table[(x * 73856093 ^ y * 19349663 ^ z * 83492791) % len(table)]
        Image.fromarray((picture * 255).byte().numpy()).save(folder / f"{number}.png")
    return folder


def walls(folder: Path) -> Path:
    folder.mkdir()
    Manifest(write_walls(folder, scenes=["wall"], frames=16), folder).save(folder / "m.parquet")
    return folder / "m.parquet"


def attempt(images: Path, out: Path, options: DistilOptions, after: float | None) -> float | None:
    """Seconds of a run that ended by itself, None of one that was killed."""
    process = multiprocessing.get_context("fork").Process(target=_work, args=(images, out, options))
    start = time.monotonic()
    process.start()
    process.join(after)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        return None
    assert process.exitcode == 0
    return time.monotonic() - start


def _work(images: Path, out: Path, options: DistilOptions) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    distil(images, out, config=options, device="cpu")


def state(out: Path) -> dict[str, int]:
    """Whole products -> when they were written; of the run the checkpoints that are there."""
    indexed = out / "cache/index.jsonl"
    lines = indexed.read_text().split("\n")[:-1] if indexed.is_file() else []
    samples = {json.loads(line)["archive"] for line in lines}
    found = {}
    for pattern in KEPT:
        for path in out.glob(pattern):
            name = path.relative_to(out).as_posix()
            if not path.name.startswith(".") and (pattern[:5] != "cache" or name.removeprefix("cache/") in samples):
                found[name] = path.stat().st_mtime_ns
    return found


def furthest(out: Path) -> int:
    """The step of the newest checkpoint."""
    return max(checkpoint.steps(out / "run"), default=0)


def kill_and_go_on(images: Path, folder: Path, options: DistilOptions, kills: int, seed: int) -> None:
    """Kill so many attempts at random moments; one that ends by itself is compared with a run that nobody disturbed."""
    whole = attempt(images, folder / "whole", options, None)
    assert whole is not None
    rng, killed, number = np.random.default_rng(seed), 0, 0
    while killed < kills:
        out, ended, number = folder / f"killed-{number}", None, number + 1
        while ended is None:
            before, step = (state(out), furthest(out)) if out.exists() else ({}, 0)
            longest = float(rng.uniform(0.02, 0.9)) * whole if killed < kills else None
            ended = attempt(images, out, options, after=longest)
            after = state(out)
            assert {name: after.get(name) for name in before} == before, "made again, or lost"
            assert furthest(out) >= step
            killed += ended is None
        first, second = (json.loads((place / "result.json").read_text()) for place in (folder / "whole", out))
        assert first["abs_rel"] == second["abs_rel"]
        weights = [(place / "run/model/model.safetensors").read_bytes() for place in (folder / "whole", out)]
        assert weights[0] == weights[1], "bit for bit what an uninterrupted run learns"


@pytest.mark.slow
def test_twenty_kills_from_photos_to_the_end(tmp_path):
    options = DistilOptions(teacher="photos", steps=40, **COMMON)
    kill_and_go_on(photos(tmp_path / "photos"), tmp_path, options, kills=20, seed=0)


@pytest.mark.slow
def test_three_kills_of_a_manifest(tmp_path):
    options = DistilOptions(teacher="sensor", steps=12, **COMMON)
    kill_and_go_on(walls(tmp_path / "walls"), tmp_path, options, kills=3, seed=1)
