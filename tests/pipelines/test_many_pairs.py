"""Pair models on many photos: one frame for answers that are true, noisy or wrong in part, and seeded weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from by_model import reconstruct
from manyview.cameras.align import Pairwise, align
from manyview.geometry import poses
from manyview.models.pair.network import PairReconstructor, debug, dust3r, mast3r, sab3r
from manyview.pipelines.answers import told
from manyview.pipelines.options import ReconstructOptions
from manyview.pipelines.pairs import pair_graph
from pair_of_depth import FOCAL, HEIGHT, WIDTH, PairOfDepth


def scene_of(model, **options):
    return reconstruct(model.pictures, model=model, options=ReconstructOptions(cameras="model", **options))


def test_true_answers_give_true_cameras_depth_and_focal_length():
    model = PairOfDepth(5)
    scene = scene_of(model)
    assert sorted(model.encoded) == [0, 1, 2, 3, 4, 4]  # two at a time, the fifth with itself
    assert sorted(model.asked) == sorted([*combinations(range(5), 2), *((j, i) for i, j in combinations(range(5), 2))])
    assert model.errors(scene).max() < 0.1
    assert scene.views[0].intrinsics[0, 0] == pytest.approx(FOCAL, rel=0.01)
    true = [poses.apply(poses.invert(model.cam2world[k]), model.world[k])[:, 2].reshape(HEIGHT, WIDTH) for k in (0, 4)]
    units = [np.median(scene.views[k].depth / z.numpy()) for k, z in zip((0, 4), true, strict=True)]
    assert units[0] == pytest.approx(units[1], rel=0.01)  # one unit for all
    assert np.abs(scene.views[4].depth / units[1] / true[1].numpy() - 1).mean() < 0.01


@pytest.mark.parametrize(("wrong", "worst"), [(0, 1.5), (4, 4.0)])
def test_noise_and_wrong_pairs_are_outvoted(wrong, worst):
    model = PairOfDepth(6, noise=0.05, wrong=wrong)
    assert model.errors(scene_of(model)).max() < worst


def test_pairs_that_are_all_wrong_give_nothing():
    model = PairOfDepth(5, wrong=10)
    assert np.median(model.errors(scene_of(model))) > 20


def test_a_wrong_pair_without_witnesses_would_ruin_the_start():
    """What the loops are for: in a star nobody contradicts a wrong pair, and the views behind it are lost."""
    star = PairOfDepth(5)
    star.wrong = {(0, 3)}
    assert star.errors(scene_of(star, pairs="star")).max() > 20
    star.asked.clear()
    assert star.errors(scene_of(star, pairs="complete")).max() < 1


def test_graphs_join_all_photos_with_as_many_pairs_as_photos_ask_for():
    alike = torch.eye(40)
    for k in range(39):
        alike[k, k + 1] = alike[k + 1, k] = 0.9
    assert len(pair_graph("complete", 4, alike)) == 780
    assert len(pair_graph("star", 4, alike)) == 39
    assert len(pair_graph("window", 4, alike)) == 150
    assert 39 <= len(pair_graph("retrieval", 4, alike)) <= 160
    assert {(k, k + 1) for k in range(39)} <= set(pair_graph("auto", 1, alike))
    assert len(pair_graph("auto", 4, torch.eye(12))) == 66


def test_pairs_that_leave_a_view_out_are_refused():
    said = Pairwise(
        torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 2, 4, 3), torch.ones(2, 2, 4), torch.ones(3, 4, 2),
        torch.ones(3), torch.zeros(3),
    )  # fmt: skip
    with pytest.raises(ValueError, match="join"):
        align(said)


@pytest.mark.parametrize("layout", [dust3r(), mast3r(), replace(mast3r(), own_norm=True)])
def test_seeded_weights_go_through_from_end_to_end(layout, tmp_path):
    torch.manual_seed(0)
    network = PairReconstructor(debug(layout)).eval()
    rng = np.random.default_rng(0)
    sizes = [(48, 64), (64, 48), (48, 64)]
    photos = [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    scene = reconstruct(photos, model=network, options=ReconstructOptions(image_size=64))
    assert [view.registered for view in scene.views] == [False] * 3  # noise has no matches
    scene.save(tmp_path / "scene")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_feature_heads_of_a_pair_model_speak_for_the_view_that_comes_first(count):
    torch.manual_seed(0)
    model = PairReconstructor(debug(sab3r(("clip", 512), ("dino", 384)))).eval()
    pictures = [torch.rand(3, 32, 48) for _ in range(count)]
    answers = told(model, pictures)
    with torch.no_grad():
        pair = torch.stack([pictures[0], pictures[-1]])[None]
        said = model(pair)["features"]["clip"][0, 0]
    means = said.unflatten(0, (4, 8)).unflatten(2, (6, 8)).mean((1, 3))
    for answer in answers:
        assert {name: tuple(cells.shape) for name, cells in answer["features"].items()} == {
            "clip": (4, 6, 3),
            "dino": (4, 6, 3),
        }
    assert torch.allclose(answers[0]["features"]["clip"], means, atol=1e-5) == (count < 3)  # of three: a mean of two
