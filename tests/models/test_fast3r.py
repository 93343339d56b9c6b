"""Fast3R as a setting of the reconstructor: its size, its views, and its files."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import manyview as mv
from manyview import UserError
from manyview.models.fast3r import fast3r, says
from manyview.models.reconstructor.network import Reconstructor, debug

STATED = {
    "encoder_args": {"encoder_type": "croco", "embed_dim": 8, "num_heads": 2, "img_size": 512, "pos_embed": "RoPE50"},
    "decoder_args": {"decoder_type": "fast3r", "embed_dim": 8, "num_heads": 2},
    "head_args": {"head_type": "dpt", "with_local_head": True, "conf_mode": ["exp", 1, "inf"]},
}
TAPS = (0, 1, 2, 2)  # what the shapes of a debug model cannot tell


@pytest.fixture
def model() -> Reconstructor:
    model = mv.zoo.build("fast3r-vitl16", size="debug", seed=0).eval()
    torch.manual_seed(1)
    for parameter in model.parameters():  # away from the near-constant fresh state
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.12)
    return model


def test_the_published_layout_has_its_647_551_368_parameters():
    with torch.device("meta"):
        model = Reconstructor(fast3r())
    parts = {
        name: sum(p.numel() for p in child.parameters())
        for name, child in model.named_children()
        if list(child.parameters())
    }
    assert parts == {"encoder": 303_098_880, "fusion": 303_361_024, "head": 20_545_732, "head_local": 20_545_732}
    assert sum(parts.values()) == 647_551_368


def test_it_is_a_family_of_its_own(model):
    assert model.architecture == "fast3r"
    assert not any("cls_token" in name or "pos_embed" in name for name in model.state_dict())


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (16, 80)])
def test_any_orientation(model, size):
    with torch.no_grad():
        pred = model(torch.rand(2, 3, 3, *size))
    assert pred["pointmap"].shape == (2, 3, *size, 3)
    assert bool((pred["confidence_local"] > 1).all())


def test_rotary_positions_tell_patches_apart(model):
    flat = torch.full((1, 3, 32, 48), 0.4)
    flat[..., :16, :16] = 0.9
    moved = flat.roll(16, dims=-1)
    with torch.no_grad():
        here, there = (model.encoder.encode(image).patches for image in (flat, moved))
    assert not torch.allclose(here[:, 0], there[:, 1], atol=1e-5)
    alone = torch.full((1, 3, 16, 16), 0.4)  # with one patch there is nothing to be relative to
    with torch.no_grad():
        assert model.encoder.encode(alone).patches.shape == (1, 1, 8)


def test_view_ids_are_sequential_unless_given_and_rows_swap_with_views(model):
    images = torch.rand(1, 3, 3, 32, 32)
    with torch.no_grad():
        base = model(images)["pointmap"]
        again = model(images, [0, 1, 2])["pointmap"]
        other = model(images, [0, 7, 911])["pointmap"]
        swapped = model(images[:, [0, 2, 1]], [0, 2, 1])["pointmap"][:, [0, 2, 1]]
    assert torch.equal(base, again)
    assert not torch.allclose(base, other)
    torch.testing.assert_close(swapped, base, rtol=1e-4, atol=1e-5)


def test_attention_is_extended_in_eval_only(model):
    images = torch.rand(1, 2, 3, 32, 32)
    with torch.no_grad():
        extended, plain = (model(images, attention_scale=s)["pointmap"] for s in ("extended", "plain"))
        assert not torch.allclose(extended, plain)
        assert torch.equal(model.eval()(images)["pointmap"], extended)
        assert torch.equal(model.train()(images)["pointmap"], plain)


def test_chunks_do_not_change_the_result(model):
    images = torch.rand(1, 3, 3, 32, 48)
    with torch.no_grad():
        whole = model(images, encoder_chunk=9, head_chunk=9)
        parts = model(images, encoder_chunk=1, head_chunk=2)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dropped", ["scratch.layer_rn.", "scratch.layer1_rn.|layer2_rn.|layer3_rn.|layer4_rn."])
def test_a_hugging_face_directory_with_either_of_the_duplicated_names(model, dropped, tmp_path):
    official = mv.zoo.export_official(model)
    parts = dropped.removeprefix("scratch.").split("|")
    kept = {k: v.clone() for k, v in official.items() if not any(f"scratch.{part}" in k for part in parts)}
    assert len(kept) == len(official) - 8
    folder = tmp_path / "hf"
    folder.mkdir()
    save_file(kept, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(STATED))
    loaded = mv.load(mv.zoo.convert(folder, arch="fast3r-vitl16", out=tmp_path / "m", taps=TAPS))
    assert (loaded.config.encoder.heads, loaded.config.decoder_heads, loaded.config.encoder.rope_base) == (2, 2, 50.0)
    again = mv.zoo.export_official(loaded)
    assert again.keys() == official.keys()
    assert all(torch.equal(again[key], official[key]) for key in official)


def test_a_lightning_checkpoint_of_its_training(model, tmp_path):
    state = {f"net.{key}": tensor for key, tensor in mv.zoo.export_official(model).items()}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state, "epoch": 7}, path)
    out = mv.zoo.convert(path, arch="fast3r-vitl16", out=tmp_path / "m", taps=TAPS, heads=2, decoder_heads=2)
    loaded = mv.load(out)
    images = torch.rand(1, 2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images)["pointmap"], model(images)["pointmap"])


def test_a_configuration_says_what_shapes_cannot():
    assert says({}, fast3r()) == {}
    assert says({"config": STATED}, fast3r()) == {
        "dim": 8,
        "heads": 2,
        "image_size": 512,
        "decoder_dim": 8,
        "decoder_heads": 2,
        "rope_base": 50.0,
    }


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("decoder_args", {"decoder_type": "llama"}, "decoder_type"),
        ("encoder_args", {"encoder_type": "dino_v2"}, "encoder_type"),
        ("encoder_args", {"pos_embed": "cosine"}, "pos_embed"),
        ("head_args", {"with_local_head": False}, "with_local_head"),
    ],
)
def test_a_configuration_of_another_network_is_refused(section, change, message):
    config = {**STATED, section: {**STATED[section], **change}}
    with pytest.raises(UserError, match=message):
        says({"config": config}, fast3r())


def test_debug_keeps_the_layout():
    small = debug(fast3r()).encoder
    assert (small.patch_size, small.rope, small.cls_token, small.layer_scale) == (16, "grid", False, None)
