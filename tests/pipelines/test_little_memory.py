"""Little memory: a reconstruction fits what is left after the imports, and where it cannot, one line says so."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from manyview.cli import main as command
from manyview.engine import memory
from manyview.pipelines import evidence
from manyview.scene import store

LIMITED = """
import resource, sys, warnings
warnings.simplefilter("ignore")
import manyview.pipelines.reconstruct, manyview.scene.report, cv2, poselib, scipy.optimize, torch
from manyview.cli.main import main
import manyview as mv
torch.set_num_threads(1)
mv.load("manyview-tiny")
mapped = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
limit = mapped * 1024 + int(float(sys.argv[1]) * 1e6)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
raise SystemExit(main(["reconstruct", sys.argv[2], "-o", sys.argv[3], "--model", "manyview-tiny", "--no-report"]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six overlapping pieces of one textured wall."""
    place = tmp_path_factory.mktemp("wall")
    noise = np.random.default_rng(5).uniform(0, 255, (40, 70, 3)).astype(np.uint8)
    wall = cv2.resize(noise, (560, 320), interpolation=cv2.INTER_CUBIC)
    for number in range(6):
        Image.fromarray(wall[40:280, 30 * number : 30 * number + 320]).save(place / f"{number}.png")
    return place


def limited(megabytes, folder, out):
    words = [sys.executable, "-c", LIMITED, str(megabytes), str(folder), str(out)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def test_a_few_photos_fit_a_small_limit_of_addresses(folder, tmp_path):
    done = limited(400, folder, tmp_path / "scene")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scene/scene.json").is_file()


def test_too_small_a_limit_is_one_line(folder, tmp_path):
    done = limited(12, folder, tmp_path / "scene")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("manyview reconstruct:")
    assert "memory" in last
    assert "--image-size" in last
    assert not (tmp_path / "scene").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3.6 GiB for an array with shape (30000, 30000)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
        cv2.error("OpenCV(4.1) (-4:Insufficient memory) Failed to allocate 99 bytes"),
        OSError(12, "Cannot allocate memory"),
    ],
)
@pytest.mark.parametrize("where", [(evidence, "solve"), (store, "_write_view")])
def test_memory_that_runs_out_anywhere_is_one_line_with_a_mend(error, where, folder, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(*where, full)
    words = ["reconstruct", str(folder), "-o", str(tmp_path / "scene"), "--model", "manyview-tiny"]
    assert command.main([*words, "--max-frames", "2", "--no-report"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "memory" in said
    assert "allocate" in said
    assert not (tmp_path / "scene").exists()


def test_other_failures_are_not_called_lack_of_memory(folder, tmp_path, monkeypatch):
    def wrong(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(evidence, "solve", wrong)
    with pytest.raises(RuntimeError, match="shapes"):
        command.main(["reconstruct", str(folder), "-o", str(tmp_path / "scene"), "--model", "manyview-tiny"])
    assert not memory.is_out_of_memory(KeyError("not enough"))
