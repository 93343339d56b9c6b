"""Cameras from matches: true ones on rendered rooms, and none where there is nothing to see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from manyview.cameras import bundle
from manyview.cameras import place as placing
from manyview.cameras import solve as solving
from manyview.cameras.keypoints import detect, match
from manyview.cameras.links import Link, chance
from manyview.cameras.place import View
from manyview.cameras.refine import along_tree
from manyview.cameras.solve import solve
from manyview.data.synthetic.scene import render_scene
from manyview.metrics.pose import pose_auc, relative_pose_errors

SIZE = (240, 320)


class Room:
    """A rendered room as photos, with what a perfect model would say of them."""

    def __init__(self, seed: int, views: int = 4) -> None:
        scene = render_scene(seed, views=views, size=SIZE)
        self.photos = (scene.images.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().numpy()
        self.depth, self.cam2world = scene.depth.numpy(), scene.cam2world.double().numpy()
        self.focal = float(scene.intrinsics[0, 0, 0])

    def views(self, guess: float | None = None, *, blur: float = 0.0) -> list[View]:
        rng = np.random.default_rng(0)
        ratio = (guess or self.focal) / max(SIZE)
        return [View(SIZE, depth * np.exp(blur * rng.standard_normal()), np.eye(3), ratio) for depth in self.depth]


@pytest.fixture(scope="module")
def room() -> Room:
    return Room(5)


def errors_of(solved, cam2world) -> np.ndarray:
    """Larger of rotation and translation error of every pair of one frame; 180 degrees for the others."""
    ours = np.stack([camera.cam2world for camera in solved.cameras])
    turn, shift, pairs = relative_pose_errors(np.linalg.inv(ours), np.linalg.inv(cam2world))
    frame = np.array([camera.component if camera.registered else -1 - n for n, camera in enumerate(solved.cameras)])
    together = frame[pairs[:, 0]] == frame[pairs[:, 1]]
    return np.where(together, np.maximum(turn, shift), 180.0)


def test_cameras_focal_length_and_scale_of_a_room(room):
    solved = solve(room.views(guess=1.35 * room.focal, blur=0.1), lambda: room.photos)
    assert [camera.rests_on for camera in solved.cameras] == ["matches"] * 4
    assert errors_of(solved, room.cam2world).max() < 1.5
    assert solved.cameras[0].intrinsics[0, 0] == pytest.approx(room.focal, rel=0.05)
    ours = np.linalg.norm(solved.cameras[3].cam2world[:3, 3])
    true = np.linalg.norm(np.linalg.inv(room.cam2world[0])[:3] @ room.cam2world[3][:, 3])
    assert ours == pytest.approx(true, rel=0.15)  # metres, from the predicted depth alone
    assert np.allclose(solved.cameras[0].cam2world, np.eye(4))


def test_observations_really_are_where_the_points_project(room):
    solved = solve(room.views(), lambda: room.photos)
    tracks = solved.tracks
    for index, camera in enumerate(solved.cameras):
        own = tracks.view == index
        local = (tracks.points[tracks.point[own]] - camera.cam2world[:3, 3]) @ camera.cam2world[:3, :3]
        projected = local[:, :2] / local[:, 2:] @ camera.intrinsics[:2, :2].T + camera.intrinsics[:2, 2]
        distance = np.linalg.norm(projected - tracks.uv[own], axis=1)
        assert np.median(distance) == pytest.approx(camera.error_px, abs=1e-6)
        assert np.median(distance) < 1
        assert own.sum() == camera.inliers
    assert np.bincount(tracks.point).min() >= 2


def test_given_intrinsics_are_kept_and_adjustment_and_depth_can_be_left_out(room):
    matrix = np.array([[room.focal, 0, SIZE[1] / 2], [0, room.focal, SIZE[0] / 2], [0, 0, 1]])
    views = [View(v.size, v.depth, v.affine, 2.0, intrinsics=matrix) for v in room.views()]
    solved = solve(views, lambda: room.photos)
    assert all(np.array_equal(camera.intrinsics, matrix) for camera in solved.cameras)
    unsure = room.views(guess=1.35 * room.focal, blur=0.3)
    fine, coarse = (
        np.median(errors_of(solve(unsure, lambda: room.photos, adjust=adjust), room.cam2world))
        for adjust in (True, False)
    )
    assert fine < 0.5 * coarse
    alone = solve(views, lambda: room.photos, use_depth=False)
    assert np.median(errors_of(alone, room.cam2world)) < 2


def test_two_rooms_are_two_scenes_and_one_photo_is_alone(room):
    other = Room(77, views=3)
    photos = [*room.photos[:2], *other.photos[:2]]
    views = [*room.views()[:2], *other.views()[:2]]
    solved = solve(views, lambda: photos)
    assert [camera.component for camera in solved.cameras] == [0, 0, 1, 1]
    assert pose_auc(errors_of(solved, np.stack([*room.cam2world[:2], *other.cam2world[:2]])), 30) < 0.5
    solved = solve(room.views()[:1], lambda: room.photos[:1])
    assert [(c.rests_on, c.registered, c.component) for c in solved.cameras] == [("model", False, 0)]


def test_a_false_link_does_not_join_two_scenes(room, monkeypatch):
    other = Room(77, views=3)
    photos, views = [*room.photos[:3], *other.photos[:3]], [*room.views()[:3], *other.views()[:3]]
    true = solving._links

    def with_a_false_one(looks, *rest):
        rng = np.random.default_rng(0)
        pairs = np.stack([rng.permutation(100)[:40], rng.permutation(100)[:40]], 1)
        return [*true(looks, *rest), Link(2, 3, pairs, np.eye(4), "matches", 20.0)]

    monkeypatch.setattr(solving, "_links", with_a_false_one)
    solved = solve(views, lambda: photos)
    assert {camera.component for camera in solved.cameras[:3]} == {0}
    assert {camera.component for camera in solved.cameras[3:]} == {1}
    assert all(camera.registered for camera in solved.cameras)
    assert (
        errors_of(solved, np.stack([*room.cam2world[:3], *other.cam2world[:3]]))[:2].max() < 10
    )  # two lenses of one size


def noise(room):
    return [np.random.default_rng(n).integers(0, 256, (*SIZE, 3), np.uint8) for n in range(4)]


def strangers(room):
    return [Room(seed, views=2).photos[0] for seed in (101, 202, 303, 404)]


def wall(room):
    return [
        np.full((*SIZE, 3), 180, np.uint8) + np.random.default_rng(n).integers(0, 3, (*SIZE, 3), np.uint8)
        for n in range(4)
    ]


@pytest.mark.parametrize("made", [noise, strangers, wall])
def test_nothing_is_registered_where_nothing_matches(room, made):
    photos = made(room)
    solved = solve(room.views(), lambda: photos)
    assert not any(camera.registered for camera in solved.cameras)
    assert [camera.component for camera in solved.cameras] == [0, 1, 2, 3]
    assert len(solved.tracks.points) == 0


def test_a_photo_without_a_model_rests_on_nothing(room):
    solved = solve([View(SIZE), View(SIZE)], lambda: noise(room)[:2])
    assert [camera.rests_on for camera in solved.cameras] == ["nothing", "nothing"]


def test_a_photo_twice_stays_where_it_is_and_rests_on_depth(room):
    photos = [room.photos[0], room.photos[0]]
    views = [room.views()[0]] * 2
    solved = solve(views, lambda: photos)
    assert [camera.rests_on for camera in solved.cameras] == ["depth", "depth"]
    move = solved.cameras[1].cam2world
    assert np.linalg.norm(move[:3, 3]) < 0.02 * np.median(room.depth[0])
    assert np.degrees(np.arccos(np.clip((np.trace(move[:3, :3]) - 1) / 2, -1, 1))) < 0.3


def test_a_mirrored_photo_does_not_join(room):
    photos = [room.photos[0], np.ascontiguousarray(room.photos[1][:, ::-1])]
    solved = solve(room.views()[:2], lambda: photos)
    assert not any(camera.registered for camera in solved.cameras)


def test_what_a_bad_start_leaves_out_comes_back(room, monkeypatch):
    def bent(*given):
        poses = along_tree(*given)
        poses[1:, :3, :3] = poses[1:, :3, :3] @ Rotation.from_rotvec([[0.2, -0.2, 0]]).as_matrix()
        return poses

    monkeypatch.setattr(placing, "along_tree", bent)
    found = {}
    for again in (0, 3):
        monkeypatch.setattr(placing, "AGAIN", again)
        solved = solve(room.views(), lambda: room.photos)
        found[again] = sum(camera.inliers for camera in solved.cameras)
    assert errors_of(solved, room.cam2world).max() < 1.5
    assert found[3] > 1.05 * found[0]


def test_keypoints_are_mutual_and_know_nothing_of_a_plain_picture(room):
    first, second = detect(room.photos[0]), detect(room.photos[1])
    forward, backward = match(first, second), match(second, first)
    assert {tuple(pair) for pair in forward[:, ::-1]} & {tuple(pair) for pair in backward}
    assert len(np.unique(forward[:, 1])) == len(forward)
    assert len(detect(np.zeros((*SIZE, 3), np.uint8))) == 0
    assert match(first, detect(np.zeros((*SIZE, 3), np.uint8))).shape == (0, 2)


def test_chance_tells_few_of_many_from_most_of_few():
    assert chance(15, 20, SIZE, 1.0) < -8 < chance(15, 400, SIZE, 1.0)
    assert chance(5, 5, SIZE, 1.0) == 0


def problem_of(seed: int, *, noise_px: float = 0.0) -> tuple[bundle.Problem, bundle.Solution]:
    """Three cameras that look at sixty points, as bundle adjustment sees them, and the truth."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((-1, -1, 3), (1, 1, 5), (60, 3))
    rotation = np.stack(
        [
            torch.linalg.matrix_exp(torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]])).numpy()
            for a, b, c in rng.normal(0, 0.1, (3, 3))
        ]
    )
    translation = rng.normal(0, 0.4, (3, 3))
    truth = bundle.Solution(rotation, translation, np.array([6.0]), np.array([0.1, -0.1, 0.0]), points)
    view, point = np.repeat(np.arange(3), 60), np.tile(np.arange(60), 3)
    local = np.einsum("oij,oj->oi", rotation[view], points[point]) + translation[view]
    uv = np.exp(6.0) * local[:, :2] / local[:, 2:] + noise_px * rng.standard_normal((180, 2))
    depth = local[:, 2] * np.exp(-truth.log_scale[view])
    seen = bundle.Observations(view, point, uv, np.ones(180), depth, np.full(180, 0.1))
    problem = bundle.Problem(seen, np.zeros(3, int), np.array([6.0]), np.array([0.2]), np.array([True, False, False]))
    return problem, truth


