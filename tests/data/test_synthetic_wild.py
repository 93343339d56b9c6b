"""Worlds beyond rooms: full of things of every size, the same for a seed, cameras in the open, exact like any other."""

from __future__ import annotations

import pytest
import torch

from manyview.data.synthetic.furnishing import build
from manyview.data.synthetic.scene import render_scene
from manyview.data.synthetic.streams import scene_of
from manyview.data.synthetic.wild import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_world_and_another_one_another(kind):
    first, again, other = (render_scene(seed, views=2, size=(24, 32), kind=kind) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.depth, again.depth)
    assert not torch.equal(first.depth, other.depth)


@pytest.mark.parametrize("kind", KINDS)
def test_things_have_every_size_and_cameras_see_several(kind):
    world = build(11, kind)
    spans = sorted(max(abs(s.matrix[:, :3]).sum(1)) for s in world.parts)
    assert spans[-1] > 5 * spans[0]
    counts, near = [], []
    for seed in range(8):
        scene = render_scene(seed, views=3, size=(48, 64), kind=kind)
        counts.append(len(scene.depth.flatten().log2().floor().unique()))
        near.append(float((scene.depth < 0.1).float().mean()))
        assert scene.depth.isfinite().all()
        assert scene.images.std() > 0.03
    assert sum(counts) / 8 > 2.5  # octaves of depth
    assert sum(near) / 8 < 0.05


def test_streams_of_different_seeds_and_numbers_are_different_scenes():
    asked = [(seed, number) for seed in (0, 1) for number in (0, 1)]
    pictures = [scene_of("abstract", *which, views=1, size=(16, 16)).images for which in asked]
    for i, a in enumerate(pictures):
        assert all(not torch.equal(a, b) for b in pictures[:i])
