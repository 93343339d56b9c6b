"""Scene: cameras and points agree, thresholds count, the directory is whole, safe and readable by others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyview.errors import UserError
from manyview.scene import store
from manyview.scene.scene import Scene


def project(points: np.ndarray, cam2world: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Plain numpy, so that the geometry package does not judge itself."""
    local = (points - cam2world[:3, 3]) @ cam2world[:3, :3]
    homogeneous = local @ intrinsics.T
    return homogeneous[:, :2] / homogeneous[:, 2:]


def test_points_fall_on_their_own_pixels(scene):
    for view in scene.views:
        rows, columns = np.nonzero(view.valid)
        uv = project(view.pointmap[rows, columns].astype(np.float64), view.cam2world, view.intrinsics)
        assert np.abs(uv - np.stack([columns + 0.5, rows + 0.5], -1)).max() < 1e-2


def test_true_points_fall_on_the_original_pixels(scene, known_points):
    for view, (points, uv) in zip(scene.views, known_points, strict=True):
        assert np.abs(project(points, view.cam2world, view.source.intrinsics) - uv).max() < 0.05


def test_the_affine_joins_both_cameras(scene):
    for view in scene.views:
        assert np.allclose(view.source.affine @ view.source.intrinsics, view.intrinsics)
        height, width = view.depth.shape
        corners = np.array([[0, 0, 1], [width, height, 1]]) @ np.linalg.inv(view.source.affine).T
        assert (corners[:, :2] > -1e-6).all()
        assert (corners[:, :2] < np.array(view.source.size[::-1]) + 1e-6).all()


def test_points_keep_what_the_thresholds_say(scene):
    total = sum(view.valid.sum() for view in scene.views)
    xyz, rgb = scene.points(quantile=0)
    assert xyz.shape == (total, 3)
    assert rgb.shape == (total, 3)
    assert rgb.dtype == np.uint8
    assert len(scene.points()[0]) == pytest.approx(0.9 * total, rel=0.01)
    assert len(scene.points(quantile=0.5)[0]) == pytest.approx(0.5 * total, rel=0.01)
    confidences = np.concatenate([view.confidence.ravel() for view in scene.views])
    limit = float(np.median(confidences))
    assert len(scene.points(min_confidence=limit)[0]) == (confidences >= limit).sum()
    assert len(scene.points(quantile=0, most=1000)[0]) == 1000
    assert len(scene.points(min_confidence=1e9)[0]) == 0
    with pytest.raises(UserError, match="quantile is 1"):
        scene.points(quantile=1)


def test_cloud_says_where_each_point_comes_from(scene):
    cloud = scene.cloud(most=500)
    for index in range(0, 500, 50):
        view = scene.views[cloud.view[index]]
        column, row = (cloud.uv[index] - 0.5).astype(int)
        assert np.array_equal(view.pointmap[row, column], cloud.xyz[index])
        assert np.array_equal(view.image[row, column], cloud.rgb[index])
        assert view.confidence[row, column] == cloud.confidence[index]


def same(a: Scene, b: Scene) -> None:
    assert (a.frame, a.scale, a.scale_source, a.info) == (b.frame, b.scale, b.scale_source, b.info)
    assert len(a) == len(b)
    for one, two in zip(a.views, b.views, strict=True):
        for name in ("image", "depth", "confidence", "intrinsics", "cam2world"):
            assert np.array_equal(getattr(one, name), getattr(two, name)), name
        assert np.array_equal(one.pointmap, two.pointmap, equal_nan=True)
        assert (one.name, one.info) == (two.name, two.info)
        assert (one.source.size, one.source.path) == (two.source.size, two.source.path)
        assert np.array_equal(one.source.affine, two.source.affine)
        assert np.array_equal(one.source.intrinsics, two.source.intrinsics)


def test_round_trip_through_disk(scene, tmp_path):
    scene.save(tmp_path / "s")
    same(scene, Scene.load(tmp_path / "s"))
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_readable_without_this_package(scene, tmp_path):
    """What docs/scene-format.md tells a reader to do."""
    scene.save(tmp_path / "s")
    document = json.loads((tmp_path / "s" / "scene.json").read_text())
    assert (document["format"], document["version"]) == ("manyview-scene", 2)
    for entry, view in zip(document["views"], scene.views, strict=True):
        depth = np.load(tmp_path / "s" / entry["depth"])
        v, u = np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(entry["intrinsics"]).T
        pose = np.array(entry["cam2world"])
        points = (depth[..., None] * rays) @ pose[:3, :3].T + pose[:3, 3]
        assert np.allclose(points[view.valid], view.pointmap[view.valid], atol=1e-5)
        assert Image.open(tmp_path / "s" / entry["image"]).size == depth.shape[::-1]


