"""Many photos: which pairs are matched, and poses by windows that are joined, on a ring of cameras."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from manyview.cameras import bundle, pairs, windows
from manyview.cameras.keypoints import Keypoints, match
from manyview.cameras.links import Link, Photo
from manyview.cameras.place import View, place
from manyview.cameras.refine import joined_keypoints, well_seen
from manyview.metrics.pose import trajectory_error

SIZE, FOCAL = (240, 320), 260.0


def some_descriptors(count: int, seed: int) -> torch.Tensor:
    share = np.random.default_rng(seed).dirichlet(np.full(128, 0.3), count)
    return torch.from_numpy(np.rint(512 * np.sqrt(share)).clip(0, 255).astype(np.uint8))


def test_photos_that_look_alike_are_matched_and_pairs_grow_with_photos():
    places = [some_descriptors(120, seed) for seed in range(40)]

    def photos(count: int) -> list[Keypoints]:  # each place is seen again 40 photos later
        uv = np.random.default_rng(0).uniform(0, 300, (120, 2))
        return [Keypoints(uv, places[index % 40], 1.0) for index in range(count)]

    few, many = pairs.pairs_to_match(photos(80)), pairs.pairs_to_match(photos(160))
    assert all((index, index + 40) in few for index in range(40))
    assert {(index, index + 1) for index in range(79)} <= set(few)
    assert len(many) < 2.2 * len(few) < 2.2 * 80 * (pairs.NEIGHBOURS + pairs.ALIKE)
    assert len(pairs.pairs_to_match(photos(20))) == 190  # of few photos every pair
    empty = [Keypoints(np.empty((0, 2)), torch.empty(0, 128, dtype=torch.uint8), 1.0)] * 50
    assert np.abs(pairs.alike(empty)).max() == 0


def test_matches_are_as_before_descriptors_were_bytes():
    exact = some_descriptors(300, 1)
    other = exact[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    noisy = (other.float() + 12 * torch.randn(other.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 255)
    one, two = (Keypoints(np.zeros((300, 2)), values.to(torch.uint8), 1.0) for values in (exact, noisy))
    found = match(one, two)
    assert len(found) > 250
    assert all(torch.equal(exact[i], other[j]) for i, j in found)


class Ring:
    """Cameras on a ring that look outward at a wall of points, and a bit up and down; the last ones see the first."""

    def __init__(self, count: int = 44, *, closes: bool = True, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        turn = rng.uniform(0, 2 * np.pi, 700)
        radius = rng.uniform(4, 6, 700)
        points = np.stack([radius * np.sin(turn), rng.uniform(-2, 2, 700), radius * np.cos(turn)], 1)
        angles = np.arange(count) / count * 2 * np.pi
        self.cam2world = np.tile(np.eye(4), (count, 1, 1))
        self.cam2world[:, :3, :3] = Rotation.from_euler("y", angles[:, None]).as_matrix()
        self.cam2world[:, :3, 3] = np.stack([np.sin(angles), 0.1 * np.sin(3 * angles), np.cos(angles)], 1) * 1.5
        self.photos, seen = [], []
        for pose in self.cam2world:
            local = (points - pose[:3, 3]) @ pose[:3, :3]
            uv = FOCAL * local[:, :2] / local[:, 2:] + np.array(SIZE[::-1]) / 2
            shown = np.flatnonzero((local[:, 2] > 0) & (uv > 0).all(1) & (uv < SIZE[::-1]).all(1))
            uv = uv[shown] + 0.5 * rng.standard_normal((len(shown), 2))
            depth = local[shown, 2] * np.exp(0.1 * rng.standard_normal())
            self.photos.append(
                Photo(Keypoints(uv, torch.empty(0), 1.0), SIZE, np.array(SIZE[::-1]) / 2, depth, np.ones(len(uv)))
            )
            seen.append(shown)
        self.links = []
        for i in range(count):
            for j in range(i + 1, count):
                apart = min(j - i, count - j + i) if closes else j - i
                _, one, two = np.intersect1d(seen[i], seen[j], return_indices=True)
                if apart <= 5 and len(one) >= 20:
                    self.links.append(self.link(i, j, np.stack([one, two], 1), rng))

    def link(self, i: int, j: int, matches: np.ndarray, rng: np.random.Generator) -> Link:
        """As the photos would give it: a degree and a tenth of the distance off."""
        j_from_i = np.linalg.inv(self.cam2world[j]) @ self.cam2world[i]
        j_from_i[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.01, 3)).as_matrix() @ j_from_i[:3, :3]
        j_from_i[:3, 3] *= np.exp(0.1 * rng.standard_normal())
        return Link(i, j, matches, j_from_i, "matches", 10.0)

    def problem(self) -> bundle.Problem:
        count = len(self.photos)
        lens, spread = np.zeros(count, int), np.array([0.15])
        seen = joined_keypoints(self.photos, self.links)
        return bundle.Problem(seen, lens, np.array([np.log(FOCAL)]), spread, np.arange(count) == 0)

    def error(self, rows: np.ndarray, poses: np.ndarray) -> float:
        """Root mean square distance of the centres after a similarity; the ring's radius is 1.5."""
        return trajectory_error(poses, self.cam2world[rows])["rmse"]


