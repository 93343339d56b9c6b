"""Encoders of other libraries beside ours: what they answer themselves, and a reason where they cannot."""

from __future__ import annotations

import pytest
import torch

import manyview as mv
from manyview.errors import UserError
from manyview.models.outside import outside
from timm_kinds import KINDS, Kind, each_kind, images, stand_in, tokens_of

BEIT, VIT = (next(kind for kind in KINDS if kind.name.startswith(name)) for name in ("beit", "vit_tiny"))


@each_kind
def test_networks_of_every_kind_encode_as_timm_itself_does(monkeypatch, kind):
    stand_in(monkeypatch, kind)
    encoder, grid = outside(f"timm:{kind.name}"), (kind.size[0] // kind.patch, kind.size[1] // kind.patch)
    assert (encoder.config.patch_size, encoder.fixed_size) == (kind.patch, kind.size if kind.fixed else None)
    pictures = images(*kind.size)
    with torch.no_grad():
        features = encoder.encode(pictures)
        first, last = encoder.encode(pictures, layers=[0, len(encoder.blocks) - 1])
    assert (features.grid, last.grid) == (grid, grid)
    assert features.patches.shape == (2, grid[0] * grid[1], encoder.config.dim)
    assert (features.cls is not None) == kind.cls == encoder.config.cls_token
    tokens, token = tokens_of(encoder.network, pictures, grid[0] * grid[1])
    torch.testing.assert_close(features.patches, tokens, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(last.patches, tokens, atol=1e-4, rtol=1e-4)
    assert first.patches.shape != last.patches.shape or not torch.equal(first.patches, last.patches)
    if kind.cls:
        torch.testing.assert_close(features.cls, token, atol=1e-4, rtol=1e-4)


@each_kind
def test_the_same_network_with_random_weights(monkeypatch, kind):
    stand_in(monkeypatch, kind)
    encoder, pictures = outside(f"timm:{kind.name}"), images(*kind.size, count=1)
    state = torch.get_rng_state()
    fresh, again, other = encoder.untrained(3), encoder.untrained(3), encoder.untrained(4)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        tokens = [one.encode(pictures).patches for one in (encoder, fresh, again, other)]
    assert tokens[0].shape == tokens[1].shape
    assert torch.equal(tokens[1], tokens[2])
    assert not torch.allclose(tokens[1], tokens[3], atol=1e-4)
    assert not torch.allclose(tokens[1], tokens[0], atol=1e-4)
    assert (fresh.fixed_size, fresh.training) == (encoder.fixed_size, False)


def test_sizes_and_masks_that_it_cannot_take(monkeypatch):
    stand_in(monkeypatch, BEIT)
    encoder = outside("timm:beit_base_patch16_224")
    with pytest.raises(UserError, match="takes 224x224 only, the images are 64x96"):
        encoder.encode(torch.rand(1, 3, 64, 96))
    with pytest.raises(UserError, match="cannot be given masked images"):
        encoder.encode(torch.rand(1, 3, 224, 224), mask=torch.zeros(1, 196, dtype=torch.bool))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crossvit_tiny_240", "no map with a cell for every 17 pixels of its 240x240"),
        ("inception_v3", "no map with a cell for every 32 pixels of its 299x299"),
    ],
)
def test_networks_whose_maps_do_not_tile_their_images_are_refused_with_the_reason(monkeypatch, name, reason):
    stand_in(monkeypatch, Kind(name))
    with pytest.raises(UserError, match=reason) as caught:
        outside(f"timm:{name}")
    assert "\n" not in str(caught.value)


def test_a_table_may_hold_them(monkeypatch):
    stand_in(monkeypatch, VIT)
    model = mv.load("timm:vit_tiny_patch16_224")
    assert model.can == "encode images"
    found = mv.features([torch.rand(3, 64, 96).numpy()], model="timm:vit_tiny_patch16_224")
    assert found[0].patches.shape[-1] == 192
    with pytest.raises(UserError, match=r"cannot reconstruct views; models that can"):
        mv.reconstruct([torch.rand(3, 64, 96).numpy()], model="timm:vit_tiny_patch16_224")


def test_a_transformers_directory(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the package transformers")
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    torch.manual_seed(0)
    network = transformers.ViTModel(config).eval()
    network.save_pretrained(tmp_path)
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    encoder, images = outside(f"hf:{tmp_path}"), torch.rand(1, 3, 224, 224)
    features = encoder.encode(images)
    with torch.no_grad():
        expected = network(pixel_values=(images - 0.5) / 0.5).last_hidden_state
    torch.testing.assert_close(features.patches, expected[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.cls, expected[:, 0], atol=1e-5, rtol=1e-5)
    assert encoder.encode(torch.rand(1, 3, 64, 96)).grid == (4, 6)
    fresh, again = (encoder.untrained(seed).encode(images).patches for seed in (1, 1))
    assert torch.equal(fresh, again)
    assert not torch.allclose(fresh, features.patches, atol=1e-3)


@pytest.mark.parametrize("source", ["timm:no_such_network", "hf:/no/such/place"])
def test_one_that_is_not_there_is_one_line(source):
    pytest.importorskip("timm" if source.startswith("timm") else "transformers", reason="needs that library")
    with pytest.raises(UserError, match="cannot make") as caught:
        outside(source)
    assert "\n" not in str(caught.value)
