"""From rows to Views: cameras move with the pixels, depth is never mixed, surprises are one line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.data import loading
from manyview.data.loading import load_views
from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.geometry.cameras import project
from manyview.geometry.pointmaps import unproject

POSE = tuple(np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]]).ravel().tolist())


@pytest.fixture
def rgbd(kit, tmp_path):
    """Two frames, 96x72, of a plane at z = 2 that carries a dot, with a near block in the depth's corner."""
    frames = []
    for i, centre in enumerate([(30.0, 50.0), (70.25, 20.75)]):
        y, x = np.mgrid[:72, :96] + 0.5
        blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 18)
        kit.save(tmp_path / f"{i}.png", np.repeat(np.round(blob * 255).astype(np.uint8)[..., None], 3, -1))
        depth = np.full((72, 96), 2000, np.uint16)
        depth[:36, :48] = 500
        depth[60:] = 0
        Image.fromarray(depth).save(tmp_path / f"{i}_depth.png")
        Image.fromarray((depth // 500).astype(np.uint8)).save(tmp_path / f"{i}_labels.png")
        frames.append(
            Frame(
                *("set", "room", str(i), "", f"{i}.png", 96, 72, 80.0, 82.0, 47.0, 36.5, POSE),
                depth=f"{i}_depth.png",
                depth_scale=0.001,
                labels=f"{i}_labels.png",
            )
        )
    return Manifest(frames, tmp_path)


@pytest.mark.parametrize("size", [(28, 42), (56, 42), (35, 35)])
def test_views_at_any_size(rgbd, size):
    views = load_views(rgbd, [1, 0], size)
    assert views.images.shape == (1, 2, 3, *size)
    assert views.images.dtype == torch.float32
    assert views.depth.shape == (1, 2, *size)
    assert views.names == [["1.png", "0.png"]]
    assert torch.equal(views.cam2world[0, 0], torch.tensor(POSE).view(4, 4))
    assert set(views.depth.unique().tolist()) <= {0.0, 0.5, 2.0}


def test_intrinsics_move_with_the_pixels(rgbd):
    views = load_views(rgbd, [0], (40, 48))
    # the dot at (30, 50) of the stored image is a point at z = 2: it must project where it is seen
    point = torch.tensor([[2 * (30.0 - 47.0) / 80, 2 * (50.0 - 36.5) / 82, 2.0]])
    expected, _ = project(point, views.intrinsics[0, 0])
    weight = views.images[0, 0, 0].double()
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    seen = torch.stack([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    assert (seen - expected[0]).abs().max() < 0.1


def test_depth_edges_stay_where_the_picture_has_them(rgbd):
    views = load_views(rgbd, [0], (36, 48))
    near = views.depth[0, 0] == 0.5
    assert near[:18, :24].all()
    assert near.sum() == 18 * 24
    points = unproject(views.depth[0, 0], views.intrinsics[0, 0])
    assert points[17, 23, 0] == pytest.approx((47.0 - 47.0) / 80 * 0.5, abs=0.5 / 80)


def test_what_is_not_known_is_none(rgbd):
    bare = dataclasses.replace(
        rgbd[0], fx=None, fy=None, cx=None, cy=None, cam2world=None, depth=None, depth_scale=None, labels=None
    )
    views = load_views(Manifest([bare], rgbd.root), [0], (28, 28))
    assert views.intrinsics is None
    assert views.cam2world is None
    assert views.depth is None
    mixed = load_views(Manifest([bare, rgbd[1]], rgbd.root), [0, 1], (28, 28))
    assert mixed.intrinsics is None
    assert mixed.cam2world is None
    assert (mixed.depth[0, 0] == 0).all()
    assert (mixed.depth[0, 1] > 0).any()


def test_a_smaller_depth_map_of_the_same_picture_works(rgbd):
    Image.fromarray(np.full((36, 48), 1000, np.uint16)).save(rgbd.root / "0_depth.png")
    assert (load_views(rgbd, [0], (28, 28)).depth == 1).all()


def test_surprises_are_one_line(rgbd, kit):
    turned = np.full((96, 72), 1000, np.uint16)
    Image.fromarray(turned).save(rgbd.root / "0_depth.png")
    with pytest.raises(UserError, match=r"0_depth\.png is 72x96 but its image 0\.png 96x72"):
        load_views(rgbd, [0], (28, 28))
    (rgbd.root / "0_depth.png").unlink()
    with pytest.raises(UserError, match=r"0_depth\.png: no such file"):
        load_views(rgbd, [0], (28, 28))
    kit.save(rgbd.root / "1.png", kit.corners(50, 40))
    with pytest.raises(UserError, match=r"1\.png is 40x50, the manifest says 96x72; scan it again"):
        load_views(rgbd, [1], (28, 28))
    with pytest.raises(UserError, match="no frames"):
        load_views(rgbd, [], (28, 28))


def test_depth_is_decoded_only_where_it_is_asked_for(rgbd, monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "read_depth", lambda *_: asked.append(1) or np.ones((72, 96), np.float32))
    assert load_views(rgbd, [0], (28, 28), depth=False).depth is None
    assert asked == []
    assert load_views(rgbd, [0], (28, 28)).depth is not None
    assert asked == [1]
