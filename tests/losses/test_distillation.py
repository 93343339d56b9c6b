"""DUNE's loss: its terms by hand, data sharing, and dropping that never drops the hardest teacher."""

from __future__ import annotations

import pytest
import torch

from manyview.losses.distillation import coefficients, distillation_loss, teacher_loss, token_loss
from manyview.types import Features


def test_released_terms_by_hand():
    student, teacher = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]])
    terms = token_loss(student, teacher)
    assert terms["cosine"].item() == pytest.approx(1.0)
    assert terms["smooth_l1"].item() == pytest.approx((0.5 + 2.5) / 2)
    assert terms["total"].item() == pytest.approx(0.5 * 1.0 + 0.5 * 1.5)


def test_printed_terms_by_hand():
    near, far = torch.tensor([[[0.3, 0.4]]]), torch.tensor([[[3.0, 4.0]]])
    origin = torch.full_like(near, 1e-12)
    assert token_loss(near, origin, "printed")["smooth_l1"].item() == pytest.approx(0.5 * 0.25)
    assert token_loss(far, origin, "printed")["smooth_l1"].item() == pytest.approx(7 - 0.5)
    terms = token_loss(far, near, "printed")
    assert terms["total"].item() == pytest.approx(terms["cosine"].item() + terms["smooth_l1"].item())


def test_a_class_token_counts_as_much_as_all_patches():
    torch.manual_seed(0)
    patches, cls = torch.randn(2, 3, 6, 4), torch.randn(2, 3, 4)
    student, teacher = (Features(patches[i], cls[i], None, (2, 3)) for i in range(2))
    without = Features(teacher.patches, None, None, (2, 3))
    alone = token_loss(patches[0], patches[1])["total"]
    together = token_loss(cls[0][:, None], cls[1][:, None])["total"]
    torch.testing.assert_close(teacher_loss(student, without), alone)
    torch.testing.assert_close(teacher_loss(student, teacher), (alone + together) / 2)


def test_the_hardest_teacher_is_never_dropped_and_the_others_half_the_time():
    torch.manual_seed(0)
    losses = torch.rand(3, 4000)
    kept = coefficients(losses, drop=0.5, generator=torch.Generator().manual_seed(1))
    hardest = losses.argmax(0)
    assert kept.gather(0, hardest[None]).min() == 1
    others = (kept.sum() - 4000) / (2 * 4000)
    assert abs(others.item() - 0.5) < 0.03
    assert torch.equal(kept, coefficients(losses, drop=0.5, generator=torch.Generator().manual_seed(1)))
    assert coefficients(losses, drop=1.0).sum() == 4000
    assert coefficients(losses, drop=0.0).min() == 1


def test_data_sharing():
    losses, owner = torch.ones(3, 4), torch.tensor([0, 1, 2, 0])
    none = coefficients(losses, sharing="none", owner=owner)
    assert none.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]
    generic = coefficients(losses, sharing="generic", owner=owner, generic=0)
    assert generic.tolist() == [[1, 0, 0, 1], [1, 1, 0, 1], [1, 0, 1, 1]]
    with pytest.raises(ValueError, match="owner"):
        coefficients(losses, sharing="none")


def test_the_loss_is_the_mean_of_what_counts():
    losses = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    kept = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert distillation_loss(losses, kept).item() == pytest.approx(8 / 3)
