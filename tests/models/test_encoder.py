"""The ViT encoder and DUNE's projectors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from manyview.errors import UserError
from manyview.models import vit
from manyview.models.dune.network import Dune, debug, dune, mast3r_input
from manyview.models.family import with_overrides
from manyview.models.vit import Encoder, EncoderConfig


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    model = vit.Encoder.fresh(EncoderConfig(dim=8, depth=3, heads=2, registers=2, positions=4))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def test_shapes_and_order_of_the_tokens(encoder):
    features = encoder.encode(torch.rand(2, 3, 28, 42))
    assert features.grid == (2, 3)
    assert features.patches.shape == (2, 6, 8)
    assert features.cls.shape == (2, 8)
    assert features.registers.shape == (2, 2, 8)
    assert features.as_map().shape == (2, 8, 2, 3)


def test_norm_is_the_last_thing_that_happens(encoder):
    images = torch.rand(1, 3, 28, 28)
    raw, normed = encoder.encode(images, norm=False), encoder.encode(images)
    torch.testing.assert_close(encoder.norm(raw.patches), normed.patches)
    torch.testing.assert_close(encoder.norm(raw.cls), normed.cls)


def test_layers_come_back_in_the_order_asked_for(encoder):
    images = torch.rand(1, 3, 28, 28)
    last, first = encoder.encode(images, layers=[2, 0])
    torch.testing.assert_close(last.patches, encoder.encode(images).patches)
    tokens = encoder.blocks[0](encoder.tokens(images)[0])
    torch.testing.assert_close(first.patches, encoder.norm(tokens)[:, 3:])


def test_masked_patches_are_not_seen(encoder):
    images = torch.rand(1, 3, 28, 28)
    mask = torch.tensor([[True, False, False, False]])
    changed = images.clone()
    changed[..., :14, :14] = 0
    before, after = encoder.encode(images, mask=mask), encoder.encode(changed, mask=mask)
    torch.testing.assert_close(before.patches, after.patches)
    assert not torch.allclose(before.patches, encoder.encode(images).patches)


def test_values_outside_zero_to_one_pass_through_linearly(encoder):
    images = torch.rand(1, 3, 28, 28)
    lowest, low, high, highest = (encoder.tokens(images + step)[0] for step in (-1, 0, 1, 2))
    torch.testing.assert_close(highest - high, low - lowest, atol=1e-5, rtol=1e-4)


def test_the_model_normalises_with_its_own_mean_and_std(encoder):
    images = torch.rand(1, 3, 28, 28)
    plain, shifted = (
        Encoder(replace(encoder.config, image_mean=(mean,) * 3, image_std=(std,) * 3)).eval()
        for mean, std in ((0.0, 1.0), (0.25, 0.5))
    )
    for model in (plain, shifted):
        model.load_state_dict(encoder.state_dict())
        model.init_buffers()
    torch.testing.assert_close(shifted.encode(images).patches, plain.encode((images - 0.25) / 0.5).patches)


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(encoder):
    with pytest.raises(UserError, match="multiples of 14"):
        encoder.encode(torch.rand(1, 3, 28, 30))


def test_no_registers_leave_no_register_tokens():
    model = vit.Encoder.fresh(EncoderConfig(dim=8, depth=1, heads=2, positions=2))
    assert model.encode(torch.rand(1, 3, 28, 28)).registers is None
    assert "register_tokens" not in dict(model.named_parameters())


@pytest.mark.parametrize(
    ("size", "resolution", "registers", "parameters"),
    [("s", 336, 4, 28_262_016), ("s", 448, 4, 28_434_048), ("b", 336, 4, 109_605_120), ("b", 448, 0, 109_946_112)],
)
def test_published_dune_layouts_have_their_parameters(size, resolution, registers, parameters):

    with torch.device("meta"):
        model = Dune(with_overrides(dune(size, resolution), {"registers": registers}))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_projectors_answer_in_the_teachers_width():
    model = Dune(debug(dune("s", 336)))
    features = model.encode(torch.rand(2, 3, 28, 42), norm=False)
    there = model.project(features, "mast3r")
    assert there.patches.shape == (2, 6, 16)
    assert there.cls.shape == (2, 16)
    assert there.registers is None


def test_an_unknown_teacher_is_a_users_mistake():
    model = Dune(debug(dune("s", 336)))
    with pytest.raises(UserError, match="did you mean 'dinov2'"):
        model.project(model.encode(torch.rand(1, 3, 28, 28), norm=False), "dinov3")


def test_mast3r_sees_the_same_token_grid_at_patch_16():
    images = torch.rand(1, 3, 28, 42)
    seen = mast3r_input(images)
    assert seen.shape == (1, 3, 32, 48)
    corners = seen[..., ::31, ::47] * 0.5 + 0.5
    torch.testing.assert_close(corners, images[..., ::27, ::41])
    flat = mast3r_input(F.interpolate(torch.full((1, 3, 1, 1), 0.25), size=(28, 28)))
    torch.testing.assert_close(flat, torch.full_like(flat, -0.5))
