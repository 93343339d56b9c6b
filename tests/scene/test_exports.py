"""Exports, read again by other means: cameras and points agree at the original size, whatever the source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analytic_room import AllKnowing, shots
from by_model import reconstruct
from manyview.errors import UserError
from manyview.images.inputs import Take
from manyview.pipelines.options import ReconstructOptions
from manyview.scene.export_glb import glb_from_scene
from manyview.scene.scene import Scene


def rotation(w: float, x: float, y: float, z: float) -> np.ndarray:
    """The textbook matrix of a unit quaternion, written out anew."""
    return np.array(
        [
            [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
        ]
    )


def read_colmap(directory: Path) -> tuple[dict, list[dict], dict]:
    """cameras {id: (model, w, h, params)}, images as dictionaries, points {id: (xyz, rgb, error, track)}."""
    lines = {
        name: [line for line in (directory / "sparse/0" / name).read_text().split("\n") if not line.startswith("#")]
        for name in ("cameras.txt", "images.txt", "points3D.txt")
    }
    cameras = {}
    for line in filter(None, lines["cameras.txt"]):
        number, model, width, height, *params = line.split()
        cameras[int(number)] = (model, int(width), int(height), [float(p) for p in params])
    images = []
    rows = lines["images.txt"][:-1]
    for header, observed in zip(rows[::2], rows[1::2], strict=True):
        number, *pose, camera, name = header.split(" ")
        pose = [float(value) for value in pose]
        observed = np.array(observed.split(), float).reshape(-1, 3)
        image = {"id": int(number), "R": rotation(*pose[:4]), "t": np.array(pose[4:])}
        image |= {"camera": int(camera), "name": name}
        images.append(image | {"uv": observed[:, :2], "ids": observed[:, 2].astype(int)})
    points = {}
    for line in filter(None, lines["points3D.txt"]):
        values = line.split()
        track = [(int(a), int(b)) for a, b in zip(values[8::2], values[9::2], strict=True)]
        points[int(values[0])] = (np.array(values[1:4], float), np.array(values[4:7], int), float(values[7]), track)
    return cameras, images, points


def through(points: np.ndarray, turn: np.ndarray, t: np.ndarray, *k: float) -> np.ndarray:
    """Pixels of world points (N, 3) in a camera with k = fx, fy, cx, cy."""
    (fx, fy, cx, cy), local = k, points @ turn.T + t
    return np.stack([fx * local[:, 0] / local[:, 2] + cx, fy * local[:, 1] / local[:, 2] + cy], -1)


def test_colmap_agrees_at_the_original_size(scene, known_points, tmp_path):
    cameras, images, points = read_colmap(scene.export_colmap(tmp_path / "c", most=2000))
    assert len(images) == 3
    assert len(points) == 2000
    for image, view, (known, uv) in zip(images, scene.views, known_points, strict=True):
        model, width, height, params = cameras[image["camera"]]
        assert model == "PINHOLE"
        assert (height, width) == view.source.size
        assert np.abs(through(known, image["R"], image["t"], *params) - uv).max() < 0.1
        assert Image.open(tmp_path / "c" / "images" / image["name"]).size == (width, height)
        seen = np.stack([points[i][0] for i in image["ids"]])
        assert np.abs(through(seen, image["R"], image["t"], *params) - image["uv"]).max() < 0.01


def test_colmap_tracks_and_observations_name_each_other(scene, tmp_path):
    _, images, points = read_colmap(scene.export_colmap(tmp_path / "c", most=500))
    lengths = []
    for number, (_, _, error, track) in points.items():
        assert error == -1  # projections are no measurement
        lengths.append(len(track))
        for image, place in track:
            assert images[image - 1]["ids"][place] == number
    assert min(lengths) >= 1
    assert np.mean(lengths) > 1.5  # most of the room is seen twice
    assert sum(lengths) == sum(len(image["ids"]) for image in images)


def test_colmap_tracks_have_an_end(tmp_path, monkeypatch):
    from manyview.scene import export_colmap

    taken = shots(6, size=(112, 154), focal=150)
    scene = reconstruct([s.picture() for s in taken], model=AllKnowing(taken), device="cpu")
    monkeypatch.setattr(export_colmap, "LONGEST_TRACK", 3)
    _, images, points = read_colmap(scene.export_colmap(tmp_path / "c", most=300))
    lengths = [len(track) for *_, track in points.values()]
    assert max(lengths) == 3
    assert min(len(image["ids"]) for image in images) > 50  # no view is left without


def test_exported_pictures_are_upright_and_at_the_points_colours(scene, tmp_path):
    directory = scene.export_colmap(tmp_path / "c", most=3000)
    _, images, points = read_colmap(directory)
    for image in images:
        pixels = np.asarray(Image.open(directory / "images" / image["name"])).astype(int)
        column, row = image["uv"].astype(int).T
        inside = (row < pixels.shape[0]) & (column < pixels.shape[1])
        colours = np.stack([points[i][1] for i in image["ids"]])
        assert np.median(np.abs(pixels[row[inside], column[inside]] - colours[inside])) < 4
    assert (directory / "images" / images[1]["name"]).read_bytes() == Path(scene.views[1].source.path).read_bytes()
    assert Image.open(directory / "images" / images[2]["name"]).getexif().get(0x0112, 1) == 1
    assert not any(" " in image["name"] for image in images)


def test_pycolmap_reads_it(scene, known_points, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(scene.export_colmap(tmp_path / "c", most=1000) / "sparse/0")
    assert model.num_reg_images() == 3
    assert model.num_points3D() == 1000
    image = model.images[2]
    point, uv = known_points[1][0][5], known_points[1][1][5]
    assert np.abs(image.project_point(point) - uv).max() < 0.1


def test_nerfstudio_agrees_at_the_original_size(scene, known_points, tmp_path):
    directory = scene.export_nerfstudio(tmp_path / "n", depth=True)
    document = json.loads((directory / "transforms.json").read_text())
    assert "applied_transform" not in document
    for frame, view, (known, uv) in zip(document["frames"], scene.views, known_points, strict=True):
        pose = np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1])  # OpenGL back to OpenCV
        world2cam = np.linalg.inv(pose)
        params = [frame[key] for key in ("fl_x", "fl_y", "cx", "cy")]
        assert np.abs(through(known, world2cam[:3, :3], world2cam[:3, 3], *params) - uv).max() < 0.1
        assert Image.open(directory / frame["file_path"]).size == (frame["w"], frame["h"]) == view.source.size[::-1]
        depth = np.load(directory / frame["depth_file_path"])
        assert depth.shape == view.source.size
        column, row = uv.astype(int).T
        true = (known @ world2cam[:3, :3].T + world2cam[:3, 3])[:, 2]
        got = depth[row, column]
        assert (got > 0).mean() > 0.8  # the crop leaves up to a patch out
        assert np.median(np.abs(got - true)[got > 0] / true[got > 0]) < 0.01


def test_nerfstudio_points_are_those_of_the_ply(scene, tmp_path):
    import trimesh

    directory = scene.export_nerfstudio(tmp_path / "n", quantile=0.5)
    cloud = trimesh.load(directory / json.loads((directory / "transforms.json").read_text())["ply_file_path"])
    assert np.allclose(cloud.vertices, scene.points(quantile=0.5)[0], atol=1e-6)


def test_ply_holds_points_colours_and_confidences(scene, tmp_path):
    import trimesh

    path = scene.export(tmp_path / "x.ply", quantile=0.3)
    expected = scene.cloud(quantile=0.3)
    cloud = trimesh.load(path)
    assert np.allclose(cloud.vertices, expected.xyz, atol=1e-6)
    assert np.array_equal(cloud.colors[:, :3], expected.rgb)
    header, _, body = path.read_bytes().partition(b"end_header\n")
    assert b"property float confidence" in header
    assert len(body) == len(expected) * 19
    table = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3), ("confidence", "<f4")])
    assert np.array_equal(table["confidence"], expected.confidence)


def test_glb_turns_y_up_and_shows_the_cameras(scene, tmp_path):
    import trimesh

    world = trimesh.load(scene.export(tmp_path / "x.glb"))
    upright, name = world.graph["points"]
    cloud = world.geometry[name]
    xyz, rgb = scene.points()
    assert np.allclose(cloud.vertices, xyz, atol=1e-5)
    assert np.array_equal(cloud.colors[:, :3], rgb)
    assert np.allclose(upright, np.diag([1, -1, -1, 1]))
    _, name = world.graph["cameras"]
    corners = world.geometry[name].vertices
    assert len(corners) == 5 * len(scene)
    for view in scene.views:
        assert np.abs(corners - view.cam2world[:3, 3]).max(1).min() < 1e-5
    floor_up = upright[:3, :3] @ scene.views[0].cam2world[:3, 1]  # the camera's downward axis ...
    assert floor_up[1] < -0.99  # ... points down


def test_glb_of_a_given_world_uses_the_cameras_upward_direction(scene):
    tilted = Scene(scene.views, frame="world")
    turn = glb_from_scene(tilted)[:3, :3]
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1)
    up = -np.mean([view.cam2world[:3, 1] for view in scene.views], axis=0)
    assert np.allclose(turn @ up / np.linalg.norm(up), [0, 1, 0], atol=1e-6)


def test_model_size_needs_no_originals(shots, photos, known_points, tmp_path):
    import shutil

    shutil.copytree(photos, tmp_path / "photos")
    scene = reconstruct(tmp_path / "photos", model=AllKnowing(shots, unit=2.0), device="cpu")
    scene.save(tmp_path / "s")
    shutil.rmtree(tmp_path / "photos")
    loaded = Scene.load(tmp_path / "s")
    for export in (loaded.export_colmap, loaded.export_nerfstudio):
        with pytest.raises(UserError, match="3 of 3 original pictures are gone"):
            export(tmp_path / "out")
        assert not (tmp_path / "out").exists()
    cameras, images, _ = read_colmap(loaded.export_colmap(tmp_path / "c", size="model"))
    for image, view, (known, uv) in zip(images, loaded.views, known_points, strict=True):
        _, width, height, params = cameras[image["camera"]]
        assert (height, width) == view.depth.shape
        model_uv = uv @ view.source.affine[:2, :2].T + view.source.affine[:2, 2]
        assert np.abs(through(known, image["R"], image["t"], *params) - model_uv).max() < 0.2


def test_an_original_that_changed_is_refused(shots, photos, tmp_path):
    import shutil

    shutil.copytree(photos, tmp_path / "photos")
    scene = reconstruct(tmp_path / "photos", model=AllKnowing(shots), device="cpu")
    Image.new("RGB", (77, 55)).save(tmp_path / "photos" / "2.jpg")
    with pytest.raises(UserError, match="is now 77x55, the scene was made from 350x233"):
        scene.export_colmap(tmp_path / "c")
    (tmp_path / "photos" / "2.jpg").write_bytes(b"gone")
    with pytest.raises(UserError, match="no longer be read"):
        scene.export_nerfstudio(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_exports_replace_themselves_only(scene, tmp_path):
    for export in (scene.export_colmap, scene.export_nerfstudio):
        target = tmp_path / export.__name__
        export(target)
        export(target)
        (tmp_path / "mine" / "sparse" / "0").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / "sparse" / "0" / "cameras.txt").write_text("# Camera list\n")
        with pytest.raises(UserError, match="not empty"):
            export(tmp_path / "mine")


def test_video_frames_are_fetched_again_for_the_export(tmp_path):
    cv2 = pytest.importorskip("cv2")
    taken = shots(6, size=(112, 154), focal=150)
    writer = cv2.VideoWriter(str(tmp_path / "walk.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (154, 112))
    for shot in taken:
        writer.write(shot.picture()[..., ::-1].copy())
    writer.release()
    options = ReconstructOptions(take=Take(stride=2))
    scene = reconstruct(tmp_path / "walk.avi", model=AllKnowing(taken[::2]), device="cpu", options=options)
    assert [view.source.frame for view in scene.views] == [0, 2, 4]
    scene.save(tmp_path / "s")
    directory = Scene.load(tmp_path / "s").export_colmap(tmp_path / "c")
    for view, shot in zip(scene.views, taken[::2], strict=True):
        exported = np.asarray(Image.open(directory / "images" / view.name)).astype(int)
        assert np.abs(exported - shot.picture()).mean() < 6  # two lossy codecs


def test_arrays_are_exported_from_the_scene_itself(tmp_path):
    taken = shots(2, size=(112, 154), focal=150)
    reconstruct([s.picture() for s in taken], model=AllKnowing(taken), device="cpu").save(tmp_path / "s")
    directory = Scene.load(tmp_path / "s").export_nerfstudio(tmp_path / "n")
    frames = json.loads((directory / "transforms.json").read_text())["frames"]
    assert np.array_equal(np.asarray(Image.open(directory / frames[1]["file_path"])), taken[1].picture())


def test_the_path_says_the_format(scene, tmp_path):
    for name, holds in (("colmap", "sparse/0"), ("room-COLMAP", "sparse/0"), ("a.nerfstudio", "transforms.json")):
        assert (scene.export(tmp_path / name) / holds).exists()
    assert scene.export(tmp_path / "A.PLY").read_bytes()[:3] == b"ply"
    for name in ("mycolmapscene", "colmap.zip", "folder"):
        with pytest.raises(UserError, match="does not say which format it is"):
            scene.export(tmp_path / name)


def test_formats_are_named_and_take_their_own_options(scene, tmp_path):
    assert scene.export(tmp_path / "cloud", to="ply") == tmp_path / "cloud.ply"
    written = scene.export(tmp_path / "c", to="colmap", max_points=7)
    assert len(read_colmap(written)[2]) == 7
    for wrong, words in (
        ({"to": "plly"}, "did you mean 'ply'"),
        ({"to": "ply", "max_points": 7}, "unknown option 'max_points'"),
        ({"to": "colmap", "size": "huge"}, "one of original, model"),
        ({}, "end it in .glb or .ply, call a folder colmap or nerfstudio, or name a format with --to"),
        ({"to": "glb"}, "does not end in .glb"),
    ):
        with pytest.raises(UserError, match=words):
            scene.export(tmp_path / "wrong.xyz", **wrong)
    assert not list(tmp_path.glob("wrong*"))


def test_an_export_without_a_point_says_so(scene, tmp_path):
    with pytest.warns(UserWarning, match="not one point is left to write"):
        scene.export(tmp_path / "none.ply", min_confidence=1e30)
