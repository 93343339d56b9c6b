"""What teaches to relate views: the truth costs nothing, its controls do, and no length or frame is preferred."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manyview.batches.scene_changes import mirror
from manyview.data.synthetic.scene import render_scene
from manyview.geometry import poses
from manyview.losses.relating import attention_matching, camera_error, confident_maps, measured_points, token_matching
from manyview.types import Signal, Views


@pytest.fixture(scope="module")
def views() -> Views:
    scenes = [render_scene(seed, views=3, size=(32, 48), kind="abstract", trajectory="orbit") for seed in (4, 9)]
    stacked = {name: torch.stack([getattr(s, name) for s in scenes]) for name in ("images", "depth", "intrinsics")}
    return Views(**stacked, cam2world=torch.stack([scene.cam2world for scene in scenes]))


def prediction(views: Views, factor: float = 1.0) -> dict[str, torch.Tensor]:
    points = measured_points(views)
    sure = torch.full(views.depth.shape, 1.5)
    maps = {name: signal.value * factor for name, signal in points.items()}
    return {**maps, "confidence": sure, "confidence_local": sure}


def encoding_of(views: Views, factor: float = 1.0) -> torch.Tensor:
    view_from_first = poses.invert(views.cam2world) @ views.cam2world[:, :1]
    quaternion = poses.quaternion_from_matrix(view_from_first[..., :3, :3]).roll(-1, -1)
    height, width = views.size
    fields = [2 * torch.atan(side / (2 * views.intrinsics[..., i, i])) for side, i in ((height, 1), (width, 0))]
    return torch.cat([view_from_first[..., :3, 3] * factor, quaternion * 3, torch.stack(fields, -1)], -1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_truth_at_any_scale_costs_nothing_but_its_scale(views, mirrored):
    views = mirror(views, [1]) if mirrored else views
    terms, said, true = confident_maps(prediction(views, 2.5), measured_points(views))
    floor = -0.2 * torch.tensor(1.5).log()
    assert torch.allclose(terms["global"], floor.expand(2), atol=1e-3)
    assert torch.allclose(terms["local"], floor.expand(2), atol=1e-3)
    assert torch.allclose(terms["scale"], torch.tensor(2.5).log().expand(2), atol=1e-4)
    assert camera_error(encoding_of(views, 2.5), views, said, true).max() < 1e-4


def test_local_maps_taken_for_global_ones_cost(views):
    said = prediction(views)
    wrong = {**said, "pointmap": said["pointmap_local"]}
    terms, *_ = confident_maps(wrong, measured_points(views))
    assert (terms["global"] > confident_maps(said, measured_points(views))[0]["global"] + 0.05).all()
    still = encoding_of(replace(views, cam2world=views.cam2world[:, :1].expand_as(views.cam2world)))
    ones = torch.ones(2)
    assert (camera_error(still, views, ones, ones) > 0.1).all()


def test_pixels_without_depth_are_not_read(views):
    clean, *_ = confident_maps(prediction(views), measured_points(views))
    depth = views.depth.clone()
    depth[:, :, :4] = 0
    signals = measured_points(replace(views, depth=depth))
    signals = {
        name: Signal(torch.where(s.valid[..., None], s.value, torch.nan), valid=s.valid) for name, s in signals.items()
    }
    said = prediction(views)
    said["pointmap"][:, :, :4] = torch.inf
    terms, *_ = confident_maps(said, signals)
    assert all(term.isfinite().all() for term in terms.values())
    assert torch.allclose(terms["local"], clean["local"], atol=1e-3)


def test_tokens_that_say_where_they_are_match_and_shuffled_ones_do_not(views):
    """Tokens made of their place in the world, in random directions: near places are alike."""
    world = poses.apply(views.cam2world, measured_points(views)["pointmap_local"].value.flatten(2, 3))
    world = world.unflatten(2, views.size)[:, :, 2::4, 2::4]
    waves = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) * 2
    tokens = torch.cat([(world @ waves).sin(), (world @ waves).cos()], -1).requires_grad_()
    others = torch.tensor([1, 2])
    cost, right = token_matching(tokens, views, others)
    turned = torch.cat([tokens[:, :1], tokens[:, 1:].flip(2, 3)], 1)
    shuffled, chance = token_matching(turned, views, others)
    assert (cost < 0.7 * shuffled).all()
    assert (right > 0.3).all()
    assert (chance < 0.5 * right).all()
    cost.sum().backward()
    assert tokens.grad[0, 1].abs().sum() > 0
    assert tokens.grad[0, 2].abs().sum() == 0  # only the views that were asked for


def test_queries_that_ask_for_their_place_attend_to_it(views):
    world = poses.apply(views.cam2world, measured_points(views)["pointmap_local"].value.flatten(2, 3))
    world = world.unflatten(2, views.size)[:, :, 2::4, 2::4]
    waves = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) * 2
    tokens = torch.cat([(world @ waves).sin(), (world @ waves).cos()], -1)
    others = torch.tensor([2, 1])
    cost, right = attention_matching(tokens, tokens, views, others, scale=0.3)
    blind, chance = attention_matching(torch.ones_like(tokens), tokens, views, others, scale=0.3)
    assert (cost < 0.7 * blind).all()
    assert (right > chance + 0.2).all()
