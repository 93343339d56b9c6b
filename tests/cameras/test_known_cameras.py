"""Cameras that are given: kept to the digit, others placed in their frame, and the wrong ones told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from manyview.cameras.known import towards
from manyview.cameras.place import View
from manyview.cameras.solve import solve
from manyview.data.synthetic.scene import render_scene
from manyview.errors import UserError

SIZE = (240, 320)
UNIT = 3.0  # of the given world, per unit of the predicted depth


@pytest.fixture(scope="module")
def room():
    scene = render_scene(5, views=5, size=SIZE)
    photos = (scene.images.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().numpy()
    cam2world = scene.cam2world.double().numpy()
    cam2world[:, :3, 3] *= UNIT
    focal = float(scene.intrinsics[0, 0, 0])
    matrix = np.array([[focal, 0, SIZE[1] / 2], [0, focal, SIZE[0] / 2], [0, 0, 1]])
    views = [View(SIZE, depth, np.eye(3), intrinsics=matrix) for depth in scene.depth.numpy()]
    return photos, views, cam2world


def posed(views, cam2world, which=None, **changed):
    which = range(len(views)) if which is None else which
    return [replace(v, cam2world=cam2world[i] if i in which else None, **changed) for i, v in enumerate(views)]


def test_given_poses_stay_and_the_points_are_in_their_world(room):
    photos, views, true = room
    solved = solve(posed(views, true), lambda: photos)
    assert solved.denied == []
    for camera, pose, view in zip(solved.cameras, true, views, strict=True):
        assert np.array_equal(camera.cam2world, pose)
        assert np.array_equal(camera.intrinsics, view.intrinsics)
        assert (camera.rests_on, camera.component) == ("given", 0)
        assert camera.error_px < 1
        assert camera.depth_scale == pytest.approx(UNIT, rel=0.02)
    seen = solved.tracks
    local = (seen.points[seen.point[seen.view == 2]] - true[2][:3, 3]) @ true[2][:3, :3]
    uv = seen.uv[seen.view == 2]
    projected = local[:, :2] / local[:, 2:] * views[2].intrinsics[0, 0] + views[2].intrinsics[:2, 2]
    assert np.median(np.linalg.norm(projected - uv, axis=1)) < 1
    depth = views[2].depth[uv[:, 1].astype(int), uv[:, 0].astype(int)]
    assert np.median(local[:, 2] / depth) == pytest.approx(UNIT, rel=0.02)


def test_photos_without_a_pose_are_placed_in_the_world_of_the_given_ones(room):
    photos, views, true = room
    solved = solve(posed(views, true, [1, 3]), lambda: photos)
    assert [camera.rests_on for camera in solved.cameras] == ["matches", "given", "matches", "given", "matches"]
    span = np.ptp(true[:, :3, 3], axis=0).max()
    for index, camera in enumerate(solved.cameras):
        off = camera.cam2world[:3, 3] - true[index][:3, 3]
        assert np.linalg.norm(off) < (1e-12 if index in (1, 3) else 0.02 * span)
    assert {camera.component for camera in solved.cameras} == {0}


def test_unknown_focal_lengths_are_found_from_given_poses(room):
    photos, views, true = room
    focal = views[0].intrinsics[0, 0]
    blind = [replace(v, intrinsics=None, focal=1.3 * focal / 320) for v in posed(views, true)]
    solved = solve(blind[:3], lambda: photos[:3])
    assert solved.denied == []
    assert solved.cameras[0].intrinsics[0, 0] == pytest.approx(focal, rel=0.01)


def test_unequal_focals_and_a_principal_point_off_centre_are_honoured(room):
    """The photos squeezed to 2/3 of their height, and cropped: the same places, as long as the camera says so."""
    photos, views, true = room
    squeezed = [np.asarray(Image.fromarray(p).resize((320, 160), Image.Resampling.BOX))[:130] for p in photos[:3]]
    matrix = np.diag([1, 2 / 3, 1]) @ views[0].intrinsics
    affine = np.diag([1, 3 / 2, 1])
    ours = [View((130, 320), v.depth, affine, intrinsics=matrix) for v in views[:3]]
    one_focal = np.array([[matrix[0, 0], 0, 160], [0, matrix[0, 0], 65], [0, 0, 1]])
    solved = solve(ours, lambda: squeezed)
    wrong = solve([replace(view, intrinsics=one_focal) for view in ours], lambda: squeezed)
    errors = []
    for one in (solved, wrong):
        if not all(camera.registered for camera in one.cameras):
            errors.append(180.0)
            continue
        turn = one.cameras[0].cam2world[:3, :3].T @ one.cameras[-1].cam2world[:3, :3]
        off = turn.T @ (true[0][:3, :3].T @ true[2][:3, :3])
        errors.append(np.degrees(np.arccos(np.clip((np.trace(off) - 1) / 2, -1, 1))))
    assert errors[0] < 1 < errors[1]
    assert np.array_equal(solved.cameras[0].intrinsics, matrix)
    tracks = solved.tracks
    assert tracks.uv[:, 1].max() < 130
    own = tracks.view == 1
    local = np.linalg.inv(solved.cameras[1].cam2world) @ np.c_[tracks.points[tracks.point[own]], np.ones(own.sum())].T
    uv = (matrix @ (local[:3] / local[2])).T[:, :2]
    error = np.median(np.linalg.norm(uv - tracks.uv[own], axis=1))
    assert error < 1
    assert solved.cameras[1].error_px == pytest.approx(error, rel=1e-6)  # in pixels of the photo, not in square ones


def test_one_wrong_pose_is_named_and_kept_and_most_wrong_ones_are_refused(room):
    photos, views, true = room
    moved = true.copy()
    moved[2, :3, 3] += np.array([0.5, 0, 0]) @ true[2][:3, :3].T * UNIT
    solved = solve(posed(views, moved), lambda: photos)
    assert solved.denied == [2]
    assert np.array_equal(solved.cameras[2].cam2world, moved[2])
    for wrong, says in (
        (np.linalg.inv(true), r"\d of 5 photos: they fit as world-to-camera poses"),
        (true @ np.diag([1.0, -1, -1, 1]), "they fit with OpenGL axes"),
        (np.roll(true, 2, axis=0), "check that each camera belongs to its photo"),
    ):
        with pytest.raises(UserError, match=says):
            solve(posed(views, wrong), lambda: photos)


def test_refined_cameras_move_to_the_matches_and_stay_in_their_world(room):
    photos, views, true = room
    rough = true.copy()
    rng = np.random.default_rng(0)
    span = np.ptp(true[:, :3, 3], axis=0).max()
    rough[:, :3, 3] += rng.normal(0, 0.02 * span, (5, 3))
    kept, refined = (solve(posed(views, rough, keep=keep), lambda: photos) for keep in (True, False))

    def off(solved):
        ours = np.stack([camera.cam2world for camera in solved.cameras])
        return np.median(np.linalg.norm(towards(ours, list(true)).poses(ours)[:, :3, 3] - true[:, :3, 3], axis=1))

    assert off(refined) < 0.3 * off(kept)
    assert {camera.rests_on for camera in refined.cameras} == {"matches"}
    middle = np.mean(
        [camera.cam2world[:3, 3] - pose[:3, 3] for camera, pose in zip(refined.cameras, rough, strict=True)], axis=0
    )
    assert np.linalg.norm(middle) < 0.03 * span


def test_a_given_photo_that_matches_nothing_stays_where_it_is_given(room):
    photos, views, true = room
    noise = [*photos[:2], np.full((*SIZE, 3), 90, np.uint8)]
    solved = solve(posed(views[:3], true), lambda: noise)
    assert [(c.rests_on, c.component, c.inliers > 0) for c in solved.cameras] == [("given", 0, True)] * 2 + [
        ("given", 0, False)
    ]


def test_towards_finds_a_similarity_again():
    rng = np.random.default_rng(1)
    ours = np.tile(np.eye(4), (4, 1, 1))
    ours[:, :3, :3] = np.linalg.qr(rng.normal(size=(4, 3, 3)))[0]
    ours[:, :3, :3] *= np.linalg.det(ours[:, :3, :3])[:, None, None]
    ours[:, :3, 3] = rng.normal(size=(4, 3))
    turn = ours[0, :3, :3].copy()
    move = towards(ours, [None, *towards_by_hand(ours, 2.5, turn, [1, 2, 3])[1:]])
    assert move.scale == pytest.approx(2.5)
    assert np.allclose(move.rotation, turn)
    assert np.allclose(move.translation, [1, 2, 3])


def towards_by_hand(poses, scale, rotation, shift):
    moved = poses.copy()
    moved[:, :3, :3] = rotation @ poses[:, :3, :3]
    moved[:, :3, 3] = scale * poses[:, :3, 3] @ rotation.T + shift
    return list(moved)
