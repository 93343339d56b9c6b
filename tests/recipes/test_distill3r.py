"""The recipe learns depth from pictures: it beats the best constant plane, and without the pictures it cannot."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from manyview.config import RunConfig
from manyview.engine.loop import fit
from manyview.errors import UserError
from manyview.geometry import cameras, pointmaps
from manyview.models.family import with_overrides
from manyview.models.reconstructor.network import Reconstructor
from manyview.recipes.base import preset
from manyview.recipes.distill3r import Distill3R, Distill3RConfig
from manyview.types import Signal, Views

SIZE = (28, 42)
FOCAL = 40.0
DEBUG = replace(preset(Distill3R, "debug")[1].method, loss="robust", alpha_global=0.5, gamma=0.01)


def rooms(step: int, *, blind: bool = False, batch: int = 3) -> Views:
    """Smooth random depth shown as brightness (near is bright); two identical cameras. blind: black pictures."""
    generator = torch.Generator().manual_seed(1000 + step)
    coarse = torch.rand(batch * 2, 1, 3, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic", align_corners=False)
    depth = 2.0 * torch.exp(1.2 * (smooth - 0.5)).reshape(batch, 2, *SIZE)
    brightness = (depth.log() - math.log(2.0)) / 1.2 + 0.5
    images = brightness[:, :, None].expand(-1, -1, 3, -1, -1).clamp(0, 1) * (0.0 if blind else 1.0)
    intrinsics = cameras.intrinsics_matrix(FOCAL, FOCAL, SIZE[1] / 2, SIZE[0] / 2)
    points = pointmaps.unproject(depth, intrinsics.expand(batch, 2, 3, 3))
    valid, sure = torch.ones_like(depth, dtype=torch.bool), torch.full_like(depth, 10.0)
    map_ = Signal(points, torch.ones_like(depth), valid)
    signals = {"pointmap": map_, "pointmap_local": map_, "confidence": Signal(sure, None, valid)}
    return Views(images, depth=depth, signals={**signals, "confidence_local": Signal(sure, None, valid)})


def abs_rel(predicted: torch.Tensor, true: torch.Tensor) -> float:
    """Mean relative error after the best scale per view."""
    scale = (true / predicted).flatten(2).median(-1).values[..., None, None]
    return float(((scale * predicted - true).abs() / true).mean())


def trained(tmp_path, *, blind: bool) -> float:
    torch.manual_seed(0)
    recipe = Distill3R.build(DEBUG)
    sizes = {"dim": 32, "decoder_dim": 32, "decoder_depth": 1, "taps": (0, 0, 1, 1), "head_dim": 16}
    small = with_overrides(recipe.student.config, {**sizes, "head_layer_dims": (8, 8, 16, 16), "head_last_dim": 8})
    recipe.student = Reconstructor(small)
    run = RunConfig(steps=100, batch=3, lr=6e-3, warmup=0.1, weight_decay=0.0, checkpoint_every=1000, log_every=100)
    fit(recipe, lambda i: rooms(i, blind=blind), run, tmp_path, device="cpu")
    recipe.eval()
    unseen = rooms(-500, blind=blind, batch=8)
    with torch.inference_mode():
        local = recipe.student(unseen.images)["pointmap_local"]
    return abs_rel(local[..., 2], unseen.depth)


def test_learns_depth_from_the_pictures_and_not_without_them(tmp_path):
    true = rooms(-500, batch=8).depth
    plane = abs_rel(torch.ones_like(true), true)  # the trivial answer: a wall at the best distance
    seeing, blind = trained(tmp_path / "seeing", blind=False), trained(tmp_path / "blind", blind=True)
    assert seeing < 0.6 * plane
    assert blind > 0.9 * plane


@pytest.mark.parametrize("loss", ["distill3r", "robust"])
def test_a_nan_target_outside_the_mask_poisons_nothing(loss):
    torch.manual_seed(0)
    recipe = Distill3R.build(replace(DEBUG, loss=loss))
    views = rooms(3)
    clean = recipe.step(views, progress=0.0, generator=torch.Generator().manual_seed(1)).loss
    for signal in views.signals.values():
        signal.valid = signal.valid.clone()
        signal.value = signal.value.clone()
        signal.valid[:, :, :4] = False
        signal.value[:, :, :4] = float("nan")
    masked = recipe.step(views, progress=0.0, generator=torch.Generator().manual_seed(1)).loss
    masked.backward()
    assert torch.isfinite(masked)
    assert not torch.equal(masked.detach(), clean.detach())
    for parameter in recipe.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def test_view_ids_start_at_the_reference_and_are_distinct():
    recipe = Distill3R.build(DEBUG)
    views = rooms(0)
    ids = recipe._view_ids(views, torch.Generator().manual_seed(0))
    again = recipe._view_ids(views, torch.Generator().manual_seed(0))
    assert torch.equal(ids, again)
    assert (ids[:, 0] == 0).all()
    assert (ids[:, 1:] > 0).all()
    assert ids.max() < 1000
    recipe.eval()
    assert recipe._view_ids(views, torch.Generator()) is None


def test_switches_of_table_three_change_the_loss():
    torch.manual_seed(0)
    views, losses = rooms(1, batch=1), {}
    for signal in views.signals.values():
        if signal.weight is not None:
            signal.weight = torch.linspace(0.1, 1, SIZE[1]).expand_as(signal.weight)
    base = Distill3RConfig(model="distill3r", size="debug", views=2)
    recipe = Distill3R.build(base)
    for name, change in {
        "full": {},
        "unweighted": {"weighting": "none"},
        "labels": {"weighting": "student"},
        "silent": {"confidence": False},
        "printed": {"reduction": "printed"},
    }.items():
        recipe.config = replace(base, **change)
        result = recipe.step(views, progress=0.0, generator=torch.Generator().manual_seed(1))
        losses[name] = float(result.loss.detach())
    assert len({round(losses[n], 7) for n in ("full", "unweighted", "labels", "silent")}) == 4
    assert losses["printed"] == pytest.approx(losses["full"], rel=1e-4)  # all pixels valid: the means agree


def test_presets_build_and_paper_is_the_published_student():
    presets = Distill3R.presets()
    assert {"paper", "tiny", "debug"} <= set(presets)
    with torch.device("meta"):
        student = Distill3R.build(presets["paper"].method).student
    assert sum(p.numel() for p in student.parameters()) == 71_969_288
    tiny = Distill3R.build(presets["tiny"].method).student
    assert sum(p.numel() for p in tiny.parameters()) <= 6_000_000


def test_without_a_cache_it_says_how_to_make_one():
    with pytest.raises(UserError, match="manyview cache build"):
        Distill3R.batches(DEBUG, RunConfig(), cache=None, data=[])