def test_raw_points_and_pictures_without_a_file_are_kept(scene, tmp_path):
    view = scene.views[0]
    raw = view.pointmap + np.float32(0.25)
    pixels = np.arange(30, dtype=np.uint8).reshape(2, 5, 3)
    source = type(view.source)((2, 5), np.eye(3), np.eye(3), pixels=pixels)
    other = type(view)(**{**vars(view), "raw_pointmap": raw, "source": source})
    Scene([other]).save(tmp_path / "s")
    loaded = Scene.load(tmp_path / "s").views[0]
    assert np.array_equal(loaded.pointmap, raw)
    assert np.array_equal(loaded.source.pixels, pixels)


def test_replaces_a_scene_but_nothing_else(scene, tmp_path):
    target = tmp_path / "s"
    scene.save(target)
    (target / "notes.txt").write_text("mine")
    Scene(scene.views[:1]).save(target)
    assert len(Scene.load(target)) == 1
    assert (target / "notes.txt").read_text() == "mine"
    assert len(list((target / "images").iterdir())) == 1

    other = tmp_path / "holiday"
    other.mkdir()
    (other / "scene.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="holds no scene of ours"):
        scene.save(other)
    assert (other / "scene.json").read_text() == '{"mine": 1}'
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        scene.save(tmp_path / "file")


def test_a_failure_in_the_middle_keeps_the_old_scene(scene, tmp_path, monkeypatch):
    scene.save(tmp_path / "s")
    before = (tmp_path / "s" / "scene.json").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.np, "save", full)
    with pytest.raises(OSError, match="No space"):
        Scene(scene.views[:1]).save(tmp_path / "s")
    assert (tmp_path / "s" / "scene.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: (d / "scene.json").unlink(), "no scene.json"),
        (lambda d: (d / "scene.json").write_text("{"), "not a manyview scene"),
        (lambda d: next((d / "maps").iterdir()).write_bytes(b"\x93NUMPY"), "damaged"),
        (lambda d: next((d / "images").iterdir()).unlink(), "damaged"),
        (lambda d: edit(d, version=99), "version 99"),
        (lambda d: edit(d, views=[{}]), "damaged"),
    ],
)
def test_damage_is_one_line(scene, tmp_path, spoil, says):
    scene.save(tmp_path / "s")
    spoil(tmp_path / "s")
    with pytest.raises(UserError, match=says) as caught:
        Scene.load(tmp_path / "s")
    assert "\n" not in str(caught.value)


def edit(directory: Path, **changes: object) -> None:
    path = directory / "scene.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_scene_file_cannot_name_files_elsewhere(scene, tmp_path):
    scene.save(tmp_path / "s")
    np.save(tmp_path / "secret.npy", scene.views[0].depth)
    views = json.loads((tmp_path / "s" / "scene.json").read_text())["views"]
    views[0]["depth"] = "../secret.npy"
    edit(tmp_path / "s", views=views)
    with pytest.raises(UserError, match="outside the scene"):
        Scene.load(tmp_path / "s")


def test_numbers_that_are_none_survive(scene, tmp_path):
    odd = Scene(scene.views[:1], info={"error": float("nan"), "size": np.int64(3)})
    odd.save(tmp_path / "s")
    assert Scene.load(tmp_path / "s").info == {"error": None, "size": 3}


def test_printing_a_scene_is_one_line(scene):
    assert repr(scene) == "Scene(0 of 3 views registered, 1 components, frame first_view, scale relative)"
    assert repr(scene.views[1]) == "SceneView('2.jpg', 112x70, rests on model, component 0)"


def test_a_scene_is_a_sequence_of_views_that_can_be_compared(scene, tmp_path):
    assert [view.name for view in scene] == [view.name for view in scene.views]
    assert scene[0] is scene.views[0]
    assert scene[-1] is scene.views[-1]
    assert scene[scene.views[1].name] is scene.views[1]
    with pytest.raises(KeyError, match="no view is named 'x'"):
        scene["x"]
    with pytest.raises(IndexError):
        scene[99]
    again = Scene.load(scene.save(tmp_path / "s"))
    assert again == Scene.load(tmp_path / "s")
    again[1].depth[3, 4] += 1e-3
    assert again != Scene.load(tmp_path / "s")
    assert again[0] == scene[0]
    assert again[1] != scene[1]
    assert scene != scene.of([0])
    assert scene != "scene"
    for one in (scene, scene[0], scene[0].source, scene.cloud()):
        assert len(repr(one)) < 200, repr(one)


def test_a_map_that_states_more_than_it_holds_is_damaged_and_not_lack_of_memory(scene, tmp_path):
    scene.save(tmp_path / "s")
    path = tmp_path / "s/maps/0000-depth.npy"
    for stated in ((10**10, 1000), (2**62, 4)):
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": stated})
            file.write(b"1234")
        with pytest.raises(UserError, match="the scene is damaged"):
            Scene.load(tmp_path / "s")
    with pytest.raises(UserError, match="min_confidence is no number"):
        scene.points(min_confidence=float("nan"))


def test_unknown_suffix_is_refused(scene, tmp_path):
    with pytest.raises(UserError, match=r"\.obj"):
        scene.export(tmp_path / "x.obj")
