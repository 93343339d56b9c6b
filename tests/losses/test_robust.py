"""The robust loss: invariances, bounded gradients, nothing invalid read."""

from __future__ import annotations

import math

import pytest
import torch

from manyview.losses.robust import global_error, local_error, log_confidence_error, robust_pointmap_loss
from manyview.types import Signal

B, V, H, W = 2, 2, 12, 10


def signals(share_valid: float = 0.8, seed: int = 0) -> dict[str, Signal]:
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(B, V, H, W, generator=g) < share_valid
    out = {}
    for suffix in ("", "_local"):
        points = torch.randn(B, V, H, W, 3, generator=g)
        points[..., 2] = 1 + 3 * torch.rand(B, V, H, W, generator=g)
        weight = 0.1 + 0.9 * torch.rand(B, V, H, W, generator=g)
        confidence = 1 + 9 * torch.rand(B, V, H, W, generator=g)
        for tensor in (points, weight, confidence):
            tensor[~valid] = math.nan
        out[f"pointmap{suffix}"] = Signal(points, weight, valid)
        out[f"confidence{suffix}"] = Signal(confidence, None, valid)
    return out


def copies(given: dict[str, Signal]) -> dict[str, torch.Tensor]:
    return {name: signal.value.nan_to_num(7.0) for name, signal in given.items()}


def test_the_truth_costs_nothing():
    given = signals()
    for name, term in robust_pointmap_loss(copies(given), given).items():
        torch.testing.assert_close(term, torch.zeros(B), atol=0.01, rtol=0, msg=name)


def test_a_wrong_scale_costs_only_the_scale_term():
    given = signals()
    points = copies(given)["pointmap_local"]
    scales = torch.tensor([[0.5, 2.0], [3.0, 1.0]])[..., None, None, None]  # another one for every view
    free = local_error(points * scales, given["pointmap_local"], scale=0.0)
    torch.testing.assert_close(free, torch.zeros(B), atol=1e-4, rtol=0)
    charged = local_error(points * scales, given["pointmap_local"], scale=0.1)
    expected = 0.1 * scales[..., 0, 0, 0].log().abs().mean(1)
    torch.testing.assert_close(charged, expected, atol=0.003, rtol=0)


def test_the_global_scale_is_one_per_scene():
    given = signals()["pointmap"]
    points = given.value.nan_to_num(7.0)
    shared = torch.tensor([0.5, 2.0]).reshape(B, 1, 1, 1, 1)
    free = global_error(points * shared, given, scale=0.0)
    torch.testing.assert_close(free, torch.zeros(B), atol=0.01, rtol=0)
    charged = global_error(points * shared, given, scale=0.1)
    torch.testing.assert_close(charged - free, 0.1 * shared.flatten().log().abs(), atol=0.003, rtol=0)
    per_view = torch.tensor([0.5, 2.0]).reshape(1, V, 1, 1, 1)
    assert bool((global_error(points * per_view, given, scale=0.0) > 0.1).all())


def test_worse_points_cost_more():
    given = signals()
    truth = copies(given)
    losses = []
    for size in (0.02, 0.1, 0.5):
        noisy = {
            k: v + size * torch.randn(v.shape, generator=torch.Generator().manual_seed(1)) for k, v in truth.items()
        }
        losses.append(robust_pointmap_loss(noisy, given)["total"])
    assert bool((losses[0] < losses[1]).all())
    assert bool((losses[1] < losses[2]).all())


@pytest.mark.parametrize("fill", [0.0, 1e-6, -1.0, 1e6])
def test_gradients_are_finite_wherever_a_student_starts(fill):
    given = signals()
    pred = {
        name: torch.full_like(signal.value, 2.0 if "confidence" in name else fill).requires_grad_()
        for name, signal in given.items()
    }
    terms = robust_pointmap_loss(pred, given)
    terms["total"].mean().backward()
    for value in pred.values():
        assert bool(value.grad.isfinite().all())
    assert bool((pred["pointmap_local"].grad != 0).any())


def test_nothing_invalid_is_read():
    given = signals()
    valid = given["pointmap"].valid
    pred = copies(given)
    poisoned = {name: value.clone() for name, value in pred.items()}
    for value in poisoned.values():
        value[~valid] = math.nan
        value.requires_grad_()
    terms = robust_pointmap_loss(poisoned, given)
    torch.testing.assert_close(terms["total"].detach(), robust_pointmap_loss(pred, given)["total"])
    terms["total"].mean().backward()
    for value in poisoned.values():
        assert bool(value.grad[valid].isfinite().all())
        assert bool((value.grad[~valid] == 0).all())


def test_empty_views_are_left_out_and_empty_scenes_cost_nothing():
    given = signals(share_valid=2.0)
    noisy = {k: v + 0.3 * torch.randn_like(v) for k, v in copies(given).items()}
    for signal in given.values():
        signal.valid = signal.valid.clone()
        signal.valid[0, 1] = False
        signal.valid[1] = False
    terms = robust_pointmap_loss(noisy, given)
    assert bool((terms["total"][1] == 0).all())
    first = {
        k: Signal(*(None if x is None else x[:1, :1] for x in (s.value, s.weight, s.valid))) for k, s in given.items()
    }
    alone = robust_pointmap_loss({k: v[:1, :1] for k, v in noisy.items()}, first)
    for name in terms:
        torch.testing.assert_close(terms[name][:1], alone[name])


def test_confidences_are_compared_by_their_ratio():
    valid = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    truth = torch.full((1, 1, 2, 2), 2.0)
    for factor in (0.5, 2.0):
        error = log_confidence_error(truth * factor, Signal(truth, None, valid))
        assert error.item() == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.05, 0.4])
def test_each_of_both_confidences_costs_half_of_gamma(gamma):
    """Points that are true and confidences e and e squared times too high: gamma / 2 * (1 + 2) and nothing else."""
    given = signals(share_valid=2.0)
    pred = copies(given)
    pred["confidence"] = pred["confidence"] * math.e
    pred["confidence_local"] = pred["confidence_local"] * math.e**2
    terms = robust_pointmap_loss(pred, given, gamma=gamma)
    torch.testing.assert_close(terms["confidence"], torch.full((B,), gamma * 1.5), rtol=1e-5, atol=0)
    rest = terms["total"] - terms["global"] - terms["local"]
    torch.testing.assert_close(rest, terms["confidence"], rtol=1e-4, atol=1e-6)


def test_descending_it_finds_the_points():
    torch.manual_seed(0)
    given = signals(share_valid=2.0)
    pred = torch.nn.Parameter(torch.tensor([0.0, 0.0, 1.0]).expand(B, V, H, W, 3).clone())
    optimiser = torch.optim.Adam([pred], lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        loss = local_error(pred, given["pointmap_local"]).mean()
        loss.backward()
        optimiser.step()
    truth = given["pointmap_local"].value
    scale = (truth.norm(dim=-1) / pred.detach().norm(dim=-1)).median()
    assert float((pred.detach() * scale - truth).norm(dim=-1).median()) < 0.15
