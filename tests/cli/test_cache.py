"""`manyview cache`: what it prints, its exit codes, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from manyview.cli.main import main
from manyview.data.manifest import Frame, Manifest

POSE = (1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Six frames of a flat wall two metres away."""
    frames = []
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((30, 40, 3), 40 * i, np.uint8))
        cv2.imwrite(str(tmp_path / f"{i}.depth.png"), np.full((30, 40), 2000, np.uint16))
        frames.append(
            Frame("toy", "wall", str(i), "train", f"{i}.png", 40, 30, 40, 40, 20, 15, POSE, f"{i}.depth.png", 0.001)
        )
    return Manifest(frames, tmp_path).save(tmp_path / "toy.parquet")


def build(manifest: Path, *more: str) -> list[str]:
    out = str(manifest.parent / "cache")
    return ["cache", "build", str(manifest), "--teacher", "sensor", "-o", out, "--views", "2", "--size", "15x20", *more]


def test_build_info_verify(manifest, capsys):
    cache = str(manifest.parent / "cache")
    assert main(build(manifest)) == 0
    out = capsys.readouterr().out
    assert "wrote 3 samples" in out
    assert "next: manyview cache info" in out
    assert main(["cache", "info", cache]) == 0
    out = capsys.readouterr().out
    for words in ("3 of 3", "15x20", "sensor", "x against plain float16", "licence", "MB"):
        assert words in out
    assert main(["cache", "verify", cache]) == 0
    assert "3 samples" in capsys.readouterr().out


def test_a_second_teacher_joins_and_info_says_who_said_what(manifest, capsys):
    cache = str(manifest.parent / "cache")
    main(build(manifest))
    again = ["small=manyview-tiny" if word == "sensor" else word for word in build(manifest)]
    assert main([*again, "--teacher", "sensor", "--device", "cpu", "--keep", "int8"]) == 0
    assert "wrote 3 samples" in capsys.readouterr().out
    assert main(["cache", "info", cache]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [" ".join(line.split()[:2] + line.split()[3:]) for line in lines if line.split()[:1] == ["teacher"]]
    kinds = "confidences, pointmaps"
    assert told == [f"teacher sensor {kinds}", f"teacher small {kinds}, features kept as int8"]
    assert sum("Apache-2.0" in line for line in lines) == 1
    assert main(["cache", "verify", cache]) == 0


def test_json(manifest, capsys):
    cache = str(manifest.parent / "cache")
    assert main(build(manifest, "--json", "--shard", "1/2")) == 0
    assert json.loads(capsys.readouterr().out) | {"seconds": 0} == {
        "cache": cache,
        "written": 1,
        "skipped": 0,
        "seconds": 0,
        "problems": [],
    }
    assert main(["cache", "info", cache, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["samples"], info["samples_planned"], info["frames"], info["views"]) == (1, 3, 2, 2)
    on_disk = sum(path.stat().st_size for path in (manifest.parent / "cache" / "samples").iterdir())
    assert info["bytes"] == on_disk
    raw = 2 * 15 * 20 * (3 + 3 + 1 + 1) * 2
    assert info["compression"] == pytest.approx(raw / on_disk, abs=0.01)
    assert main(["cache", "verify", cache, "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["problems"] == [{"file": "cache.json", "reason": "1 of 3 samples are there"}]
    assert captured.err.count("\n") == 1


def test_damage_is_exit_code_2_and_building_again_mends_it(manifest, capsys):
    cache = manifest.parent / "cache"
    main(build(manifest))
    archive = cache / "samples" / "000002.zip"
    archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    assert main(["cache", "verify", str(cache)]) == 2
    assert "000002.zip" in capsys.readouterr().err
    archive.unlink()
    assert main(build(manifest)) == 0
    assert "wrote 1 samples" in capsys.readouterr().out
    assert main(["cache", "verify", str(cache)]) == 0


def test_a_missing_depth_file_is_one_line_and_the_rest_is_kept(manifest, capsys):
    (manifest.parent / "3.depth.png").unlink()
    assert main(build(manifest)) == 2
    captured = capsys.readouterr()
    assert "wrote 2 samples" in captured.out
    assert captured.err.count("\n") == 1
    assert "'3.png' has no depth file" in captured.err
    assert "kept" in captured.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--size", "15"), "--size is '15'"),
        (("--size", "15x-2"), "--size"),
        (("--shard", "2/2"), "shard 2/2"),
        (("--views", "0"), "from 1 up"),
        (("--teacher", "fast3r"), "no teacher 'fast3r'"),
        (("--step", "0"), "from 1 up"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(manifest, capsys, more, words):
    assert main(build(manifest, *more)) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert not (manifest.parent / "cache" / "samples").exists()


def test_another_resolution_names_both(manifest, capsys):
    main(build(manifest))
    assert main(build(manifest, "--size", "30x40")) == 2
    assert "size = 15x20, this build has 30x40" in capsys.readouterr().err


def test_no_cache_there(tmp_path, capsys):
    for action in ("info", "verify"):
        assert main(["cache", action, str(tmp_path / "none")]) == 2
        assert "is no teacher cache" in capsys.readouterr().err
