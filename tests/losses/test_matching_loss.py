"""InfoNCE over true matches: its least is at the truth, it learns from nothing else, weights and negatives count."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from manyview.losses.matching import at_matches, info_nce, matching_loss
from manyview.types import Signal

B, K, D, H, W = 2, 12, 8, 6, 7


def matches(seed: int = 0, valid: float = 0.7) -> Signal:
    """Every pixel at most once per view."""
    g = torch.Generator().manual_seed(seed)
    pixels = torch.stack(
        [torch.stack([torch.randperm(H * W, generator=g)[:K] for _ in range(2)], -1) for _ in range(B)]
    )
    return Signal(torch.stack([pixels % W, pixels // W], -1), valid=torch.rand(B, K, generator=g) < valid)


def maps(seed: int = 1) -> torch.Tensor:
    return F.normalize(torch.randn(B, 2, H, W, D, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_it_equals_the_loops_with_all_rows_in_the_denominators():
    descriptors, pairs = maps(), matches()
    confidence = 0.5 + torch.rand(B, 2, H, W, generator=torch.Generator().manual_seed(2))
    sums, counts = matching_loss(descriptors, confidence, pairs, alpha=3.0, temperature=0.2)
    for b in range(B):
        pick = [
            [(descriptors[b, v, y, x], float(confidence[b, v, y, x])) for x, y in pairs.value[b, :, v].tolist()]
            for v in range(2)
        ]
        total = 0.0
        for k in range(K):
            if not pairs.valid[b, k]:
                continue
            like = [[math.exp(float(p @ q) / 0.2) for q, _ in pick[1]] for p, _ in pick[0]]
            cost = -math.log(like[k][k] / sum(like[k])) - math.log(like[k][k] / sum(row[k] for row in like))
            sure = (pick[0][k][1] + pick[1][k][1]) / 2
            total += sure * cost - 3.0 * math.log(sure)
        assert float(sums[b]) == pytest.approx(total, rel=1e-4)
        assert int(counts[b]) == int(pairs.valid[b].sum())


def test_descending_it_makes_every_match_the_nearest():
    raw = torch.randn(B, 2, H, W, D, generator=torch.Generator().manual_seed(3)).requires_grad_()
    pairs = matches(valid=2.0)

    def nearest() -> float:
        first, second = at_matches(F.normalize(raw, dim=-1), pairs)
        return float(((first @ second.transpose(1, 2)).argmax(-1) == torch.arange(K)).float().mean())

    before, optimiser = nearest(), torch.optim.Adam([raw], lr=0.1)
    for _ in range(40):
        optimiser.zero_grad()
        sums, counts = matching_loss(F.normalize(raw, dim=-1), None, pairs)
        (sums.sum() / counts.sum()).backward()
        optimiser.step()
    assert before < 0.5
    assert nearest() == 1.0
    assert float(sums.sum().detach() / counts.sum()) < 0.05


def test_equal_descriptors_cost_chance_and_swapped_views_the_same():
    same = torch.ones(B, 2, H, W, D) / D**0.5
    sums, counts = matching_loss(same, None, matches())
    assert float(sums.sum() / counts.sum()) == pytest.approx(2 * math.log(K), rel=1e-5)
    turned = Signal(matches().value.flip(2), valid=matches().valid)
    torch.testing.assert_close(
        matching_loss(maps(), None, matches())[0], matching_loss(maps().flip(1), None, turned)[0]
    )


def test_pixels_without_a_match_push_but_are_not_pulled():
    pairs, descriptors = matches(), maps().requires_grad_()
    sums, _ = matching_loss(descriptors, None, pairs)
    fewer = Signal(pairs.value[:, :6], valid=pairs.valid[:, :6])
    assert bool((matching_loss(descriptors, None, fewer)[0] < sums).all())
    sums.sum().backward()
    first = at_matches(descriptors.grad, pairs)[0]
    assert bool((first[~pairs.valid].norm(dim=-1) > 0).all())
    chosen = torch.zeros(B, 2, H, W, dtype=torch.bool)
    for b in range(B):
        for view in range(2):
            x, y = pairs.value[b, :, view].unbind(-1)
            chosen[b, view, y, x] = True
    assert bool((descriptors.grad[~chosen] == 0).all())


def test_confidence_is_worth_alpha_over_the_cost():
    pairs = matches(valid=2.0)
    sure = torch.ones(B, 2, H, W, requires_grad=True)
    matching_loss(maps(), sure, pairs, alpha=10.0)[0].sum().backward()
    cost = info_nce(*at_matches(maps(), pairs))
    expected = (cost - 10.0) / 2  # half of d/dc (c * cost - 10 log c) at c = 1, for each of the two pixels
    torch.testing.assert_close(at_matches(sure.grad, pairs)[0], expected)
    none = Signal(pairs.value, valid=torch.zeros(B, K, dtype=torch.bool))
    assert matching_loss(maps(), sure, none)[0].tolist() == [0.0, 0.0]


def test_bf16_autocast_changes_nothing():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = matching_loss(maps(), None, matches())[0]
    torch.testing.assert_close(cast, matching_loss(maps(), None, matches())[0], rtol=0, atol=0)