def test_bundle_adjustment_finds_the_truth_again():
    problem, truth = problem_of(1)
    rng = np.random.default_rng(2)
    start = bundle.Solution(
        truth.rotation,
        truth.translation + np.array([[0.0], [1], [1]]) * rng.normal(0, 0.05, (3, 3)),
        truth.log_focal + 0.1,
        np.zeros(3),
        truth.points + rng.normal(0, 0.05, (60, 3)),
    )
    at = bundle.adjust(problem, start, steps=60, enough=1e-12)
    errors, _ = problem.errors(at)
    assert np.abs(errors[:, :2]).max() < 0.05
    assert at.log_focal[0] == pytest.approx(6.0, abs=0.02)


def test_bundle_slopes_are_those_of_small_steps():
    problem, truth = problem_of(3, noise_px=0.5)
    _, local = problem.errors(truth)
    by_camera, by_point = bundle._slopes(problem, truth, local)
    small = 1e-6
    before, _ = problem.errors(truth)
    moved = bundle.Solution(truth.rotation, truth.translation + [0, small, 0], *list(vars(truth).values())[2:])
    assert np.allclose((problem.errors(moved)[0] - before) / small, by_camera[:, :, 4], atol=1e-2, rtol=1e-4)
    longer = bundle.Solution(truth.rotation, truth.translation, truth.log_focal + small, truth.log_scale, truth.points)
    assert np.allclose(
        (problem.errors(longer)[0][:, :2] - before[:, :2]) / small, by_camera[:, :2, 7], atol=1e-2, rtol=1e-4
    )
    shifted = bundle.Solution(*list(vars(truth).values())[:4], truth.points + [0, 0, small])
    assert np.allclose((problem.errors(shifted)[0] - before) / small, by_point[:, :, 2], atol=1e-2, rtol=1e-4)
    turn = np.array([[1.0, -small, 0], [small, 1, 0], [0, 0, 1]])
    turned = bundle.Solution(turn @ truth.rotation, *list(vars(truth).values())[1:])
    assert np.allclose((problem.errors(turned)[0] - before) / small, by_camera[:, :, 2], atol=2e-2, rtol=1e-3)
