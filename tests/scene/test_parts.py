"""Scenes in several parts and photos without a camera: what exports leave out is said, in words and in the files."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from analytic_room import AllKnowing, shots
from by_model import reconstruct
from manyview.cameras.tracks import Tracks
from manyview.errors import UserError
from manyview.scene.scene import Scene

LEFT_OUT = "1 of 6 photos have no camera and are left out: view-0005.png"
LARGEST = "this is set 0 of 2 that nothing joins, 3 of 6 photos"


@pytest.fixture(scope="module")
def parts() -> Scene:
    """Views 0, 1, 3 share a frame, 2 and 4 another one, and nothing places view 5."""
    taken = shots(6, size=(112, 154), focal=150)
    scene = reconstruct([s.picture() for s in taken], model=AllKnowing(taken), device="cpu")
    component = [0, 0, 1, 0, 1, 2]
    views = [
        replace(view, component=number, rests_on="matches") for view, number in zip(scene.views, component, strict=True)
    ]
    views[5] = replace(views[5], cam2world=None, rests_on="nothing")
    rng = np.random.default_rng(0)
    tracks = Tracks(
        rng.normal(size=(4, 3)) + [0, 0, 5],
        np.array([0, 0, 1, 1]),
        np.array([0, 1, 0, 3, 2, 4, 2, 4]),
        np.array([0, 0, 1, 1, 2, 2, 3, 3]),
        rng.uniform(20, 100, (8, 2)),
    )
    return Scene(views, tracks=tracks)


def test_a_view_without_a_camera_survives_the_disk_and_has_no_point(parts, tmp_path):
    parts.save(tmp_path / "s")
    assert json.loads((tmp_path / "s" / "scene.json").read_text())["views"][5]["cam2world"] is None
    back = Scene.load(tmp_path / "s")
    assert back.views[5].cam2world is None
    assert np.isnan(back.views[5].pointmap).all()
    assert set(back.cloud().view.tolist()) == {0, 1, 3}
    assert len(back.points(component=2)[0]) == 0
    with pytest.raises(UserError, match=r"view-0005\.png has no camera"):
        _ = back.views[5].pose


def test_a_part_is_a_scene(parts):
    part = parts.part(1)
    assert [view.name for view in part.views] == ["view-0002.png", "view-0004.png"]
    assert len(part.points(quantile=0)[0]) == len(parts.points(quantile=0, component=1)[0]) > 0
    assert part.tracks.component.tolist() == [0, 0]
    assert part.tracks.view.tolist() == [0, 1, 0, 1]


def test_colmap_holds_a_model_per_set(parts, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    with pytest.warns(UserWarning, match=LEFT_OUT):
        folder = parts.export_colmap(tmp_path / "c", most=50)
    models = [pycolmap.Reconstruction(folder / "sparse" / number) for number in ("0", "1")]
    names = [sorted(image.name for image in model.images.values()) for model in models]
    assert names == [["view-0000.png", "view-0001.png", "view-0003.png"], ["view-0002.png", "view-0004.png"]]
    assert len(list((folder / "images").iterdir())) == 5
    assert [sum(p.track.length() > 0 for p in model.points3D.values()) for model in models] == [2, 2]
    assert f"# {LEFT_OUT}" in (folder / "sparse/0/images.txt").read_text()
    with pytest.warns(UserWarning, match="this is set 1 of 2"):
        folder = parts.export_colmap(tmp_path / "one", component=1)
    assert len(pycolmap.Reconstruction(folder / "sparse/0").images) == 2
    assert not (folder / "sparse/1").exists()


def test_other_formats_take_the_largest_set_and_say_so(parts, tmp_path):
    import trimesh

    with pytest.warns(UserWarning, match=LARGEST) as said:
        parts.export_nerfstudio(tmp_path / "n")
    texts = [str(one.message) for one in said]
    assert texts[0] == LEFT_OUT
    assert texts[1].startswith(LARGEST)
    document = json.loads((tmp_path / "n" / "transforms.json").read_text())
    assert [frame["file_path"] for frame in document["frames"]] == [f"images/view-000{n}.png" for n in (0, 1, 3)]
    assert document["left_out"] == texts
    with pytest.warns(UserWarning, match=LARGEST):
        path = parts.export(tmp_path / "x.ply", quantile=0)
    header = path.read_bytes().partition(b"end_header")[0].decode()
    assert LEFT_OUT in header
    assert f"element vertex {sum(int(parts.views[n].valid.sum()) for n in (0, 1, 3))}" in header
    with pytest.warns(UserWarning, match="set 1 of 2"):
        path = parts.export(tmp_path / "x.glb", component=1)
    extras = trimesh.load(path).metadata["left_out"]
    assert extras[0] == LEFT_OUT
    assert extras[1].startswith("this is set 1 of 2")


def test_a_set_without_a_camera_and_one_that_is_not_there_are_refused(parts, tmp_path):
    for number in (2, 7):
        with pytest.raises(
            UserError, match=rf"component {number} has no photo with a camera; choose one of 0 \(3 photos"
        ):
            parts.export(tmp_path / "x.ply", component=number)
    alone = Scene([parts.views[5]])
    with pytest.raises(UserError, match="no photo of this scene has a camera"):
        alone.export(tmp_path / "x.ply")
    assert not list(tmp_path.iterdir())


def test_nothing_is_said_of_a_whole_scene(parts, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts.part().export(tmp_path / "x.ply")