@pytest.fixture(scope="module")
def ring() -> Ring:
    return Ring()


def test_windows_cover_all_photos_once_and_overlap(ring):
    made = windows._windows(ring.problem(), ring.links)
    middles = np.concatenate([rows[own] for rows, own in made])
    assert sorted(middles.tolist()) == list(range(44))
    assert all(own.sum() < len(rows) <= windows.WINDOW * 4 / 3 + windows.BORDER for rows, own in made)


def test_many_photos_come_back_to_where_they_began(ring):
    (joined,) = windows.by_windows(ring.problem(), ring.links)
    assert joined.rows.tolist() == list(range(44))
    assert ring.error(joined.rows, joined.poses) < 0.05
    views = [View(SIZE, focal=FOCAL / 320)] * 44
    lens = np.zeros(44, int)
    ((cameras, tracks),) = place(ring.photos, views, np.arange(44), ring.links, [FOCAL] * 44, lens, adjust=True)
    assert sorted(cameras) == list(range(44))
    poses = np.stack([cameras[index].cam2world for index in range(44)])
    assert ring.error(np.arange(44), poses) < 0.02
    assert np.bincount(tracks.view, minlength=44).min() > 50


def test_windows_that_share_nothing_are_scenes_of_their_own():
    one, two = Ring(22), Ring(22, seed=1)
    moved = [Link(o.i + 22, o.j + 22, o.matches, o.j_from_i, o.rests_on, o.parallax) for o in two.links]
    one.photos, one.links = one.photos + two.photos, one.links + moved
    placed = windows.by_windows(one.problem(), one.links)
    assert sorted(set(part.rows.tolist()) == set(range(22)) for part in placed) == [False, True]
    assert sum(len(part.rows) for part in placed) == 44


def test_a_wrong_similarity_between_windows_bends_nothing():
    rng = np.random.default_rng(0)
    turns = Rotation.from_rotvec(rng.normal(0, 1, (6, 3))).as_matrix()
    centres, scales = rng.normal(0, 5, (6, 3)), np.exp(rng.normal(0, 0.2, 6))

    def edge(a: int, b: int, *, wrong: bool = False) -> windows.Similarity:
        turn = Rotation.random(rng=1).as_matrix() if wrong else turns[b].T @ turns[a]
        shift = turns[b].T @ (centres[a] - centres[b]) / scales[b]
        return windows.Similarity(a, b, scales[a] / scales[b], turn, shift, rng.normal(0, 1, 3), 1.0, 100)

    edges = [edge(a, b) for a in range(6) for b in range(a + 1, min(a + 3, 6))]
    drift = Rotation.from_rotvec(np.arange(6)[:, None] * [[0.03, 0, 0]]).as_matrix()
    start = scales * np.exp(0.05 * np.arange(6)), turns @ drift, centres + 0.1 * np.arange(6)[:, None]
    for wrong in ([], [edge(0, 5, wrong=True)]):
        scale, rotation, translation = windows._averaged([*edges, *wrong], *start, np.arange(6) > 0)
        assert np.allclose(scale, scales, rtol=0.01)  # from a drift of a quarter
        assert np.abs(rotation - turns).max() < 0.01
        assert np.abs(translation - centres).max() < 0.05


def test_every_photo_keeps_points_where_most_go_to_others():
    view = np.concatenate([np.repeat(np.arange(4), 50), [4] * 8 + [0] * 8])
    point = np.concatenate([np.tile(np.arange(50), 4), np.tile(np.arange(50, 58), 2)])
    blank = np.ones(len(view))
    seen = bundle.Observations(view, point, np.zeros((len(view), 2)), blank, blank, blank)
    chosen, ids = well_seen(seen, 10, 5)
    assert set(range(10)) <= set(ids.tolist())
    assert (chosen.view == 4).sum() == 5
    assert len(ids) == 15
