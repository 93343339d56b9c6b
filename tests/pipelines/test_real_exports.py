"""Eight photos of a real kitchen, exported, and what other programs read there: each held against what others see."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict

import numpy as np
import pytest

import manyview as mv

LEAST = 3
"""Photos that show a point: two that triangulate it, and one that is asked."""


@pytest.fixture(scope="module")
def kitchen(shared):
    folder = shared / "data" / "redkitchen_000_499"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    photos = sorted((folder / "images").iterdir())[::6][:8]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scene = mv.reconstruct(photos)
    assert [view.registered for view in scene.views] == [True] * 8
    return scene


def left_out(projections: dict[int, np.ndarray], shown: dict[int, list[tuple[int, np.ndarray]]]) -> np.ndarray:
    """Pixels between each observation and where the *other* photos of its point put it, by linear triangulation.

    projections: (3, 4) per photo. shown: per point, photos and the pixels (2,) where they show it.
    """
    errors = []
    for places in shown.values():
        for index, (photo, uv) in enumerate(places if len(places) >= LEAST else ()):
            others = [place for other, place in enumerate(places) if other != index]
            rows = [at[axis] * projections[p][2] - projections[p][axis] for p, at in others for axis in (0, 1)]
            rows = np.array([row / np.linalg.norm(row) for row in rows])
            x = projections[photo] @ np.linalg.svd(rows)[2][-1]
            errors.append(np.linalg.norm(x[:2] / x[2] - uv))
    return np.array(errors)


def tracks_of(scene):
    shown = defaultdict(list)
    for view, point, uv in zip(scene.tracks.view, scene.tracks.point, scene.tracks.uv, strict=True):
        shown[int(point)].append((int(view), uv))
    return shown


def judged(errors):
    """Half of the observations lie within 1.5 px of where photos that had no part in it put them."""
    assert len(errors) > 1000
    assert np.median(errors) < 1.5
    assert np.quantile(errors, 0.9) < 5


def test_colmap(kitchen, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(kitchen.export_colmap(tmp_path / "colmap") / "sparse" / "0")
    assert model.num_reg_images() == 8
    cameras = {
        number: model.cameras[image.camera_id].calibration_matrix() @ image.cam_from_world().matrix()
        for number, image in model.images.items()
    }
    shown = {
        number: [(e.image_id, model.images[e.image_id].points2D[e.point2D_idx].xy) for e in point.track.elements]
        for number, point in model.points3D.items()
    }
    judged(left_out(cameras, shown))
    swapped = {**cameras, 3: cameras[4], 4: cameras[3]}  # the control: two cameras taken for each other
    assert np.median(left_out(swapped, shown)) > 10


def test_nerfstudio(kitchen, tmp_path):
    document = json.loads((kitchen.export_nerfstudio(tmp_path / "nerf") / "transforms.json").read_text())

    def cameras(opencv_from_file):
        found = {}
        for number, frame in enumerate(document["frames"]):
            matrix = np.array([[frame["fl_x"], 0, frame["cx"]], [0, frame["fl_y"], frame["cy"]], [0, 0, 1]])
            found[number] = matrix @ np.linalg.inv(np.array(frame["transform_matrix"]) @ opencv_from_file)[:3]
        return found

    def projected(cameras):
        tracks = kitchen.tracks
        away = np.einsum(
            "oij,oj->oi", np.stack([cameras[v] for v in tracks.view]), np.c_[tracks.points, ones][tracks.point]
        )
        return np.linalg.norm(away[:, :2] / away[:, 2:] - tracks.uv, axis=1)

    ones = np.ones(len(kitchen.tracks.points))
    right = cameras(np.diag([1.0, -1, -1, 1]))  # nerfstudio's cameras look along -z, y up
    judged(left_out(right, tracks_of(kitchen)))
    assert np.median(projected(right)) < 1.5
    wrong = cameras(np.eye(4))  # the control: read as OpenCV's
    assert np.median(left_out(wrong, tracks_of(kitchen))) > 10
    assert np.median(projected(wrong)) > 10


@pytest.mark.parametrize("kind", ["ply", "glb"])
def test_clouds_lie_on_what_other_photos_see(kitchen, tmp_path, kind):
    import trimesh

    from manyview.scene.visibility import depths_seen

    loaded = trimesh.load(kitchen.export(tmp_path / f"kitchen.{kind}"))
    if kind == "glb":
        upright, name = loaded.graph["points"]
        assert np.allclose(upright[:3, :3] @ upright[:3, :3].T, np.eye(3), atol=1e-6)
        loaded = loaded.geometry[name]
    cloud = kitchen.cloud()
    assert np.allclose(loaded.vertices, cloud.xyz, atol=1e-5)
    assert np.array_equal(np.asarray(loaded.colors)[:, :3], cloud.rgb)
    chosen = np.random.default_rng(0).permutation(len(cloud))[:20_000]
    apart = []
    for index, view in enumerate(kitchen.views):
        others = chosen[cloud.view[chosen] != index]
        seen, _, depth, there = depths_seen(view, np.asarray(loaded.vertices)[others])
        apart.append(np.abs(np.log(depth[seen] / there[seen])))
    apart = np.concatenate(apart)
    assert len(apart) > 5000
    assert np.median(apart) < 0.15


def test_open3d_reads_the_cloud(kitchen, tmp_path):
    """Not in the extra dev: it brings forty packages and wants a library of the system."""
    why = "needs Open3D: pip install open3d-cpu, and the system's libusb-1.0"
    open3d = pytest.importorskip("open3d", reason=why, exc_type=ImportError)
    loaded = open3d.io.read_point_cloud(str(kitchen.export(tmp_path / "kitchen.ply")))
    cloud = kitchen.cloud()
    assert np.allclose(np.asarray(loaded.points), cloud.xyz, atol=1e-5)
    assert np.abs(np.asarray(loaded.colors) * 255 - cloud.rgb).max() < 0.51
