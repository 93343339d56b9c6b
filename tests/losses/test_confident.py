"""DUSt3R's confident regression: invariances, what metric data and sky change, and what must not poison it."""

from __future__ import annotations

import math

import pytest
import torch

from manyview.losses.confident import SKY_DISTANCE, confident_regression, point_distances, sum_of_views
from manyview.types import Signal

B, V, H, W = 2, 2, 4, 5


def pair(seed: int = 0, share: float = 0.7) -> tuple[torch.Tensor, Signal]:
    """Random points and a Signal that is NaN where it is not valid."""
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(B, V, H, W, generator=g) < share
    value = torch.randn(B, V, H, W, 3, generator=g) + torch.tensor([0.0, 0.0, 3.0])
    points = value + 0.3 * torch.randn(B, V, H, W, 3, generator=g)
    value[~valid] = math.nan
    return points, Signal(value, valid=valid)


def loss(points: torch.Tensor, signal: Signal, **options) -> torch.Tensor:
    return point_distances(points, signal, **options)[0]


def test_it_equals_the_loops():
    points, signal = pair()
    distances, known = point_distances(points, signal)
    assert torch.equal(known, signal.valid)
    for b in range(B):
        places = known[b].nonzero().tolist()
        sizes = [sum(float(x[b, v, i, j].norm()) for v, i, j in places) / len(places) for x in (points, signal.value)]
        for v, i, j in places:
            expected = (points[b, v, i, j] / sizes[0] - signal.value[b, v, i, j] / sizes[1]).norm()
            torch.testing.assert_close(distances[b, v, i, j], expected)
    assert bool((distances[~known] == 0).all())


@pytest.mark.parametrize("alignment", ["mean", "median"])
def test_the_prediction_s_size_is_free_and_its_shift_only_with_medians(alignment):
    points, signal = pair()
    cost = loss(points, signal, alignment=alignment)
    torch.testing.assert_close(loss(5 * points, signal, alignment=alignment), cost)
    moved = loss(points + torch.tensor([0.0, 0.0, 1.5]), signal, alignment=alignment)
    assert torch.allclose(moved, cost, atol=1e-5) == (alignment == "median")
    sideways = loss(points + torch.tensor([1.5, 0.0, 0.0]), signal, alignment=alignment)
    assert not torch.allclose(sideways, cost, atol=1e-2)


def test_on_metric_data_the_size_counts():
    points, signal = pair()
    metric = torch.tensor([True, False])
    cost, doubled = (loss(p, signal, metric=metric) for p in (points, 2 * points))
    torch.testing.assert_close(doubled[1], cost[1])
    assert float(doubled[0].mean()) > 2 * float(cost[0].mean())
    torch.testing.assert_close(cost[1], loss(points, signal)[1])
    assert float(loss(signal.value.nan_to_num(), signal, metric=metric).max()) < 1e-5


def test_sky_costs_a_constant_and_teaches_no_points():
    points, signal = pair()
    sky = torch.zeros(B, V, H, W, dtype=torch.bool)
    sky[:, 0, :2] = True
    points.requires_grad_()
    distances, known = point_distances(points, signal, sky=sky)
    only = sky & ~signal.valid
    assert only.any()
    assert torch.equal(known, signal.valid | sky)
    assert bool((distances[only] == SKY_DISTANCE).all())
    torch.testing.assert_close(distances[signal.valid], loss(points, signal)[signal.valid])
    distances.sum().backward()
    assert bool((points.grad[only] == 0).all())


def test_confidence_settles_at_alpha_over_the_distance():
    distances = torch.tensor([0.05, 0.1, 0.4]).reshape(1, 1, 1, 3)
    known = torch.ones_like(distances, dtype=torch.bool)
    sure = (0.2 / distances).requires_grad_()
    sums, counts = confident_regression(distances, known, sure, alpha=0.2)
    sums.sum().backward()
    assert float(sure.grad.abs().max()) < 1e-6
    least = float(sums.detach())
    assert int(counts) == 3
    for factor in (0.7, 1.4):
        other, _ = confident_regression(distances, known, factor * sure.detach(), alpha=0.2)
        assert float(other) > least


def test_nothing_invalid_reaches_loss_or_gradients():
    points, signal = pair()
    with torch.no_grad():
        points[~signal.valid] = math.inf
    points.requires_grad_()
    sure = torch.rand(B, V, H, W) + 1
    sure[~signal.valid] = math.nan
    sure.requires_grad_()
    total = sum_of_views(*confident_regression(*point_distances(points, signal), sure))
    total.backward()
    assert bool(total.isfinite())
    for grad in (points.grad, sure.grad):
        assert bool(grad[signal.valid].isfinite().all())
        assert bool((grad[~signal.valid] == 0).all())


def test_views_are_means_over_the_batch_added_up_and_an_empty_one_is_nothing():
    sums, counts = torch.tensor([[2.0, 5.0], [4.0, 0.0]]), torch.tensor([[2, 5], [1, 0]])
    assert float(sum_of_views(sums, counts)) == pytest.approx(6 / 3 + 5 / 5)
    assert float(sum_of_views(torch.zeros(2, 2), torch.zeros(2, 2))) == 0
    points, signal = pair(share=-1.0)
    points.requires_grad_()
    total = sum_of_views(*confident_regression(*point_distances(points, signal), torch.ones(B, V, H, W)))
    total.backward()
    assert float(total.detach()) == 0
    assert bool(points.grad.isfinite().all())


def test_a_perfect_answer_has_a_finite_gradient():
    _, signal = pair(share=2.0)
    points = signal.value.clone().requires_grad_()
    loss(points, signal).sum().backward()
    assert bool(points.grad.isfinite().all())
