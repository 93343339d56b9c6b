"""Rigid transforms form a group, act on points, and their parametrisations go there and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rigid import random_points, random_pose
from scipy.spatial.transform import Rotation

from manyview.geometry import poses

BATCHES = [(), (1,), (5,), (2, 3), (0,)]
DTYPES = {torch.float32: 2e-5, torch.float64: 1e-12}


def is_rigid(transform: torch.Tensor, atol: float) -> bool:
    rotation = transform[..., :3, :3]
    eye = torch.eye(3, dtype=transform.dtype).expand_as(rotation)
    bottom = torch.tensor([0.0, 0, 0, 1], dtype=transform.dtype).expand(*transform.shape[:-2], 4)
    return (
        torch.allclose(rotation @ rotation.mT, eye, atol=atol)
        and torch.allclose(torch.linalg.det(rotation), torch.ones((), dtype=transform.dtype), atol=atol)
        and torch.equal(transform[..., 3, :], bottom)
    )


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_group_axioms(batch, dtype):
    atol = DTYPES[dtype]
    a, b, c = (random_pose(*batch, seed=seed, dtype=dtype) for seed in range(3))
    eye = torch.eye(4, dtype=dtype)
    assert is_rigid(a @ b, atol)  # closure
    assert torch.allclose(a @ eye, a)
    assert torch.allclose(eye @ a, a)  # identity
    assert torch.allclose(a @ poses.invert(a), eye.expand_as(a), atol=atol)
    assert torch.allclose(poses.invert(a) @ a, eye.expand_as(a), atol=atol)  # inverse
    assert is_rigid(poses.invert(a), atol)
    assert torch.allclose((a @ b) @ c, a @ (b @ c), atol=10 * atol)  # associativity
    assert torch.allclose(poses.invert(a @ b), poses.invert(b) @ poses.invert(a), atol=10 * atol)
    assert poses.invert(a).dtype == dtype
    assert poses.invert(a).shape == (*batch, 4, 4)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_acting_on_points(batch, dtype):
    atol = 20 * DTYPES[dtype]
    a, b = random_pose(*batch, seed=3, dtype=dtype), random_pose(*batch, seed=4, dtype=dtype)
    points = random_points(*batch, 7, dtype=dtype)
    assert torch.allclose(poses.apply(a @ b, points), poses.apply(a, poses.apply(b, points)), atol=atol)
    assert torch.allclose(poses.apply(poses.invert(a), poses.apply(a, points)), points, atol=atol)
    moved = poses.apply(a, points)
    assert torch.allclose(
        torch.cdist(moved, moved), torch.cdist(points, points), atol=max(atol, 1e-3 if dtype == torch.float32 else 0)
    )
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    assert torch.allclose(moved, (homogeneous @ a.mT)[..., :3], atol=atol)


def test_one_transform_moves_a_batch_and_the_other_way_round():
    one, many = random_pose(seed=5), random_pose(4, seed=6)
    points = random_points(4, 7)
    assert poses.apply(one, points).shape == (4, 7, 3)
    assert poses.apply(many, points[0]).shape == (4, 7, 3)
    assert torch.allclose(poses.apply(many, points[0])[2], poses.apply(many[2], points[0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_quaternions_agree_with_scipy_and_return(dtype):
    rotation = random_pose(200, seed=7, dtype=dtype)[..., :3, :3]
    quaternion = poses.quaternion_from_matrix(rotation)
    expected = torch.from_numpy(Rotation.from_matrix(rotation.double().numpy()).as_quat(scalar_first=True))
    expected = torch.where(expected[:, :1] < 0, -expected, expected).to(dtype)
    assert torch.allclose(quaternion, expected, atol=10 * DTYPES[dtype])
    assert torch.allclose(poses.matrix_from_quaternion(quaternion), rotation, atol=10 * DTYPES[dtype])


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (-1, 2, 3)])
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, math.pi - 1e-4, math.pi - 1e-9, math.pi])
def test_angles_and_quaternions_at_the_delicate_ends(axis, angle):
    unit = np.array(axis) / np.linalg.norm(axis)
    matrix = torch.from_numpy(Rotation.from_rotvec(angle * unit).as_matrix())
    assert float(poses.rotation_angle(matrix)) == pytest.approx(angle, abs=1e-12)
    quaternion = poses.quaternion_from_matrix(matrix)
    assert torch.isfinite(quaternion).all()
    assert torch.allclose(poses.matrix_from_quaternion(quaternion), matrix, atol=1e-9)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 1e-3))
def test_any_quaternion_gives_a_rotation_whatever_its_length_and_sign(values):
    quaternion = torch.tensor(values, dtype=torch.float64)
    matrix = poses.matrix_from_quaternion(quaternion)
    assert is_rigid(poses.pose(matrix, torch.zeros(3, dtype=torch.float64)), 1e-9)
    assert torch.allclose(poses.matrix_from_quaternion(-3 * quaternion), matrix)
    back = poses.quaternion_from_matrix(matrix)
    assert back[0] >= 0
    assert float((back @ (quaternion / quaternion.norm())).abs()) == pytest.approx(1)


def test_rotation_angle_is_a_metric():
    a, b, c = (random_pose(50, seed=seed)[..., :3, :3] for seed in (8, 9, 10))
    between = lambda x, y: poses.rotation_angle(x.mT @ y)
    assert torch.allclose(between(a, b), between(b, a))
    assert (between(a, c) <= between(a, b) + between(b, c) + 1e-9).all()
    assert torch.allclose(between(a, a), torch.zeros(50, dtype=torch.float64), atol=1e-7)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_look_at_sees_its_target_in_the_middle_and_up_is_up(batch):
    eye, target = random_points(*batch, seed=11), random_points(*batch, seed=12)
    cam2world = poses.look_at(eye, target)
    assert is_rigid(cam2world, 1e-9)
    seen = poses.apply(poses.invert(cam2world), target[..., None, :])[..., 0, :]
    assert torch.allclose(seen[..., :2], torch.zeros_like(seen[..., :2]), atol=1e-9)
    assert torch.allclose(seen[..., 2], (target - eye).norm(dim=-1))
    assert torch.allclose(cam2world[..., :3, 3], eye)
    assert (cam2world[..., 2, 1] < 0).all()  # the image's downward axis goes down in the world
    assert torch.allclose(cam2world[..., 2, 0], torch.zeros_like(seen[..., 0]), atol=1e-9)  # the horizon is level


def test_opengl_turns_the_camera_not_the_world():
    cam2world = random_pose(3, seed=13)
    opengl = poses.opengl_from_opencv(cam2world)
    assert is_rigid(opengl, 1e-12)
    assert torch.equal(opengl[..., :3, 3], cam2world[..., :3, 3])
    assert torch.equal(opengl[..., :3, 0], cam2world[..., :3, 0])
    assert torch.equal(opengl[..., :3, 1:3], -cam2world[..., :3, 1:3])
    assert torch.equal(poses.opengl_from_opencv(opengl), cam2world)


def test_gradients_flow_through_transforms():
    quaternion = torch.tensor([1.0, 0.2, -0.1, 0.3], dtype=torch.float64, requires_grad=True)
    translation = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    points = random_points(4)

    def moved(q: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return poses.apply(poses.invert(poses.pose(poses.matrix_from_quaternion(q), t)), points)

    assert torch.autograd.gradcheck(moved, (quaternion, translation))
