"""`manyview reconstruct` and `manyview export`: from photos to files, through a model directory."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from analytic_room import shots
from manyview import zoo
from manyview.cli.main import main
from manyview.scene.scene import Scene


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("models") / "debug"
    zoo.save_model(zoo.build("manyview-tiny", size="debug"), directory)
    return str(directory)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("my photos")
    for index, shot in enumerate(shots(3, size=(120, 160), focal=150)):
        Image.fromarray(shot.picture()).save(folder / f"p{index}.jpg")
    return folder


def test_from_photos_to_every_format(model, folder, tmp_path, capsys):
    scene = str(tmp_path / "my scene")
    arguments = ["reconstruct", str(folder), "-o", scene, "--model", model, "--device", "cpu"]
    assert main([*arguments, "--cameras", "model"]) == 0
    out = capsys.readouterr().out
    assert "my scene" in out
    assert "manyview export '" in out  # what to do next, quoted for the shell
    assert len(Scene.load(scene)) == 3
    for to, name in (("ply", "x.ply"), ("glb", "x.glb"), ("colmap", "c"), ("nerfstudio", "n")):
        assert main(["export", scene, "--to", to, "-o", str(tmp_path / name)]) == 0
        assert str(tmp_path / name) in capsys.readouterr().out
        assert (tmp_path / name).exists()


def test_json_is_one_object_and_nothing_else(model, folder, tmp_path, capsys):
    files = [str(path) for path in sorted(folder.iterdir())]
    arguments = ["reconstruct", *files, "-o", str(tmp_path / "s"), "--model", model, "--json"]
    arguments += ["--intrinsics", "150,150,80,60", "--cameras", "model", "--poses", "similarity"]
    assert main([*arguments, "--image-size", "84"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [set(view) for view in report["views"]] == [
        {"path", "registered", "rests_on", "component", "inliers", "error_px"}
    ] * 3
    assert report["components"] >= 1
    assert report["size"] == [56, 84]
    assert report["median_focal"] == 150
    assert report["scale"] == "relative"
    assert main(["export", str(tmp_path / "s"), "--to", "ply", "-o", str(tmp_path / "cloud"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["wrote"] == str(tmp_path / "cloud.ply")


def test_photos_that_nothing_ties_have_no_camera_and_are_not_exported(model, folder, tmp_path, capsys):
    photos = tmp_path / "noise"
    photos.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (120, 160, 3), np.uint8)
        Image.fromarray(noise).save(photos / f"{number}.png")
    assert main(["reconstruct", str(photos), "-o", str(tmp_path / "s"), "--model", model]) == 0
    out, error = capsys.readouterr()
    assert "0 of 3 registered; 3 rest on nothing" in out
    assert "manyview export" not in out
    assert "3 of 3 photos match no other one and are placed nowhere (0.png, 1.png, 2.png)" in error
    scene = Scene.load(tmp_path / "s")
    assert [view.cam2world for view in scene.views] == [None] * 3
    assert len(scene.points()[0]) == 0
    for to, name in (("ply", "x.ply"), ("glb", "x.glb"), ("colmap", "c"), ("nerfstudio", "n")):
        assert main(["export", str(tmp_path / "s"), "--to", to, "-o", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("manyview: no photo of this scene has a camera") or "no photo of this scene" in error
        assert "\n" not in error
        assert not (tmp_path / name).exists()


def test_one_photo_and_a_random_model(model, folder, tmp_path, capsys):
    assert main(["reconstruct", str(folder / "p0.jpg"), "-o", str(tmp_path / "s"), "--model", model]) == 0
    view = Scene.load(tmp_path / "s").views[0]
    assert np.array_equal(view.cam2world, np.eye(4))
    assert "hardly overlap" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["reconstruct", "{tmp}/empty", "-o", "{tmp}/s"], "no images"),
        (["reconstruct", "{tmp}/nowhere", "-o", "{tmp}/s"], "no such file"),
        (["reconstruct", "{folder}", "-o", "{tmp}/full"], "holds no scene of ours"),
        (["reconstruct", "{folder}", "-o", "{tmp}/s", "--intrinsics", "1,2"], "FX,FY,CX,CY"),
        (["reconstruct", "{folder}", "-o", "{tmp}/s", "--device", "abacus"], "abacus"),
        (["reconstruct", "{folder}", "-o", "{tmp}/s", "--fps", "2"], "--stride"),
        (["export", "{tmp}/empty", "--to", "ply", "-o", "{tmp}/x.ply"], "manyview reconstruct"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments, says, model, folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    filled = [a.format(tmp=tmp_path, folder=folder) for a in arguments]
    if filled[0] == "reconstruct":
        filled += ["--model", model]
    assert main(filled) == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error
    assert not (tmp_path / "s").exists()
    assert (tmp_path / "full" / "thesis.txt").exists()


def test_export_refuses_a_suffix_of_another_format(model, folder, tmp_path, capsys):
    main(["reconstruct", str(folder), "-o", str(tmp_path / "s"), "--model", model])
    assert main(["export", str(tmp_path / "s"), "--to", "ply", "-o", str(tmp_path / "x.glb")]) == 2
    assert "change one of them" in capsys.readouterr().err


def test_export_takes_the_format_from_where_it_goes(model, folder, tmp_path, capsys):
    main(["reconstruct", str(folder), "-o", str(tmp_path / "s"), "--model", model, "--cameras", "model"])
    for flags, what in (
        (["-o", str(tmp_path / "x.glb"), "--min-confidence", "0.1"], "x.glb"),
        (["--out", str(tmp_path / "x-colmap"), "--max-points", "9"], "x-colmap/sparse/0/points3D.txt"),
        ([f"-o{tmp_path / 'y.ply'}"], "y.ply"),
    ):
        assert main(["export", str(tmp_path / "s"), *flags]) == 0, capsys.readouterr().err
        assert (tmp_path / what).is_file()
    assert main(["export", str(tmp_path / "s"), "-o", str(tmp_path / "x")]) == 2
    assert "call a folder colmap or nerfstudio" in capsys.readouterr().err
