"""Chunks and chains, scores of shared points, D2-Net's files, groups of a manifest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyview.data.manifest import Frame, Manifest
from manyview.data.overlap import (
    chains,
    chunks,
    croco_score,
    groups_of,
    point_chains,
    point_iou,
    read_scene_info,
    view_angles,
)
from manyview.errors import UserError


def test_chunks():
    assert chunks(7, 3) == [[0, 1, 2], [3, 4, 5, 6]]
    assert chunks(6, 3) == [[0, 1, 2], [3, 4, 5]]
    assert chunks(2, 3) == [[0, 1]]
    assert chunks(0, 3) == []
    with pytest.raises(UserError, match="chunks of 0"):
        chunks(5, 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 10_000))
def test_chains_agree_with_a_plain_walk(count, length, seed):
    rng = np.random.default_rng(seed)
    score = rng.uniform(-0.5, 1, (count, count))
    found = chains(score, length=length, seed=seed, minimum=1)
    assert sorted(chain[0] for chain in found) == list(range(count))  # every image anchors once
    for chain in found:
        walk = [chain[0]]
        while len(walk) < length:
            free = [i for i in range(count) if i not in walk]
            best = max(free, key=lambda i: score[walk[-1], i], default=None)
            if best is None or score[walk[-1], best] <= 0:
                break
            walk.append(best)
        assert chain == walk


def test_chains_by_seed_and_count():
    score = np.random.default_rng(0).uniform(0, 1, (30, 30))
    first = chains(score, length=5, count=8, seed=3)
    assert first == chains(score, length=5, count=8, seed=3)
    assert first != chains(score, length=5, count=8, seed=4)
    assert len(chains(score, length=5, count=45, seed=0)) == 45  # anchors come again once all had their turn
    assert {len(chain) for chain in first} == {5}


def test_chains_from_starts_share_no_image():
    score = np.ones((9, 9))
    assert chains(score, length=4, minimum=2, starts=[8, 0, 1, 3]) == [[8, 0, 1, 2], [3, 4, 5, 6]]
    found = chains(score, length=4, minimum=2, starts=range(9))
    assert sorted(i for chain in found for i in chain) == list(range(8))  # the ninth alone is too short
    with pytest.raises(UserError, match="3 to 2"):
        chains(score, length=2, minimum=3)
    with pytest.raises(UserError, match=r"\(N, N\)"):
        chains(score[:4], length=2)


def test_chains_leave_short_ones_out():
    score = np.zeros((5, 5))
    score[0, 1] = score[1, 2] = 0.4
    assert chains(score, length=9, minimum=3, seed=0) == [[0, 1, 2]]
    assert sorted(chains(score, length=9, minimum=2, seed=0)) == [[0, 1, 2], [1, 2]]


def test_point_iou_agrees_with_sets():
    rng = np.random.default_rng(1)
    seen = [np.unique(rng.integers(0, 40, n)) for n in (20, 3, 0, 15, 30)]
    expected = [
        [
            0.0 if i == j or not (set(a) | set(b)) else len(set(a) & set(b)) / len(set(a) | set(b))
            for j, b in enumerate(seen)
        ]
        for i, a in enumerate(seen)
    ]
    assert np.allclose(point_iou(seen), expected)
    assert point_iou([]).shape == (0, 0)


def around(degrees):
    angle = np.radians(degrees)
    poses = np.repeat(np.eye(4)[None], len(angle), 0)
    poses[:, 0, 2], poses[:, 2, 2] = np.sin(angle), np.cos(angle)
    poses[:, 0, 0], poses[:, 2, 0] = np.cos(angle), -np.sin(angle)
    return poses


def test_croco_score_is_largest_at_60_degrees():
    angles = view_angles(around([0, 5, 60, 90, 150]))
    assert np.allclose(angles[0], [0, 5, 60, 90, 150])
    score = croco_score(np.full((5, 5), 0.5), angles)[0]
    assert np.allclose(score, [0, 0, 0.5, 0, 0], atol=1e-6)
    assert croco_score(np.full((1, 1), 0.5), np.array([[5.0]]), least_angle=0)[0, 0] == pytest.approx(0.00758, abs=1e-4)
    assert not croco_score(np.full((1, 1), 0.09), np.array([[60.0]])).any()
    assert croco_score(np.full((1, 1), 0.09), np.array([[60.0]]), least_iou=0).any()


def test_point_chains_start_where_most_is_seen():
    seen = [np.arange(10 + i) for i in range(4)]
    found = point_chains(seen, around([0, 15, 30, 45]), length=9, minimum=2)
    assert found == [[3, 0, 2, 1]]  # the farthest view that still sees the same, each time
    assert point_chains(seen, around([0, 1, 2, 3]), length=9, minimum=2) == []


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_scene_info(tmp_path):
    objects = np.empty((3, 2), object)
    objects[:, 0] = "Undistorted_SfM/0000/images/a.jpg", np.eye(4).ravel(), np.eye(3)
    named = dict(zip(("image_paths", "poses", "intrinsics"), objects, strict=True))
    info = read_scene_info(write(tmp_path / "a.npz", **named, overlap_matrix=np.full((2, 2), -1.0)))
    assert info.names == ["a.jpg", None]
    assert info.world2cam[0].shape == (4, 4)
    assert info.intrinsics[1] is None
    with pytest.raises(ValueError, match="no overlap_matrix"):
        read_scene_info(write(tmp_path / "b.npz", **named))
    with pytest.raises(ValueError, match="for 2 images"):
        read_scene_info(write(tmp_path / "c.npz", **named, overlap_matrix=np.eye(3)))


RAN = []


class Bomb:
    def __reduce__(self):
        return RAN.append, ("boom",)


def test_scene_info_runs_no_code(tmp_path):
    bad = np.array([Bomb()], object)
    path = write(tmp_path / "a.npz", image_paths=bad, poses=bad, intrinsics=bad, overlap_matrix=np.eye(1))
    with pytest.raises(ValueError, match="not read"):
        read_scene_info(path)
    assert RAN == []


def manifest(counts, info=None):
    frames = [
        Frame("d", scene, f"{i}", "", f"{scene}/{i}.png", 8, 8)
        for scene, n in counts.items()
        for i in reversed(range(n))
    ]
    return Manifest(frames, "/data", info)


def test_groups_of_a_manifest(tmp_path):
    plain = manifest({"a": 5, "b": 2})
    assert groups_of(plain) == [[4, 3, 2, 1, 0], [6, 5]]  # natural order of the frames
    assert groups_of(plain, chunk=2) == [[4, 3], [2, 1, 0], [6, 5]]
    assert groups_of(manifest({"a": 5}, {"chunk": 3})) == [[4, 3, 2, 1, 0]]
    assert groups_of(manifest({"a": 6}, {"chunk": 3})) == [[5, 4, 3], [2, 1, 0]]
    grouped = manifest({"a": 5}, {"groups": [[0, 3], [1, 2]], "groups_frames": 5, "chunk": 3})
    assert groups_of(grouped) == [[0, 3], [1, 2]]
    with pytest.raises(UserError, match="groups are for 5 frames, it has 3"):
        groups_of(grouped.select("0:3"))
