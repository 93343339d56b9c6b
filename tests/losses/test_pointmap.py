"""Distill3R's loss against numpy loops, its reductions, switches and what must not poison it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manyview.losses.pointmap import distill3r_loss, surest, trust
from manyview.types import Signal

B, V, H, W = 2, 3, 4, 5


def scene(seed: int = 0, share_valid: float = 0.7) -> tuple[dict, dict]:
    """Random predictions and signals; what is invalid is NaN."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g)
    pred, signals = {}, {}
    valid = rand(B, V, H, W) < share_valid
    for suffix in ("", "_local"):
        pred[f"pointmap{suffix}"] = torch.randn(B, V, H, W, 3, generator=g).requires_grad_()
        pred[f"confidence{suffix}"] = (1 + 5 * rand(B, V, H, W)).requires_grad_()
        confidence = 1 + 12 * rand(B, V, H, W)
        points = torch.randn(B, V, H, W, 3, generator=g)
        points[~valid] = math.nan
        confidence[~valid] = math.inf
        signals[f"pointmap{suffix}"] = Signal(points, trust(confidence), valid)
        signals[f"confidence{suffix}"] = Signal(confidence, None, valid)
    return pred, signals


def by_hand(pred: dict, signals: dict, scenes: list[int], *, shared_scale: bool) -> tuple[list, list, list]:
    """Per view (scene by scene): global and local error sums, confidence error sums, in numpy loops."""
    valid = signals["pointmap"].valid.numpy()
    sums: dict[str, dict] = {"": {}, "_local": {}}
    confidences = {}
    for suffix in sums:
        p, t = pred[f"pointmap{suffix}"].detach().numpy(), signals[f"pointmap{suffix}"].value.numpy()
        w = signals[f"pointmap{suffix}"].weight.numpy()
        for b in scenes:
            for v in range(V):
                pool = [(b, v)] if suffix else [(b, i) for i in range(V)]
                if shared_scale and not suffix:
                    pool = [(s, i) for s in scenes for i in range(V)]
                scale = [
                    np.mean([np.linalg.norm(x[s, i, y, z]) for s, i in pool for y, z in np.argwhere(valid[s, i])])
                    for x in (p, t)
                ]
                sums[suffix][b, v] = sum(
                    w[b, v, y, z] * np.square(p[b, v, y, z] / scale[0] - t[b, v, y, z] / scale[1]).sum()
                    for y, z in np.argwhere(valid[b, v])
                )
                c, d = (pred[f"confidence{suffix}"].detach().numpy(), signals[f"confidence{suffix}"].value.numpy())
                for y, z in np.argwhere(valid[b, v]):
                    confidences[b, v] = confidences.get((b, v), 0.0) + abs(c[b, v, y, z] - d[b, v, y, z]) / 2
    return sums[""], sums["_local"], confidences


@pytest.mark.parametrize("scenes", [[0], [1]])
def test_one_scene_equals_the_loops(scenes):
    pred, signals = scene()
    terms = distill3r_loss(pred, signals, reduction="per_scene")
    there, local, confidence = by_hand(pred, signals, scenes, shared_scale=False)
    counts = {(b, v): int(signals["pointmap"].valid[b, v].sum()) for b in scenes for v in range(V)}
    pixels = sum(counts.values())
    b = scenes[0]
    assert terms["global"][b].item() == pytest.approx(2 * np.mean([there[k] / counts[k] for k in counts]), rel=1e-5)
    assert terms["local"][b].item() == pytest.approx(np.mean([local[k] / counts[k] for k in counts]), rel=1e-5)
    assert terms["confidence"][b].item() == pytest.approx(0.001 * sum(confidence.values()) / pixels, rel=1e-5)
    torch.testing.assert_close(terms["total"], terms["global"] + terms["local"] + terms["confidence"])


def test_printed_reduction_is_one_mean_over_the_batch():
    pred, signals = scene()
    terms = distill3r_loss(pred, signals, reduction="printed")
    there, local, confidence = by_hand(pred, signals, [0, 1], shared_scale=True)
    pixels = int(signals["pointmap"].valid.sum())
    assert terms["global"].mean().item() == pytest.approx(2 * sum(there.values()) / pixels, rel=1e-5)
    assert terms["local"].mean().item() == pytest.approx(sum(local.values()) / pixels, rel=1e-5)
    assert terms["confidence"].mean().item() == pytest.approx(0.001 * sum(confidence.values()) / pixels, rel=1e-5)


def one(mapping: dict, index: int) -> dict:
    """Scene `index` alone."""
    return {
        key: Signal(*(None if x is None else x[index : index + 1] for x in (v.value, v.weight, v.valid)))
        if isinstance(v, Signal)
        else v[index : index + 1]
        for key, v in mapping.items()
    }


@pytest.mark.parametrize("weighting", ["teacher", "none", "student"])
def test_a_batch_equals_its_scenes_one_by_one(weighting):
    pred, signals = scene()
    together = distill3r_loss(pred, signals, reduction="per_scene", weighting=weighting)["total"]
    for index in range(B):
        for reduction in ("per_scene", "released"):
            alone = distill3r_loss(one(pred, index), one(signals, index), reduction=reduction, weighting=weighting)
            torch.testing.assert_close(alone["total"][0], together[index])


