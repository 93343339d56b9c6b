"""A user's mistake is one clear line on stderr and exit code 2; what was good before is still good after."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyview.cli.main import main
from manyview.data.synthetic import write_scenes

SIZE = (28, 42)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two tiny scenes, their manifest, a cache and a finished debug run."""
    root = tmp_path_factory.mktemp("made")
    write_scenes(root / "rooms", scenes=2, views=3, size=SIZE, seed=3)
    manifest = str(root / "rooms/manifest.parquet")
    build = ["cache", "build", manifest, "--teacher", "sensor", "--size", "28x42", "--views", "3"]
    assert main([*build, "-o", str(root / "cache")]) == 0
    train = ["train", "distill3r", "--preset", "debug", "--steps", "2", "--cache", str(root / "cache")]
    assert main([*train, "-o", str(root / "run")]) == 0
    return root


def refused(capsys, *words: object) -> str:
    """Run a command that must fail by the user's mistake; its only line."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as error:  # argparse
        code = error.code
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2, lines
    assert "Traceback" not in "\n".join(lines)
    return lines[-1]


def one_line(capsys, *words: object) -> str:
    line = refused(capsys, *words)
    assert line.startswith(f"manyview {words[0]}: ")
    return line


def test_a_folder_without_images(capsys, made, tmp_path):
    given = ("reconstruct", tmp_path, "--model", made / "run/model", "-o", tmp_path / "scene")
    assert "no images" in one_line(capsys, *given)
    assert not (tmp_path / "scene").exists()
    assert "image" in one_line(capsys, "data", "scan", tmp_path, "--format", "folder", "-o", tmp_path / "m.parquet")


def test_a_missing_depth_file_and_a_broken_pose(capsys, made, tmp_path):
    scene = tmp_path / "scene"
    shutil.copytree(made / "rooms/scene_000000", scene)
    out = ("-o", tmp_path / "m.parquet")
    depth = sorted((scene / "depth").iterdir())[1]
    depth.unlink()
    assert depth.name in one_line(capsys, "data", "scan", scene, "--format", "manyview", *out)
    cameras = json.loads((scene / "cameras.json").read_text())
    Image.fromarray(np.full(SIZE, 1000, np.uint16)).save(depth)
    cameras["frames"][2]["cam2world"][0][3] = float("nan")
    (scene / "cameras.json").write_text(json.dumps(cameras))
    line = one_line(capsys, "data", "scan", scene, "--format", "manyview", *out)
    assert "nan" in line.lower() or "finite" in line
    assert not (tmp_path / "m.parquet").exists()


def test_a_manifest_whose_files_moved(capsys, made, tmp_path):
    shutil.copytree(made / "rooms", tmp_path / "rooms")
    shutil.move(tmp_path / "rooms/manifest.parquet", tmp_path / "manifest.parquet")
    line = one_line(
        capsys, "cache", "build", tmp_path / "manifest.parquet", "--teacher", "sensor", "-o", tmp_path / "c"
    )
    assert "manifest.parquet" in line


def test_a_cache_made_for_another_resolution(capsys, made):
    manifest = made / "rooms/manifest.parquet"
    before = sorted(p.name for p in (made / "cache").rglob("*"))
    line = one_line(
        capsys, "cache", "build", manifest, "--teacher", "sensor", "--size", "42x56", "--views", 3, "-o", made / "cache"
    )
    assert "size" in line
    assert sorted(p.name for p in (made / "cache").rglob("*")) == before
    assert main(["cache", "verify", str(made / "cache")]) == 0


def test_unknown_names_get_a_guess(capsys, made, tmp_path):
    cache = ("--cache", made / "cache", "-o", tmp_path / "run")
    assert "distill3r" in one_line(capsys, "train", "distil3r", *cache)
    assert "tiny" in one_line(capsys, "train", "distill3r", "--preset", "tinny", *cache)
    assert "did you mean 'lr'" in one_line(capsys, "train", "distill3r", "--set", "run.lrr=1", *cache)
    manifest = made / "rooms/manifest.parquet"
    assert "sensor" in one_line(capsys, "cache", "build", manifest, "--teacher", "senzor", "-o", tmp_path / "c")
    assert "recon-per-view" in one_line(capsys, "eval", "recon", "--model", "manyview-tiny", "--data", manifest)
    assert "distill3r" in one_line(capsys, "models", "distil3r")
    assert "--frobnicate" in refused(capsys, "train", "--frobnicate")
    assert "invalid choice" in refused(capsys, "trian")


def test_a_run_is_not_written_over_and_an_empty_one_not_resumed(capsys, made, tmp_path):
    before = (made / "run/metrics.jsonl").read_bytes()
    start = ("train", "distill3r", "--preset", "debug", "--steps", 2, "--cache", made / "cache", "-o", made / "run")
    assert "--resume" in one_line(capsys, *start)
    assert (made / "run/metrics.jsonl").read_bytes() == before
    assert "no run" in one_line(capsys, "train", "--resume", "-o", tmp_path)


def test_weights_of_another_architecture(capsys, made, tmp_path):
    train = ("train", "distill3r", "--preset", "tiny", "--steps", 1, "--cache", made / "cache", "-o", tmp_path / "run")
    line = one_line(capsys, *train, "--init", made / "run/model")
    assert "does not fit" in line
    assert not (tmp_path / "run/checkpoints").exists()


def test_views_than_the_cache_does_not_hold(capsys, made, tmp_path):
    train = ("train", "distill3r", "--preset", "debug", "--set", "method.views=9", "--cache", made / "cache")
    assert "9" in one_line(capsys, *train, "-o", tmp_path / "run")


def test_training_without_a_cache_names_the_command_that_makes_one(capsys, tmp_path):
    assert "manyview cache build" in one_line(capsys, "train", "distill3r", "-o", tmp_path / "run")


def test_one_image_is_enough(capsys, made, tmp_path):
    image = made / "rooms/scene_000000/images"
    scene = tmp_path / "scene"
    model = made / "run/model"
    assert main(["reconstruct", str(sorted(image.iterdir())[0]), "--model", str(model), "-o", str(scene)]) == 0
    assert main(["export", str(scene), "--to", "ply", "-o", str(tmp_path / "x.ply")]) == 0
    assert (tmp_path / "x.ply").stat().st_size > 1000
    assert "next" in capsys.readouterr().out


def test_a_scene_that_is_none(capsys, tmp_path):
    assert str(tmp_path) in one_line(capsys, "export", tmp_path, "--to", "ply", "-o", tmp_path / "x.ply")


def test_variables_that_are_not_set_and_sizes_that_fill_the_memory(capsys, made, tmp_path, monkeypatch):
    image, model = made / "rooms/scene_000000/images/0000.png", made / "run/model"
    monkeypatch.chdir(tmp_path)
    for words in (
        ("reconstruct", "", "--model", model, "-o", "s"),
        ("reconstruct", image, "--model", "", "-o", "s"),
        ("reconstruct", image, "--model", model, "-o", ""),
        ("data", "scan", "", "--format", "folder", "-o", "m.parquet"),
        ("export", "", "-o", "x.ply"),
        ("convert", "", "--arch", "dinov2-vits14", "-o", "m"),
    ):
        assert "it is empty" in one_line(capsys, *words)
    given = ("reconstruct", image, "--model", model, "-o", "s", "--image-size", 1_000_000)
    assert "is too many pixels (178 million at most)" in one_line(capsys, *given)
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_was_refused_does_not_keep_its_folder(capsys, made, tmp_path):
    image, model, out = made / "rooms/scene_000000/images", made / "run/model", tmp_path / "f"
    line = one_line(capsys, "features", image, "--model", model, "--size", 15, "-o", out)
    assert "under 14 pixels" in line
    assert main(["features", str(image), "--model", str(model), "-o", str(out)]) == 0
    assert "another size" in one_line(capsys, "features", image, "--model", model, "--size", 70, "-o", out)
    (tmp_path / "note.txt").write_text("hi")
    one_line(capsys, "distil", tmp_path / "note.txt", "-o", tmp_path / "d")
    line = one_line(capsys, "distil", tmp_path / "note.txt", "--teacher", "banana", "-o", tmp_path / "d")
    assert "banana" in line


def test_an_option_with_parts_is_not_a_number(capsys, made, tmp_path):
    data = ("--data", made / "rooms/manifest.parquet", "-o", tmp_path / "run")
    assert "option 'method' has parts; give one of them: method." in one_line(
        capsys, "train", "mum", "--preset", "debug", "--set", "method=1", *data
    )
