"""Photos held out of a scene are found in it, unrelated ones are refused, and a scene grows only into a new one."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import manyview as mv
from manyview import zoo
from manyview.cameras.keypoints import Keypoints, detect
from manyview.cameras.locate import Landmarks, locate
from manyview.cli.main import main
from manyview.data.synthetic.scene import render_scene
from manyview.errors import UserError
from manyview.images.inputs import Picture
from manyview.pipelines import localise as localising
from manyview.pipelines.options import ReconstructOptions
from symmetric_wall import FOCAL, symmetric_wall, wall_seen

SIZE = (240, 320)


def save(images, folder):
    folder.mkdir(parents=True)
    for number, picture in enumerate((images.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().numpy()):
        Image.fromarray(picture).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A scene of views 0, 1, 3 of a room under given poses; view 2 and another room are held out."""
    folder = tmp_path_factory.mktemp("localise")
    torch.manual_seed(0)
    zoo.save_model(zoo.build("manyview-tiny", size="debug"), folder / "model")
    room = render_scene(5, views=4, size=SIZE)
    save(room.images, folder / "room")
    save(render_scene(77, views=1, size=SIZE).images, folder / "other")
    true = room.cam2world.double().numpy()
    photos = [folder / "room" / f"{n}.png" for n in (0, 1, 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = ReconstructOptions(cameras="matches")
        scene = mv.reconstruct(photos, model=folder / "model", cam2world=true[[0, 1, 3]], options=options)
    scene.save(folder / "scene")
    return folder, true, float(room.intrinsics[0, 0, 0])


def test_a_photo_held_out_is_found_where_it_was_taken(work, tmp_path, capsys):
    folder, true, focal = work
    line = ["localise", str(folder / "room" / "2.png"), "--in", str(folder / "scene")]
    assert main([*line, "-o", str(tmp_path / "new.json"), "--json"]) == 0
    (photo,) = json.loads(capsys.readouterr().out)["photos"]
    off = np.linalg.inv(true[2]) @ np.array(photo["cam2world"])
    assert np.degrees(np.arccos(np.clip((np.trace(off[:3, :3]) - 1) / 2, -1, 1))) < 1
    assert np.linalg.norm(off[:3, 3]) < 0.05 * np.ptp(true[:, :3, 3], axis=0).max()
    assert photo["intrinsics"][0][0] == pytest.approx(focal, rel=0.03)
    assert photo["inliers"] >= 15
    assert photo["error_px"] < 1
    written = json.loads((tmp_path / "new.json").read_text())
    assert np.allclose(written["frames"][0]["cam2world"], photo["cam2world"])
    assert main([*line, "-o", str(tmp_path / "new.json")]) == 2
    assert "is there already" in capsys.readouterr().err
    known = [[focal, 0, 160], [0, focal, 120], [0, 0, 1]]
    (found,) = mv.localise([folder / "room" / "2.png"], folder / "scene", intrinsics=known)
    assert np.array_equal(found.camera.intrinsics, known)


def test_a_stretched_photo_is_found_by_its_two_focal_lengths(work):
    folder, true, focal = work
    with Image.open(folder / "room" / "2.png") as image:
        tall = np.asarray(image.resize((320, 300), Image.Resampling.BICUBIC))
    known = np.array([[focal, 0, 160], [0, 1.25 * focal, 150], [0, 0, 1]])
    (found,) = mv.localise([tall], folder / "scene", intrinsics=known)
    assert np.array_equal(found.camera.intrinsics, known)
    off = found.camera.cam2world[:3, 3] - true[2][:3, 3]
    assert np.linalg.norm(off) < 0.05 * np.ptp(true[:, :3, 3], axis=0).max()


def test_the_error_along_a_long_axis_counts_whole():
    """Points 1 px off along y alone, in a photo whose fy is three times its fx: the error said is that pixel."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-1, -0.3, 2], [1, 0.3, 4], (200, 3))
    uv = np.array([300.0, 900.0]) * points[:, :2] / points[:, 2:] + [320, 240]
    uv[:, 1] += rng.choice([-1.0, 1.0], 200)
    descriptors = torch.from_numpy(rng.integers(0, 255, (200, 128), np.uint8))
    photo, scene = Keypoints(uv, descriptors, 1.0), Landmarks(Keypoints(uv, descriptors, 1.0), points)
    camera, matched = locate(
        photo, (480, 640), [scene], np.array([320.0, 240.0]), focals=[300.0], known=True, aspect=3.0
    )
    assert matched == camera.inliers == 200
    assert camera.error_px == pytest.approx(1.0, abs=0.05)
    assert np.allclose(camera.cam2world, np.eye(4), atol=0.01)
    assert np.allclose(camera.intrinsics, [[300, 0, 320], [0, 900, 240], [0, 0, 1]])


def test_unrelated_photos_are_refused_with_exit_2(work, tmp_path, capsys):
    folder, _, _ = work
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.new("RGB", (320, 240), (180, 180, 180)).save(tmp_path / "wall.png")
    Image.open(folder / "room" / "2.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    photos = [str(folder / "other" / "0.png"), *(str(tmp_path / f"{n}.png") for n in ("noise", "wall", "mirrored"))]
    assert main(["localise", *photos, "--in", str(folder / "scene")]) == 2
    out, error = capsys.readouterr()
    assert out.count("not found") == 4
    assert "4 of 4 photos were not found in the scene: 0.png (" in error
    assert error.strip().count("\n") == 0


def test_photos_are_added_into_a_new_scene(work, tmp_path, capsys):
    folder, true, _ = work
    before = (folder / "scene" / "scene.json").read_bytes()
    line = ["reconstruct", str(folder / "room" / "2.png"), "--into", str(folder / "scene"), "--model"]
    line += [str(folder / "model"), "--cameras", "matches", "--no-report"]
    assert main([*line, "-o", str(folder / "scene")]) == 2
    assert "is the scene itself" in capsys.readouterr().err
    assert main([*line, "-o", str(tmp_path / "larger")]) == 0
    larger = mv.Scene.load(tmp_path / "larger")
    assert [view.rests_on for view in larger.views] == ["given", "given", "given", "matches"]
    assert all(np.array_equal(view.cam2world, true[n]) for view, n in zip(larger.views, (0, 1, 3), strict=False))
    off = larger.views[3].cam2world[:3, 3] - true[2][:3, 3]
    assert np.linalg.norm(off) < 0.05 * np.ptp(true[:, :3, 3], axis=0).max()
    assert (folder / "scene" / "scene.json").read_bytes() == before


def test_a_scene_without_cameras_is_refused(work):
    folder, _, _ = work
    scene = mv.Scene.load(folder / "scene")
    for view in scene.views:
        view.cam2world, view.rests_on = None, "nothing"
    with pytest.raises(UserError, match="no photo of this scene has a camera"):
        mv.localise([folder / "room" / "2.png"], scene)


def test_a_mirrored_photo_of_a_symmetric_wall_fits_and_is_refused_for_its_mirror_image():
    texture = symmetric_wall()
    pixels, points = wall_seen(texture, 0.05)
    keypoints = detect(pixels)
    column, row = keypoints.uv.astype(int).T
    known = np.array([[FOCAL, 0, SIZE[1] / 2], [0, FOCAL, SIZE[0] / 2], [0, 0, 1]])
    sets = {0: [Landmarks(keypoints, points[row, column])]}
    photo, _ = wall_seen(texture, -0.05)
    turned = np.ascontiguousarray(photo[:, ::-1])

    one = localising._localised(Picture("photo", "", pixels=photo), None, sets, known)
    assert one.camera.cam2world[0, 3] == pytest.approx(-0.05, abs=0.01)
    assert not one.mirrored
    other = localising._localised(Picture("turned", "", pixels=turned), None, sets, known)
    assert other.camera is None
    assert other.mirrored
    assert "turned (mirrored" in localising.lost([one, other])
    camera, _ = locate(detect(turned), SIZE, sets[0], known[:2, 2], focals=[FOCAL], known=True)
    assert camera is not None  # by its symmetry alone it would be found