def test_released_and_per_scene_agree_when_every_pixel_is_valid():
    pred, signals = scene(share_valid=2.0)
    a, b = (distill3r_loss(pred, signals, reduction=r) for r in ("released", "per_scene"))
    for name in a:
        torch.testing.assert_close(a[name].mean(), b[name].mean())


@pytest.mark.parametrize("reduction", ["released", "per_scene", "printed"])
def test_nothing_invalid_reaches_the_gradients(reduction):
    pred, signals = scene()
    valid = signals["pointmap"].valid
    for suffix in ("", "_local"):
        signals[f"pointmap{suffix}"].weight[~valid] = math.nan
        with torch.no_grad():
            pred[f"pointmap{suffix}"][~valid] = math.nan
    terms = distill3r_loss(pred, signals, reduction=reduction)
    terms["total"].mean().backward()
    for value in pred.values():
        assert bool(value.grad[valid].isfinite().all())
        assert bool((value.grad[~valid] == 0).all())
        assert bool((value.grad[valid] != 0).any())


def test_a_target_that_forgot_to_say_it_is_infinite_is_not_read():
    pred, signals = scene(share_valid=2.0)
    signals["pointmap"].valid = None
    signals["pointmap"].value[0, 0, 0, 0, 1] = math.inf
    assert bool(distill3r_loss(pred, signals)["total"].isfinite().all())


@pytest.mark.parametrize("reduction", ["released", "per_scene", "printed"])
def test_empty_views_are_left_out(reduction):
    pred, signals = scene(share_valid=2.0)
    for signal in signals.values():
        signal.valid = signal.valid.clone()
        signal.valid[:, 1] = False
    terms = distill3r_loss(pred, signals, reduction=reduction)
    kept = [0, 2]
    fewer = {k: v[:, kept] for k, v in pred.items()}
    smaller = {
        k: Signal(s.value[:, kept], None if s.weight is None else s.weight[:, kept], s.valid[:, kept])
        for k, s in signals.items()
    }
    for name, value in distill3r_loss(fewer, smaller, reduction=reduction).items():
        torch.testing.assert_close(terms[name], value)


def test_an_empty_scene_costs_nothing():
    pred, signals = scene()
    for signal in signals.values():
        signal.valid = torch.zeros(B, V, H, W, dtype=torch.bool)
    terms = distill3r_loss(pred, signals)
    terms["total"].sum().backward()
    assert bool((terms["total"] == 0).all())
    assert all(bool(value.grad.isfinite().all()) for value in pred.values())


def test_a_perfect_student_up_to_scale_costs_only_its_confidence():
    _pred, signals = scene(share_valid=2.0)
    perfect = {k: (3.0 if "pointmap" in k else 1.0) * s.value for k, s in signals.items()}
    terms = distill3r_loss(perfect, signals)
    torch.testing.assert_close(terms["total"], torch.zeros(B), atol=1e-9, rtol=0)


def test_the_switches_of_table_three():
    pred, signals = scene()
    assert bool((distill3r_loss(pred, signals, confidence=False)["confidence"] == 0).all())
    student = distill3r_loss(pred, signals, weighting="student", confidence=False)["total"].mean()
    student.backward()
    assert bool((pred["confidence"].grad.nan_to_num() != 0).any())  # weights carry gradients, as released
    pred, signals = scene()
    distill3r_loss(pred, signals, weighting="teacher", confidence=False)["total"].mean().backward()
    assert pred["confidence"].grad is None
    unweighted = distill3r_loss(pred, signals, weighting="none")["global"]
    for suffix in ("", "_local"):
        signals[f"pointmap{suffix}"].weight = None
    torch.testing.assert_close(distill3r_loss(pred, signals, weighting="teacher")["global"], unweighted)


@pytest.mark.parametrize("option", [{"reduction": "mean"}, {"weighting": "both"}])
def test_an_unknown_switch_is_refused(option):
    with pytest.raises(ValueError, match="must be"):
        distill3r_loss(*scene(), **option)


def test_trust_is_clamped():
    assert trust(torch.tensor([0.0, 5.0, 50.0])).tolist() == pytest.approx([0.1, 0.5, 1.0])


@pytest.mark.parametrize("factor", [1, 1e-6, 1e5])
def test_the_surest_share_of_each_scene_counts_whatever_the_numbers_mean(factor):
    _, signals = scene()
    for name in ("confidence", "confidence_local"):
        signals[name].value *= factor
    signals["pointmap"].valid[1] = False  # a scene of which nothing is known stays so
    for share in (1.0, 0.5, 0.1):
        kept = surest(signals, share)
        for suffix in ("", "_local"):
            before, after = signals[f"pointmap{suffix}"].valid, kept[f"pointmap{suffix}"].valid
            sure = signals[f"confidence{suffix}"].value
            assert not (after & ~before).any()
            for b in range(B):
                assert abs(int(after[b].sum()) - share * int(before[b].sum())) <= 1
                if (before[b] & ~after[b]).any():
                    assert sure[b][after[b]].min() >= sure[b][before[b] & ~after[b]].max()
            assert kept[f"confidence{suffix}"] is signals[f"confidence{suffix}"], "what is unsure is still learned"
    for name in ("confidence", "confidence_local"):
        signals[name].value.fill_(3.0)
    assert torch.equal(surest(signals, 0.2)["pointmap"].valid, signals["pointmap"].valid), "all are as sure"
