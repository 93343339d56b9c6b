"""Focal lengths of photos of one size: two are found where there are two lenses, and one where there is one."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from manyview.cameras import sharing
from manyview.cameras import solve as solving
from manyview.cameras.place import View
from manyview.cameras.sharing import by_own_lenses
from manyview.cameras.solve import solve
from manyview.data.synthetic import furnishing, trajectories
from manyview.data.synthetic.scene import render_world
from manyview.metrics.pose import relative_pose_errors

SIZE = (240, 320)
ZOOM = 1.6


def taken(seed: int, zooms: list[float]) -> tuple[list[np.ndarray], list[View], np.ndarray, np.ndarray]:
    """Photos of a room, what is known of them, their true focal lengths and cam2world; focal lengths are guesses."""
    world = furnishing.build(seed, "room")
    path = trajectories.choose(world, Random(seed), views=len(zooms), size=SIZE, name="orbit", look=False)
    focal, matrices = float(path.intrinsics[0, 0, 0]), path.intrinsics.clone()
    matrices[:, [0, 1], [0, 1]] *= torch.tensor(zooms)[:, None]
    scene = render_world(world, replace(path, intrinsics=matrices), size=SIZE, rng=Random(seed))
    photos = list((scene.images.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().numpy())
    views = [View(SIZE, one, np.eye(3), 1.1 * focal / max(SIZE)) for one in scene.depth.numpy()]
    return photos, views, focal * np.array(zooms), scene.cam2world.double().numpy()


def largest_error(cameras, cam2world: np.ndarray) -> float:
    ours = np.stack([camera.cam2world for camera in cameras])
    turn, shift, _ = relative_pose_errors(np.linalg.inv(ours), np.linalg.inv(cam2world))
    return float(np.maximum(turn, shift).max())


def test_two_focal_lengths_among_photos_of_one_size_are_found(monkeypatch):
    photos, views, true, cam2world = taken(9, [1.0, ZOOM] * 3)
    before = []
    monkeypatch.setattr(solving, "by_own_lenses", lambda *given: before.append(given[0]) or by_own_lenses(*given))
    cameras = solve(views, lambda: photos).cameras
    found = np.array([camera.intrinsics[0, 0] for camera in cameras])
    assert all(camera.registered for camera in cameras)
    assert len(np.unique(found)) == 2
    assert found == pytest.approx(true, rel=0.05)
    assert largest_error(cameras, cam2world) < 3
    ((shared, _),) = before[0].sets
    assert largest_error([shared[index] for index in range(6)], cam2world) > 10  # with one lens for all


def test_one_focal_length_stays_shared():
    photos, views, true, cam2world = taken(9, [1.0] * 4)
    cameras = solve(views, lambda: photos).cameras
    assert len({camera.intrinsics[0, 0] for camera in cameras}) == 1
    assert cameras[0].intrinsics[0, 0] == pytest.approx(true[0], rel=0.05)
    assert largest_error(cameras, cam2world) < 3


def test_focal_lengths_part_at_gaps_and_a_smear_is_several_lenses():
    lens, free = np.zeros(6, int), np.ones(6, bool)
    near = sharing._told_apart(np.array([100, 101, 102, 103, 104, 105.0]), lens, free)
    assert np.array_equal(near, lens)
    two = sharing._told_apart(np.array([100, 150, 101, 152, 99, 149.0]), lens, free)
    assert [int(np.argmax(two == number)) for number in two] == [0, 1, 0, 1, 0, 1]
    smeared = 100 * 1.1 ** np.arange(6)
    smear = sharing._told_apart(smeared, lens, free)
    assert len(np.unique(smear)) > 2
    assert max(np.ptp(np.log(smeared[smear == number])) for number in smear) <= sharing.SAME
    kept = sharing._told_apart(np.array([100, 150, 101, 152, 99, 149.0]), lens, np.arange(6) < 3)
    assert np.array_equal(kept[3:], lens[3:])  # stated and given ones stay together
