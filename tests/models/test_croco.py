"""CroCo: the first view completed from the second."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from manyview.errors import UserError
from manyview.layers.masking import hide_at_random
from manyview.models.croco import network as croco
from manyview.models.croco.network import Croco


@pytest.fixture
def model() -> Croco:
    torch.manual_seed(0)
    model = Croco(croco.debug(croco.croco()))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


MASK = torch.tensor([[True, False, True, False, False, True], [False, True, True, True, False, False]])


def test_every_patch_is_predicted_and_hidden_pixels_are_not_seen(model):
    images = torch.rand(2, 2, 3, 32, 48)
    out = model(images, MASK)
    assert out.reconstruction.shape == (2, 6, 3 * 16 * 16)
    assert torch.equal(out.mask, MASK)
    changed = images.clone()
    changed[0, 0, :, :16, :16] = 0  # the first patch of the first row is hidden
    torch.testing.assert_close(model(changed, MASK).reconstruction, out.reconstruction)
    changed[0, 0, :, :16, 16:32] = 0  # the second is not
    assert not torch.allclose(model(changed, MASK).reconstruction[0], out.reconstruction[0])
    torch.testing.assert_close(model(changed, MASK).reconstruction[1], out.reconstruction[1])


def test_the_second_view_is_seen_whole(model):
    images = torch.rand(2, 2, 3, 32, 48)
    before = model(images, MASK).reconstruction
    for patch in range(6):
        changed = images.clone()
        row, col = divmod(patch, 3)
        changed[:, 1, :, 16 * row : 16 * row + 16, 16 * col : 16 * col + 16] = 0
        assert not torch.allclose(model(changed, MASK).reconstruction, before)


def test_visible_tokens_stand_at_their_places_and_the_mask_token_elsewhere(model):
    images = torch.rand(2, 2, 3, 32, 48)
    entered = []
    model.decoder.branches[0][0].register_forward_hook(lambda _m, inputs, _o: entered.append(inputs[0]))
    model(images, MASK)
    seen = model.decoder.embed(model.encode(images[:, 0], MASK).patches)
    for row in range(2):
        visible = iter(seen[row])
        for patch in range(6):
            expected = model.decoder.mask_token[0, 0] if MASK[row, patch] else next(visible)
            torch.testing.assert_close(entered[0][row, patch], expected)


def test_masks_are_drawn_from_the_generator_given(model):
    first, again, other = (hide_at_random((3, 40), 36, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.sum(1).tolist() == [36, 36, 36]
    assert not torch.equal(first[0], first[1])
    drawn = model(torch.rand(2, 2, 3, 32, 48), mask_ratio=0.5, generator=torch.Generator().manual_seed(3))
    assert drawn.mask.sum(1).tolist() == [3, 3]


@pytest.mark.parametrize("shape", [(1, 3, 3, 32, 32), (1, 1, 3, 32, 32), (2, 3, 32, 32)])
def test_anything_but_pairs_is_refused(model, shape):
    with pytest.raises(UserError, match="one view from another"):
        model(torch.rand(shape))


def test_gradients_reach_everything(model):
    model(torch.rand(2, 2, 3, 32, 48), MASK).reconstruction.mean().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_parameters_at_full_size():
    with torch.device("meta"):
        model = Croco(croco.croco())
    parts = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
    # Encoder and decoder as the key lists of DUSt3R, which starts from them, count their parts.
    assert parts["encoder"] == 787_456 + 302_309_376 + 2_048
    assert parts["decoder"] == 768 + 787_200 + 113_439_744 + 1_536
    assert sum(parts.values()) == 417_918_720
