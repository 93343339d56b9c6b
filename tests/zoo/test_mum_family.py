"""MuM's published layouts: exact keys, the encoder out of either file, heads that only the periods tell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import manyview as mv
from manyview import UserError, zoo


@pytest.fixture
def full() -> torch.nn.Module:
    """A small autoencoder with heads of 8 channels, which no weight but the periods tells."""
    return zoo.build("mum-vitl16-full", size="debug", seed=1, dim=64, heads=4, decoder_dim=16, decoder_heads=2)


def saved(model: torch.nn.Module, path: Path) -> Path:
    torch.save(zoo.export_official(model), path)
    return path


@pytest.mark.parametrize(("name", "entries"), [("mum-vitl16-full", 446), ("mum-vitb16-full", 254), ("mum-vitl16", 294)])
def test_exports_have_exactly_the_published_keys(name, entries):
    with torch.device("meta"):
        official = zoo.export_official(zoo.build(name))
    assert len(official) == entries
    assert official["rope_embed.periods"].shape == (16,)
    assert {"cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.bias"} <= set(official)
    if name.endswith("full"):
        assert official["rope_embed_decoder.periods"].shape == ({"l": 12, "b": 8}[name[7]],)
        assert {"decoder_frame_blocks.3.mlp.fc2.bias", "decoder_global_blocks.0.norm1.weight"} <= set(official)
        assert official["mask_token"].shape[:2] == (1, 1)


def test_a_full_file_comes_back_with_its_heads_and_weights(full, tmp_path):
    loaded = mv.load(zoo.convert(saved(full, tmp_path / "full.pth"), arch="mum-vitl16-full", out=tmp_path / "out"))
    assert (loaded.config.encoder.heads, loaded.config.decoder_heads, loaded.config.decoder_depth) == (4, 2, 2)
    images, mask = torch.rand(1, 2, 3, 16, 24), torch.arange(12).view(1, 2, 6) % 2 == 0
    torch.testing.assert_close(loaded(images, mask).reconstruction, full.eval()(images, mask).reconstruction)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_encoder_comes_out_of_either_published_file(full, tmp_path, wrapped):
    state = zoo.export_official(full)
    alone = {k: t for k, t in state.items() if not k.startswith(("decoder_", "mask_token", "rope_embed_decoder"))}
    assert 0 < len(alone) < len(state)
    images, found = torch.rand(2, 3, 16, 24), []
    for number, content in enumerate((state, alone)):
        path = tmp_path / f"{number}.pth"
        torch.save({"model": content, "step": 5} if wrapped else content, path)
        encoder = mv.load(zoo.convert(path, arch="mum-vitl16", out=tmp_path / f"out{number}"))
        assert encoder.config.eps == 1e-5  # the published class's; the autoencoder's is 1e-6
        assert encoder.config.heads == 4
        found.append(encoder.encode(images).patches)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], full.eval().encode(images).patches, rtol=1e-2, atol=1e-2)


def test_periods_rounded_to_bfloat16_in_a_file_do_not_round_ours(full, tmp_path):
    state = zoo.export_official(full)
    exact = full.encoder.rope.periods.clone()
    state["rope_embed.periods"] = state["rope_embed.periods"].bfloat16()
    assert not torch.equal(state["rope_embed.periods"].float(), exact)
    torch.save(state, tmp_path / "rounded.pth")
    encoder = mv.load(zoo.convert(tmp_path / "rounded.pth", arch="mum-vitl16", out=tmp_path / "out"))
    assert torch.equal(encoder.rope.periods, exact)


def test_a_decoder_by_another_name_is_not_ignored(full, tmp_path):
    state = zoo.export_official(full)
    torch.save({**state, "decoder_surprise.weight": torch.zeros(2)}, tmp_path / "strange.pth")
    with pytest.raises(UserError, match="decoder_surprise"):
        zoo.convert(tmp_path / "strange.pth", arch="mum-vitl16", out=tmp_path / "out")
    del state["decoder_norm.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"norm\.weight"):
        zoo.convert(tmp_path / "short.pth", arch="mum-vitl16-full", out=tmp_path / "out")


def test_periods_of_another_base_are_refused(full, tmp_path):
    state = zoo.export_official(full)
    state["rope_embed_decoder.periods"] = 10000.0 ** (torch.arange(2) / 2)
    torch.save(state, tmp_path / "base.pth")
    with pytest.raises(UserError, match="base 100"):
        zoo.convert(tmp_path / "base.pth", arch="mum-vitl16-full", out=tmp_path / "out")
