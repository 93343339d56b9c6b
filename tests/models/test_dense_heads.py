"""Linear dense heads: points are pixels, depths are means of bins."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from manyview.losses.dense import class_loss, gradient_loss, random_pixels, sig_loss
from manyview.models.dense_heads import DepthHead, SegmentationHead, sample_maps

GENERATOR = torch.Generator().manual_seed(0)


def test_sampling_at_pixel_centres_is_bilinear_resizing():
    maps = torch.randn(2, 3, 4, 5, generator=GENERATOR)
    large = F.interpolate(maps, size=(32, 40), mode="bilinear", align_corners=False)
    values, points = random_pixels(large[:, 0], 50, GENERATOR)
    assert torch.allclose(sample_maps(maps, points)[:, 0], values, atol=1e-5)


def test_a_depth_at_points_is_that_of_the_fine_map():
    head = DepthHead(6, least=1.0, most=9.0, bins=32).eval()
    tokens = 5 * torch.randn(2, 12, 6, generator=GENERATOR)
    fine = head(tokens, (3, 4))
    assert fine.shape == (2, 12, 16)
    assert fine.min() >= 1
    assert fine.max() <= 9
    values, points = random_pixels(fine, 40, GENERATOR)
    assert torch.allclose(head(tokens, (3, 4), points), values, atol=1e-4)


def test_equal_logits_are_the_middle_of_the_bins():
    head = DepthHead(2, least=2.0, most=4.0)
    torch.nn.init.zeros_(head.linear.weight)
    assert torch.allclose(head(torch.randn(1, 4, 2), (2, 2)), torch.full((1, 8, 8), 3.0), atol=1e-4)


def test_a_segmentation_head_keeps_the_grid():
    head = SegmentationHead(5, 7).eval()
    tokens = torch.randn(2, 6, 5, generator=GENERATOR)
    maps = head(tokens, (2, 3))
    assert maps.shape == (2, 7, 2, 3)
    assert torch.allclose(maps[1, :, 1, 2], head.linear(head.norm(tokens[1, 5][None]))[0], atol=1e-6)


def test_unknown_labels_do_not_count():
    logits = torch.randn(2, 3, 4, generator=GENERATOR)
    labels = torch.tensor([[0, 1, 2, -1], [255, 3, 1, 1]])
    known = [(0, 0), (0, 1), (0, 2), (1, 2), (1, 3)]
    by_hand = torch.stack([-logits[n, :, k].log_softmax(0)[labels[n, k]] for n, k in known]).mean()
    assert class_loss(logits, labels).item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert class_loss(logits, torch.full_like(labels, 255)).item() == 0


def test_the_scale_invariant_loss_by_hand():
    true = torch.tensor([[1.0, 2.0, 0.0]])
    predicted = torch.tensor([[2.0, 8.0, 5.0]])
    g = torch.log(torch.tensor([2.001 / 1.001, 8.001 / 2.001]))
    expected = (g.var() + 0.15 * g.mean() ** 2).sqrt()
    assert sig_loss(predicted, true, true > 0).item() == pytest.approx(expected.item(), rel=1e-4)
    assert torch.isfinite(sig_loss(true, true, torch.zeros_like(true, dtype=torch.bool)))


def test_the_gradient_loss_sees_shape_and_not_scale():
    true = torch.rand(2, 24, 24, generator=GENERATOR) + 1
    valid = torch.ones_like(true, dtype=torch.bool)
    valid[:, :5] = False
    assert gradient_loss(3 * true, true, valid).item() < 0.01
    bent = true * torch.linspace(1, 3, 24)
    assert gradient_loss(bent, true, valid) > 0.1
    hole = torch.where(valid, true, float("nan"))
    assert torch.isfinite(gradient_loss(bent, hole, valid))
