"""Agreement of different views: wrong depth is contradicted, confidence says where, and a view alone is no witness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from analytic_room import circle, render
from manyview.cameras.tracks import Tracks
from manyview.geometry import cameras, pointmaps
from manyview.scene.agreement import compare
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView, Source

HEIGHT, WIDTH = 48, 64
MATRIX = cameras.intrinsics_matrix(60.0, 60.0, WIDTH / 2, HEIGHT / 2).double()


def scene(count: int = 4, noise: float = 0.15) -> tuple[Scene, list[np.ndarray]]:
    """Views of a room whose depth errs in patches and whose raw confidence means nothing; and the true depths."""
    rng, views, true = np.random.default_rng(0), [], []
    for number, pose in enumerate(circle(count, degrees=20.0)):
        depth = render(pose, MATRIX, HEIGHT, WIDTH)[0].numpy()
        patches = np.kron(rng.normal(0, 1, (6, 8)) * (rng.random((6, 8)) < 0.4), np.ones((8, 8)))
        true.append(depth)
        views.append(
            SceneView(
                name=f"{number}",
                image=np.zeros((HEIGHT, WIDTH, 3), np.uint8),
                depth=(depth * np.exp(noise * patches)).astype(np.float32),
                confidence=rng.random((HEIGHT, WIDTH)).astype(np.float32),
                intrinsics=MATRIX.numpy(),
                cam2world=pose.numpy(),
                source=Source((HEIGHT, WIDTH), np.eye(3), MATRIX.numpy()),
                rests_on="matches",
            )
        )
    return Scene(views, tracks=shared(views, true)), true


def shared(views: list[SceneView], true: list[np.ndarray]) -> Tracks:
    """True points of the first view, where every view shows them."""
    pose = torch.from_numpy(views[0].cam2world)
    local = pointmaps.unproject(torch.from_numpy(true[0]), MATRIX)
    world = pointmaps.transform(pose, local).reshape(-1, 3)[::37].numpy()
    view, point, uv = [], [], []
    for number, one in enumerate(views):
        local = (world - one.cam2world[:3, 3]) @ one.cam2world[:3, :3]
        pixels = local[:, :2] / local[:, 2:] * 60 + (WIDTH / 2, HEIGHT / 2)
        inside = ((pixels >= 0) & (pixels < (WIDTH, HEIGHT))).all(1)
        view.append(np.full(inside.sum(), number))
        point.append(np.flatnonzero(inside))
        uv.append(pixels[inside])
    return Tracks(world, np.zeros(len(world), int), *map(np.concatenate, (view, point, uv)))


def ranks(made: Scene, true: list[np.ndarray], shuffle: bool = False) -> float:
    wrong = np.concatenate([np.abs(v.depth / t - 1).ravel() for v, t in zip(made.views, true, strict=True)])
    sure = np.concatenate([view.confidence.ravel() for view in made.views])
    sure = np.random.default_rng(0).permutation(sure) if shuffle else sure
    return float(spearmanr(sure, -wrong)[0])


def test_confidence_says_where_depth_is_wrong_and_shuffled_it_says_nothing():
    made, true = scene()
    assert abs(ranks(made, true)) < 0.05
    assert compare(made.views, made.tracks)
    assert ranks(made, true) > 0.3
    assert abs(ranks(made, true, shuffle=True)) < 0.05
    assert all(view.info["confidence"] == "calibrated" for view in made.views)


def test_contradicted_points_are_the_wrong_ones_and_leave_the_cloud():
    made, true = scene(noise=0.4)
    before = len(made.cloud(quantile=0))
    compare(made.views, made.tracks)
    wrong = np.concatenate([np.abs(v.depth / t - 1).ravel() for v, t in zip(made.views, true, strict=True)])
    denied = np.concatenate([view.contradicted.ravel() for view in made.views])
    assert wrong[denied].mean() > 3 * wrong[~denied].mean()
    assert len(made.cloud(quantile=0)) == before - denied.sum()


def test_a_view_alone_and_views_that_are_not_registered_are_no_witnesses():
    alone, _ = scene(1)
    raw = alone.views[0].confidence.copy()
    assert not compare(alone.views, alone.tracks)
    assert alone.views[0].contradicted is None
    assert np.array_equal(alone.views[0].confidence, raw)
    lost, _ = scene(2)
    lost.views[1].rests_on = "model"
    assert not compare(lost.views, lost.tracks)


def test_what_was_compared_survives_the_disk(tmp_path):
    made, _ = scene(3)
    compare(made.views, made.tracks)
    again = Scene.load(made.save(tmp_path / "scene"))
    assert np.array_equal(again.views[1].contradicted, made.views[1].contradicted)
    assert again.cloud().xyz == pytest.approx(made.cloud().xyz)


def test_views_from_one_place_are_not_compared():
    made, _ = scene(3)
    for view in made.views[1:]:
        view.rests_on = "depth"
    assert not compare(made.views, made.tracks)
    made.views[1].rests_on = "matches"
    assert compare(made.views, made.tracks)
