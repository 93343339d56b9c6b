"""Photos that say little or nothing: nothing is called registered that is not, and the words are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from manyview import zoo
from manyview.cli.main import main
from manyview.data.synthetic.scene import render_scene
from manyview.scene.scene import Scene

SIZE = (180, 240)


def pictures_of(seed, views):
    images = render_scene(seed, views=views, size=SIZE).images
    return list((images.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().numpy())


@pytest.fixture(scope="module")
def room():
    return pictures_of(5, 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    return str(zoo.save_model(zoo.build("manyview-tiny", size="debug"), tmp_path_factory.mktemp("m") / "model"))


@pytest.fixture
def said(model, tmp_path, capsys):
    """Reconstructs pictures by matches alone; the scene and everything that was said."""

    def run(pictures):
        (tmp_path / "photos").mkdir()
        for number, picture in enumerate(pictures):
            path = tmp_path / "photos" / f"{number}.png"
            path.write_bytes(picture) if isinstance(picture, bytes) else Image.fromarray(picture).save(path)
        line = ["reconstruct", str(tmp_path / "photos"), "-o", str(tmp_path / "s"), "--model", model, "--no-report"]
        assert main([*line, "--cameras", "matches"]) == 0
        scene, (out, error) = Scene.load(tmp_path / "s"), capsys.readouterr()
        for view in scene.views:
            assert view.registered == (view.cam2world is not None and len(scene) > 1)
            assert view.registered <= (view.inliers >= 10)
        return scene, out + error

    return run


def test_five_unrelated_scenes(said):
    scene, words = said([pictures_of(seed, 1)[0] for seed in (101, 202, 303, 404, 505)])
    assert not any(view.registered for view in scene.views)
    assert "0 of 5 registered" in words
    assert "5 of 5 photos match no other one and are placed nowhere" in words
    assert "manyview export" not in words


def test_one_photo(said, room):
    scene, words = said(room[:1])
    assert not scene.views[0].registered
    assert "0 of 1 registered" in words
    assert "match no other" not in words


def test_two_photos_without_overlap(said, room):
    left, right = np.ascontiguousarray(room[0][:, :105]), np.ascontiguousarray(room[0][:, 135:])
    scene, words = said([left, right])
    assert [view.cam2world for view in scene.views] == [None, None]
    assert "2 of 2 photos match no other one" in words


def test_a_textureless_wall_and_noise(said):
    rng = np.random.default_rng(0)
    walls = [np.full((*SIZE, 3), 180, np.uint8) + rng.integers(0, 3, (*SIZE, 3), np.uint8) for _ in range(2)]
    scene, words = said([*walls, *(rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(2))])
    assert not any(view.registered for view in scene.views)
    assert "0 of 4 registered" in words


def test_other_peoples_photos_among_yours_and_a_file_that_is_none(said, room):
    scene, words = said([*room[:3], *(pictures_of(seed, 1)[0] for seed in (101, 202)), b"no picture"])
    assert [view.registered for view in scene.views] == [True, True, True, False, False]
    assert "3 of 5 registered" in words
    assert "2 of 5 photos match no other one and are placed nowhere (3.png, 4.png)" in words
    assert "left out: " in words
    assert "5.png" in words


def test_a_mirrored_photo_among_yours(said, room):
    scene, words = said([*room[:3], np.ascontiguousarray(room[3][:, ::-1])])
    assert [view.registered for view in scene.views] == [True, True, True, False]
    assert "1 of 4 photos match no other one and are placed nowhere (3.png)" in words
