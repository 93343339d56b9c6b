"""The network's poses as hypotheses: taken where matches bear them out, and never on their own word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from manyview.cameras.hypothesis import placed_by_network
from manyview.cameras.keypoints import Keypoints
from manyview.cameras.links import Photo, Unlinked, link
from manyview.cameras.place import Camera, View
from manyview.geometry.poses import look_at

SIZE, FOCAL, PRINCIPAL = (480, 640), 500.0, np.array([320.0, 240.0])


class Pair:
    """Two photos of random points with as many true matches as asked, and others that are chance."""

    def __init__(self, true: int, false: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        eyes = torch.tensor([[0.0, -3, 0], [1.0, -2.8, 0.2]]).double()
        self.cam2world = look_at(eyes, torch.zeros(2, 3).double()).numpy()
        world = rng.uniform(-0.8, 0.8, (true, 3))
        self.photos = []
        for pose in self.cam2world:
            local = (world - pose[:3, 3]) @ pose[:3, :3]
            uv = FOCAL * local[:, :2] / local[:, 2:] + PRINCIPAL + rng.normal(0, 0.3, (true, 2))
            uv = np.concatenate([uv, rng.uniform((0, 0), SIZE[::-1], (false, 2))])
            depth = np.concatenate([local[:, 2], rng.uniform(2, 4, false)])
            keypoints = Keypoints(uv, torch.empty(0), 0.625)
            self.photos.append(Photo(keypoints, SIZE, PRINCIPAL, depth, np.full(len(uv), 0.625)))
        self.matches = np.repeat(np.arange(true + false)[:, None], 2, 1)

    @property
    def j_from_i(self) -> np.ndarray:
        return np.linalg.inv(self.cam2world[1]) @ self.cam2world[0]


def turned(pose: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ pose


def rotation_error(one: np.ndarray, other: np.ndarray) -> float:
    cosine = (np.trace(one[:3, :3].T @ other[:3, :3]) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def test_a_hypothesis_never_makes_a_link_that_matches_do_not_support():
    chance = Pair(0, 60)
    for said in (None, chance.j_from_i, turned(chance.j_from_i, 30)):
        assert isinstance(link(0, 1, *chance.photos, chance.matches, (FOCAL, FOCAL), 15, said), Unlinked)


def test_a_wrong_hypothesis_changes_nothing_and_a_near_one_ends_where_the_matches_are():
    pair = Pair(60, 40)
    plain = link(0, 1, *pair.photos, pair.matches, (FOCAL, FOCAL), 15)
    for degrees in (2.0, 90.0):
        found = link(0, 1, *pair.photos, pair.matches, (FOCAL, FOCAL), 15, turned(pair.j_from_i, degrees))
        assert rotation_error(found.j_from_i, pair.j_from_i) < 0.5
        assert len(found.matches) >= len(plain.matches)


def cameras_of(pair: Pair, said: list[np.ndarray | None]) -> list[Camera]:
    views = [View(SIZE, said=pose) for pose in said]
    placed = Camera(np.eye(4), np.eye(3), "matches", 0, 40, 0.5, 2.0)
    lost = replace(placed, cam2world=None, rests_on="nothing", component=1, inliers=0, depth_scale=1.0)
    return placed_by_network([placed, lost], views, pair.photos, {(0, 1): pair.matches}, [FOCAL, FOCAL])


def test_a_photo_that_only_the_network_places_needs_a_few_matches_and_is_not_registered():
    pair = Pair(9, 3)
    said = [np.eye(4), np.linalg.inv(pair.j_from_i)]
    camera = cameras_of(pair, said)[1]
    assert (camera.rests_on, camera.component, camera.registered) == ("model", 0, False)
    assert camera.inliers >= 9
    assert camera.cam2world[:3, 3] == pytest.approx(2 * said[1][:3, 3])  # the model's unit, at the scale of its depth
    assert rotation_error(camera.cam2world, said[1]) < 1e-6


@pytest.mark.parametrize("why", ["no matches", "wrong pose", "no pose"])
def test_the_networks_word_alone_places_nothing(why):
    pair = Pair(0, 12) if why == "no matches" else Pair(9, 3)
    pose = np.linalg.inv(Pair(9, 3).j_from_i)
    said = {"no matches": pose, "wrong pose": np.linalg.inv(turned(pair.j_from_i, 60)), "no pose": None}[why]
    camera = cameras_of(pair, [np.eye(4), said])[1]
    assert (camera.rests_on, camera.cam2world, camera.component) == ("nothing", None, 1)
