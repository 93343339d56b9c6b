"""Scenes rendered while a run trains: pure in the index, wide windows whose answers are true, mirrored ones too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from manyview.batches.worlds import Streaming, WorldBatches, draw_window, overlaps
from manyview.data.synthetic.scene import render_scene
from manyview.data.synthetic.streams import parse_stream
from manyview.engine.feed import Feed
from manyview.errors import UserError
from manyview.geometry import pointmaps, poses
from manyview.geometry.cameras import project
from manyview.teachers.sensor import Sensor

SMALL = Streaming(sizes=("32x48", "48x32"), count=(2, 3), rendered=4)
PLAIN = replace(SMALL, jitter=0.0, hue=0.0, grey=0.0, blur=0.0, noise=0.0)


def batches(streaming: Streaming = SMALL, data: tuple[str, ...] = ("abstract:3",), seed: int = 0) -> WorldBatches:
    return WorldBatches(data, streaming, scenes=2, seed=seed)


def test_a_batch_is_a_function_of_its_index_in_any_process():
    made = batches()
    with Feed(made, range(3), device=torch.device("cpu"), workers=2) as feed:
        loaded = [feed.next() for _ in range(3)]
    for index, views in enumerate(loaded):
        again = batches()(index)
        assert torch.equal(again.images, views.images)
        assert torch.equal(again.depth, views.depth)
        assert again.names == views.names
    assert not {n for row in loaded[0].names for n in row} & {n for row in loaded[1].names for n in row}
    assert not torch.equal(batches(seed=1)(0).images, loaded[0].images)


def test_shapes_follow_the_draw_and_portraits_are_among_them():
    made = [batches()(index) for index in range(6)]
    assert {views.size for views in made} == {(32, 48), (48, 32)}
    assert {views.views for views in made} == {2, 3}
    for views in made:
        assert views.batch == 2 * round(4 / views.views)
        assert (views.images >= 0).all()
        assert (views.images <= 1).all()


@pytest.mark.parametrize("mirrored", [0.0, 1.0])
def test_points_of_one_view_are_found_in_the_others(mirrored):
    """A point of the first view that is inside another one lies on what that one shows, or behind it."""
    views = batches(replace(PLAIN, mirror=mirrored))(1)
    points = Sensor()(views)["pointmap"].value
    colours, depths = 0, []
    for scene in range(views.batch):
        second_from_first = poses.invert(views.cam2world[scene, 1]) @ views.cam2world[scene, 0]
        seen = pointmaps.transform(second_from_first, points[scene, 0]).flatten(0, 1)
        pixels, z = project(seen, views.intrinsics[scene, 1])
        column, row = pixels.floor().long().unbind(-1)
        inside = (z > 0) & (column >= 0) & (row >= 0) & (column < views.size[1]) & (row < views.size[0])
        there = views.depth[scene, 1][row[inside], column[inside]]
        depths.append(((z[inside] - there).abs() < 0.05 * there).float().mean())
        same = inside.clone()
        same[inside] = (z[inside] - there).abs() < 0.02 * there
        first = views.images[scene, 0].flatten(1)[:, same]
        second = views.images[scene, 1][:, row[same], column[same]]
        colours += float((first - second).abs().mean() < (first - second.flip(1)).abs().mean())
    assert torch.stack(depths).mean() > 0.6
    assert colours >= 0.75 * views.batch


def test_windows_keep_to_the_overlap_where_the_scene_can():
    shared = np.array([[1, 0.95, 0.5, 0.1], [0.95, 1, 0.5, 0.1], [0.5, 0.5, 1, 0.3], [0.1, 0.1, 0.3, 1]])
    rng = np.random.default_rng(0)
    drawn = [draw_window(shared, 0, 3, (0.25, 0.85), rng) for _ in range(20)]
    assert all(window == [0, 2, 3] for window in drawn)  # 1 is too near, 3 is only seen from 2
    assert sorted(draw_window(shared, 0, 4, (0.25, 0.85), rng)) == [0, 1, 2, 3]  # all that there is


def test_overlap_is_one_with_itself_and_falls_with_the_turn():
    scene = render_scene(5, views=6, size=(40, 56), kind="abstract", trajectory="pan")
    shared = overlaps(scene.depth, scene.intrinsics, scene.cam2world)
    assert np.diag(shared) == pytest.approx(1, abs=0.02)
    assert np.allclose(shared, shared.T)
    assert shared[0, 1] > shared[0, 3] > shared[0, 5]


def test_consecutive_views_in_order_for_a_video():
    for index in range(4):
        for names in batches(replace(SMALL, order="video"))(index).names:
            numbers = [int(name.rpartition(" ")[2]) for name in names]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_noise_is_added_and_nothing_else_changes_where_nothing_is_asked_for():
    plain, noisy = batches(PLAIN)(0), batches(replace(PLAIN, noise=0.05))(0)
    assert plain.names == noisy.names
    difference = (plain.images - noisy.images).abs()
    assert 0.002 < difference.mean() < 0.05


@pytest.mark.parametrize(
    ("data", "streaming", "said"),
    [
        (["rooms:x"], SMALL, "give a number, such as rooms:1"),
        (["photos.parquet"], SMALL, "procedural scenes only"),
        (["rooms:1"], replace(SMALL, count=(2, 9)), "of 4 rendered ones"),
        (["rooms:1"], replace(SMALL, overlap=(0.9, 0.2)), "two rising numbers"),
        (["rooms:1"], replace(SMALL, sizes=("big",)), "rows x columns"),
    ],
)
def test_what_fits_nothing_is_said(data, streaming, said):
    with pytest.raises(UserError, match=said):
        WorldBatches(data, streaming, scenes=1, seed=0)


def test_streams_are_told_from_files():
    assert parse_stream("worlds:12") == ("worlds", 12)
    assert parse_stream("scenes/manifest.parquet") is None
    assert parse_stream("rooms.parquet:2") is None
