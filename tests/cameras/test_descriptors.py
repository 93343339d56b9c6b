"""Matches of descriptors: an index finds what comparing all with all finds, and cameras can rest on them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from manyview.cameras.descriptors import exact_nearest, nearest, reciprocal
from manyview.pipelines.options import ReconstructOptions
from manyview.pipelines.reconstruct import reconstruct
from pair_of_depth import HEIGHT, WIDTH, PairOfDepth


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_index_finds_nearly_all_that_comparing_all_finds():
    base = unit(12_000, 16)
    queries = F.normalize(base[torch.randperm(12_000)[:3000]] + 0.1 * unit(3000, 16, seed=1), dim=1)
    true, found = exact_nearest(queries, base), nearest(queries, base, lists=64)
    assert (true == found).float().mean() > 0.97
    assert (true == nearest(queries, base, lists=64, probed=1)).float().mean() < 0.97  # what probing more is for


def test_matches_are_each_others_nearest():
    a, b = unit(40, 8), unit(50, 8, seed=1)
    found = reciprocal(a, b)
    similar = a @ b.T
    assert {*map(tuple, found.tolist())} == {
        (i, int(similar[i].argmax())) for i in range(40) if similar[:, similar[i].argmax()].argmax() == i
    }
    assert reciprocal(a[:0], b).shape == (0, 2)


class PairWithDescriptors(PairOfDepth):
    """Also says what its pixels look like: a smooth function of the place in the world, or nothing of the kind."""

    def __init__(self, count: int, *, blind: bool = False, **settings) -> None:
        super().__init__(count, **settings)
        self.blind = blind
        self.config.descriptor_dim = 16
        rng = torch.Generator().manual_seed(3)
        self.waves, self.phase = 3 * torch.randn(3, 16, generator=rng).double(), torch.rand(16, generator=rng) * 6

    def decode(self, first, second, heads=None):
        said = super().decode(first, second, heads)
        if heads is None or "descriptors" in heads:
            world = [self.world[int(view.cls)] for view in (first, second)]
            values = [F.normalize(torch.sin(w @ self.waves + self.phase), dim=1).float() for w in world]
            values = [unit(*v.shape, seed=k) if self.blind else v for k, v in enumerate(values)]
            said["descriptors"] = torch.stack([v.reshape(1, HEIGHT, WIDTH, -1) for v in values], 1)
            said["descriptor_confidence"] = torch.rand(1, 2, HEIGHT, WIDTH, generator=self.rng)
        return said


def test_cameras_rest_on_a_models_descriptors_and_not_on_descriptors_that_say_nothing():
    for blind in (False, True):
        model = PairWithDescriptors(3, blind=blind)
        options = ReconstructOptions(matches="model")
        scene = reconstruct(model.pictures, model=model, options=options)
        assert [view.registered for view in scene.views] == [not blind] * 3
        if not blind:
            assert model.errors(scene).max() < 2.5


def test_the_default_leaves_descriptors_to_pairs_that_keypoints_do_not_link():
    model = PairWithDescriptors(3)
    assert all(view.registered for view in reconstruct(model.pictures, model=model).views)
    alone = reconstruct(model.pictures, model=model, options=ReconstructOptions(matches="sift"))
    assert not any(view.registered for view in alone.views)  # smooth colours have no keypoints
