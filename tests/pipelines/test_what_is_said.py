"""Photos that say little or nothing: nothing is called registered that is not, and the words are right."""

from __future__ import annotations

import io
import json
import math
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from manyview import zoo
from manyview.cameras.links import UNLINKED
from manyview.cli.main import main
from manyview.data.synthetic import furnishing, trajectories
from manyview.data.synthetic.scene import render_scene, render_world
from manyview.geometry import poses
from manyview.geometry.cameras import intrinsics_matrix
from manyview.scene.scene import Scene

SIZE = (180, 240)


def pictures_of(seed, views):
    return as_bytes(render_scene(seed, views=views, size=SIZE).images)


def as_bytes(images):
    return list((images.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().numpy())


def turned(seed, size=SIZE, step=0.0):
    """Four photos from the middle of a room, seven degrees apart; with a step of so many metres between them."""
    world = furnishing.build(seed, "room")
    angle = torch.deg2rad(torch.tensor([-14.0, -7.0, 0.0, 7.0])) + 0.7
    eye = torch.tensor([world.size[0] / 2, world.size[1] / 2, 1.5]).repeat(4, 1)
    look = torch.stack([angle.cos(), angle.sin(), torch.full_like(angle, -0.15)], -1)
    aside = torch.tensor([-look[0, 1], look[0, 0], 0.0])
    eye = eye + step * torch.arange(4.0)[:, None] * aside
    focal = max(size) / 2 / math.tan(math.radians(65) / 2)
    matrix = intrinsics_matrix(focal, focal, size[1] / 2, size[0] / 2).expand(4, 3, 3)
    path = trajectories.Path("turn", poses.look_at(eye, eye + look), matrix)
    return as_bytes(render_world(world, path, size=size, rng=Random("sensor")).images)


def jpeg(picture, quality):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@pytest.fixture(scope="module")
def room():
    return pictures_of(5, 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    return str(zoo.save_model(zoo.build("manyview-tiny", size="debug"), tmp_path_factory.mktemp("m") / "model"))


@pytest.fixture
def said(model, tmp_path, capsys):
    """Reconstructs pictures; the scene and everything that was said. By matches alone unless told."""

    def run(pictures, *more, model=model, cameras="matches"):
        (tmp_path / "photos").mkdir()
        for number, picture in enumerate(pictures):
            path = tmp_path / "photos" / f"{number}.png"
            path.write_bytes(picture) if isinstance(picture, bytes) else Image.fromarray(picture).save(path)
        line = ["reconstruct", str(tmp_path / "photos"), "-o", str(tmp_path / "s"), "--model", model, "--no-report"]
        assert main([*line, "--cameras", cameras, *more]) == 0
        scene, (out, error) = Scene.load(tmp_path / "s"), capsys.readouterr()
        for view in scene.views:
            assert view.registered == (view.cam2world is not None and len(scene) > 1)
            assert view.registered <= (view.inliers >= 10 or view.rests_on == "given")
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
    assert {name for pair in scene.info["unlinked"] for name in pair["views"]} >= {"3.png"}
    assert "1 of 4 photos match no other one and are placed nowhere (3.png)" in words


@pytest.mark.parametrize(("seed", "size"), [(11, SIZE), (7, (360, 480))])
def test_a_camera_that_only_turns_has_no_baseline(said, seed, size):
    """Before a turn was asked for, noise and a free focal length made it 5 to 15 % of the depth, "with parallax"."""
    scene, words = said(turned(seed, size), model="manyview-tiny", cameras="auto")
    assert {view.rests_on for view in scene.views} == {"depth"}
    assert "from about one place" in words
    centres = np.stack([view.cam2world[:3, 3] for view in scene.views])
    assert np.abs(centres).max() < 1e-9
    assert 0.9 < scene.views[0].source.intrinsics[0, 0] / (max(size) / 2 / math.tan(math.radians(65) / 2)) < 1.1


def test_a_camera_that_turns_and_steps_aside_has_one(said):
    """The control: the same photos with a step of 25 cm between them."""
    scene, words = said(turned(11, step=0.25), model="manyview-tiny", cameras="auto")
    assert {view.rests_on for view in scene.views} == {"matches"}
    assert "from about one place" not in words


def test_a_camera_that_only_turns_is_placed_nowhere_without_depth(said):
    scene, words = said(turned(11))
    assert not any(view.registered for view in scene.views)
    assert "match no other" not in words
    assert {pair["why"] for pair in scene.info["unlinked"]} >= {UNLINKED["turn"]}
    assert "4 of 4 photos match others without parallax, and nothing says how far away things are" in words


@pytest.mark.parametrize("again", ["to the byte", "recompressed"])
def test_the_same_photo_twice(said, room, again):
    first = jpeg(room[0], 92)
    twice = first if again == "to the byte" else jpeg(room[0], 60)
    scene, words = said([first, twice], model="manyview-tiny", cameras="auto")
    assert [view.rests_on for view in scene.views] == ["depth", "depth"]
    assert np.abs(scene.views[1].cam2world - np.eye(4)).max() < 0.005
    assert "from about one place" in words


def test_the_same_photo_twice_among_others(said, room):
    scene, _ = said([jpeg(room[0], 95), jpeg(room[1], 95), jpeg(room[2], 95), jpeg(room[1], 50)])
    assert [view.registered for view in scene.views] == [True] * 4
    centres = np.stack([view.cam2world[:3, 3] for view in scene.views])
    assert np.linalg.norm(centres[3] - centres[1]) < 0.02 * np.linalg.norm(centres[2] - centres[1])


def test_one_unreadable_file_among_sixty(said):
    rng = np.random.default_rng(0)
    tiny = [rng.integers(0, 256, (24, 32, 3), np.uint8) for _ in range(60)]
    scene, words = said([*tiny[:17], b"\xff\xd8 no picture", *tiny[17:]])
    assert len(scene) == 60
    assert scene.info["skipped"][0].partition(": ")[0].endswith("17.png")
    assert "left out: " in words
    assert "17.png: not an image of a known format" in words
    assert "0 of 60 registered" in words


def test_given_cameras_that_contradict_each_other(said, model, room, tmp_path, capsys):
    true = render_scene(5, views=4, size=SIZE)
    frames = [
        {"file": f"{n}.png", "size": [SIZE[1], SIZE[0]], "K": true.intrinsics[n].tolist(), "cam2world": pose.tolist()}
        for n, pose in enumerate(true.cam2world.double())
    ]
    wrong = [dict(frames[0]), *(dict(frames[n], cam2world=frames[o]["cam2world"]) for n, o in ((1, 2), (2, 3), (3, 1)))]
    (tmp_path / "wrong.json").write_text(json.dumps({"frames": wrong}))
    (tmp_path / "one.json").write_text(json.dumps({"frames": [*frames[:3], dict(wrong[3])]}))
    scene, words = said(room, "--cameras-from", str(tmp_path / "one.json"))
    assert "the matches contradict the given cameras of 1 photos (3.png): mend those" in words
    assert np.allclose(scene.views[3].cam2world, frames[1]["cam2world"])
    line = ["reconstruct", str(tmp_path / "photos"), "-o", str(tmp_path / "t"), "--model", model]
    assert main([*line, "--cameras-from", str(tmp_path / "wrong.json")]) == 2
    error = capsys.readouterr().err.strip()
    assert "the matches between the photos contradict the given cameras" in error
    assert "\n" not in error
    assert not (tmp_path / "t").exists()
