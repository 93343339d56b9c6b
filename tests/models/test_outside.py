"""Encoders of other libraries beside ours: what they answer themselves, and a reason where they cannot."""

from __future__ import annotations

import pytest
import torch

import manyview as mv
from manyview.errors import UserError
from manyview.models.outside import outside

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 2}


def fake(monkeypatch, name: str, **options):
    """timm's own network with seeded weights in place of pretrained ones, which cannot be had offline."""
    timm = pytest.importorskip("timm", reason="needs the extra `timm`")
    real = timm.create_model

    def create(asked, *, pretrained, **arguments):
        assert pretrained
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return real(name, pretrained=False, **{**options, **arguments})

    monkeypatch.setattr(timm, "create_model", create)


@pytest.mark.parametrize(
    ("name", "options", "size", "grid", "cls"),
    [
        ("convnext_atto", {}, (64, 96), (2, 3), False),
        ("vit_tiny_patch16_224", {"depth": 2}, (64, 96), (4, 6), True),
        (
            "vit_small_patch14_dinov2",
            {"depth": 2, "embed_dim": 48, "num_heads": 2, "img_size": 56},
            (56, 84),
            (4, 6),
            True,
        ),
        ("beit_base_patch16_224", SMALL, (224, 224), (14, 14), True),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}, (224, 224), (7, 7), False),
        ("hiera_tiny_224", {"stages": (1, 1, 1, 1)}, (224, 224), (7, 7), False),
        ("naflexvit_base_patch16_gap", SMALL, (64, 96), (4, 6), False),
    ],
)
def test_networks_of_every_kind_encode(monkeypatch, name, options, size, grid, cls):
    fake(monkeypatch, name, **options)
    encoder = outside(f"timm:{name}")
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    features = encoder.encode(images)
    assert features.grid == grid
    assert features.patches.shape == (2, grid[0] * grid[1], encoder.config.dim)
    assert (features.cls is not None) == cls == encoder.config.cls_token
    assert len(encoder.encode(images, layers=[0, encoder.config.depth - 1])) == 2
    if cls:  # the tokens are the library's own, normed as it does
        with torch.no_grad():
            about = encoder.network.pretrained_cfg
            mean, std = (torch.tensor(about[key])[:, None, None] for key in ("mean", "std"))
            tokens = encoder.network.forward_features((images - mean) / std)
        torch.testing.assert_close(features.patches, tokens[:, -grid[0] * grid[1] :], atol=1e-4, rtol=1e-4)


def test_sizes_and_masks_that_it_cannot_take(monkeypatch):
    fake(monkeypatch, "beit_base_patch16_224", depth=2, embed_dim=48, num_heads=2)
    encoder = outside("timm:beit_base_patch16_224")
    with pytest.raises(UserError, match="takes 224x224 only, the images are 64x96"):
        encoder.encode(torch.rand(1, 3, 64, 96))
    with pytest.raises(UserError, match="cannot be given masked images"):
        encoder.encode(torch.rand(1, 3, 224, 224), mask=torch.zeros(1, 196, dtype=torch.bool))


def test_a_table_may_hold_them(monkeypatch):
    fake(monkeypatch, "vit_tiny_patch16_224", depth=2)
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


@pytest.mark.parametrize("source", ["timm:no_such_network", "hf:/no/such/place"])
def test_one_that_is_not_there_is_one_line(source):
    pytest.importorskip("timm" if source.startswith("timm") else "transformers", reason="needs that library")
    with pytest.raises(UserError, match="cannot make") as caught:
        outside(source)
    assert "\n" not in str(caught.value)
