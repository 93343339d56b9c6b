"""Encoders of other libraries beside ours: what they answer themselves, and a reason where they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WORDS = {**SMALL, "vocab_size": 100}
# Kind -> its networks of transformers, whether they say a class token, and their configuration.
TRANSFORMERS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "vit": ("ViT", True, SMALL),
    "dinov2": ("Dinov2WithRegisters", True, {**SMALL, "num_register_tokens": 3, "image_size": 64, "patch_size": 16}),
    "dinov3": ("DINOv3ViT", True, {**SMALL, "num_register_tokens": 3}),
    "mae": ("ViTMAE", True, {**SMALL, **{f"decoder_{key}": value for key, value in SMALL.items()}}),
    "siglip": ("Siglip", False, {"vision_config": {**SMALL, "patch_size": 16, "image_size": 64}, "text_config": WORDS}),
    "clip": ("CLIP", True, {"vision_config": {**SMALL, "patch_size": 16, "image_size": 64}, "text_config": WORDS}),
    "swin": ("Swin", False, {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "image_size": 64}),
    "convnext": ("ConvNext", False, {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "siglip2": ("Siglip2", False, {"vision_config": {**SMALL, "patch_size": 16}, "text_config": WORDS}),
}


def saved(kind: str, folder: Path) -> Any:
    """A network of the kind with random weights, as a directory of transformers'."""
    transformers = pytest.importorskip("transformers", reason="needs the package transformers")
    name, _, options = TRANSFORMERS[kind]
    torch.manual_seed(0)
    network = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**options)).eval()
    network.save_pretrained(folder)
    transformers.ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return network


@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov3", "mae", "siglip", "clip"])
def test_directories_of_transformers_encode_as_it_does_itself(kind, tmp_path):
    network = saved(kind, tmp_path)
    encoder, pictures = outside(f"hf:{tmp_path}"), images(64, 96)
    with torch.no_grad():
        features, fresh, again = (one.encode(pictures) for one in (encoder, encoder.untrained(1), encoder.untrained(1)))
        tower = getattr(network, "vision_model", network)
        if kind == "mae":  # as a plain ViT with the same weights, which hides nothing
            import transformers

            tower = transformers.ViTModel(transformers.ViTConfig(**SMALL), add_pooling_layer=False).eval()
            tower.load_state_dict(network.state_dict())
        free = {} if kind in ("dinov2", "dinov3") else {"interpolate_pos_encoding": True}
        tokens = tower(pixel_values=(pictures - 0.5) / 0.5, **free).last_hidden_state
        if kind == "clip":  # whose last norm is on the class token alone
            tokens = tower.post_layernorm(tokens)
    assert (features.grid, features.patches.shape) == ((4, 6), (2, 24, 32))
    torch.testing.assert_close(features.patches, tokens[:, -24:], atol=1e-5, rtol=1e-5)
    assert (features.cls is not None) == TRANSFORMERS[kind][1]
    if features.cls is not None:
        torch.testing.assert_close(features.cls, tokens[:, 0], atol=1e-5, rtol=1e-5)
    assert torch.equal(fresh.patches, again.patches)
    assert not torch.allclose(fresh.patches, features.patches, atol=1e-3)


@pytest.mark.parametrize("kind", ["swin", "convnext", "siglip2"])
def test_directories_of_other_kinds_are_refused_with_the_reason(kind, tmp_path):
    saved(kind, tmp_path)
    with pytest.raises(UserError, match="is no vision transformer with a patch grid") as caught:
        outside(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["timm:no_such_network", "hf:/no/such/place"])
def test_one_that_is_not_there_is_one_line(source):
    pytest.importorskip("timm" if source.startswith("timm") else "transformers", reason="needs that library")
    with pytest.raises(UserError, match="cannot make") as caught:
        outside(source)
    assert "\n" not in str(caught.value)
