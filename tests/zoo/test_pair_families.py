"""Published files of pair models and of CroCo: in under their names, out under the same, and what a file may lack."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import manyview as mv
from manyview import UserError, zoo
from manyview.models.family import lookup, with_overrides
from manyview.models.keymaps import CARRIED
from manyview.models.pair import model_fields
from manyview.models.pair.constructor import Call

# What shapes cannot tell of a debug network; an official file says it in its constructor string.
SILENT = {"heads": 2, "decoder_heads": 2}
WORDS = (
    "pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', img_size=(64, 48), depth_mode=('exp', -inf, inf), "
    "conf_mode=('exp', 1, inf), enc_embed_dim=8, enc_depth=2, enc_num_heads=2, dec_embed_dim=8, dec_depth=2, "
    "dec_num_heads=2"
)
CONSTRUCTORS = {
    "dust3r-vitl16-224-linear": f"AsymmetricCroCo3DStereo(head_type='linear', output_mode='pts3d', {WORDS})",
    "dust3r-vitl16-512-linear": f"AsymmetricCroCo3DStereo(head_type='linear', {WORDS})",
    "dust3r-vitl16-512-dpt": f"AsymmetricCroCo3DStereo(head_type='dpt', output_mode='pts3d', {WORDS})",
    "mast3r-vitl16": f"AsymmetricMASt3R(head_type='catmlp+dpt', output_mode='pts3d+desc24', two_confs=True, "
    f"desc_conf_mode=('exp', 0, inf), {WORDS})",
    "sab3r-c": f"AsymmetricMASt3R(head_type='catmlp+dpt', output_mode='pts3d+desc24', two_confs=True, "
    f"clip_head_type='dpt', dino_head_type=None, {WORDS})",
    "sab3r-cd": f"AsymmetricMASt3R(head_type='catmlp+dpt', output_mode='pts3d+desc24', two_confs=True, "
    f"clip_head_type='dpt', dino_head_type='dpt', {WORDS})",
}


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def naver(state: dict[str, Tensor], constructor: str, path: Path) -> Path:
    torch.save({"args": Namespace(model=constructor, lr=1e-4), "model": state, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_a_training_checkpoint_comes_in_and_goes_out_under_its_names(name, tmp_path):
    model = zoo.build(name, size="debug", seed=1)
    official = zoo.export_official(model)
    file = naver(official, CONSTRUCTORS[name], tmp_path / "model.pth")
    loaded = mv.load(zoo.convert(file, arch=name, out=tmp_path / "m"))
    assert same(model, loaded)
    idle = () if model.config.descriptor_dim else ("descriptor_hidden",)
    if model.config.head == "linear":
        idle += ("head_layer_dims", "head_dim", "head_last_dim")
    changed = {"image_size": 64, **{field: getattr(loaded.config, field) for field in idle}}
    assert loaded.config == with_overrides(model.config, changed)
    again = zoo.export_official(loaded)
    assert list(again) == list(official)
    assert all(torch.equal(official[key], tensor) for key, tensor in again.items())
    images = torch.rand(1, 2, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images)["pointmap"], model.eval()(images)["pointmap"])


def test_official_names():
    keys = set(zoo.export_official(zoo.build("sab3r-cd", size="debug")))
    for side in ("1", "2"):
        head = f"downstream_head{side}"
        assert {f"{head}.head_local_features.fc1.weight", f"{head}.clip_head.head.4.bias"} <= keys
        assert {f"{head}.dino_head.scratch.layer4_rn.weight", f"{head}.dpt.scratch.layer_rn.3.weight"} <= keys
    assert {"mask_token", "dec_norm.weight", "enc_norm.bias", "enc_blocks.1.attn.qkv.weight"} <= keys
    block = {"cross_attn.projq", "cross_attn.projk", "cross_attn.projv", "cross_attn.proj", "norm_y", "norm3"}
    assert {f"dec_blocks2.1.{part}.weight" for part in block} <= keys
    assert "downstream_head2.proj.weight" in zoo.export_official(zoo.build("dust3r-vitl16-224-linear", "debug"))


def test_weights_that_files_leave_out(tmp_path):
    model = zoo.build("dust3r-vitl16-512-dpt", size="debug", seed=1)
    model.decoder.branches[1].load_state_dict(model.decoder.branches[0].state_dict())
    nn.init.zeros_(model.decoder.mask_token)
    state = zoo.export_official(model)
    kept = {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith(("dec_blocks2.", "mask_token")) and ".layer_rn." not in key
    }
    assert len(kept) < len(state) - 8
    file = naver(kept, CONSTRUCTORS["dust3r-vitl16-512-dpt"], tmp_path / "model.pth")
    assert same(model, mv.load(zoo.convert(file, arch="dust3r-vitl16-512-dpt", out=tmp_path / "m")))
    only_twins = {key: tensor for key, tensor in state.items() if "layer1_rn" not in key}
    file = naver(only_twins, CONSTRUCTORS["dust3r-vitl16-512-dpt"], tmp_path / "model.pth")
    assert same(model, mv.load(zoo.convert(file, arch="dust3r-vitl16-512-dpt", out=tmp_path / "m")))


def test_half_a_second_decoder_is_an_error(tmp_path):
    state = zoo.export_official(zoo.build("dust3r-vitl16-512-dpt", size="debug"))
    state = {key: tensor for key, tensor in state.items() if not key.startswith("dec_blocks2.0.")}
    file = naver(state, CONSTRUCTORS["dust3r-vitl16-512-dpt"], tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"missing, first \['decoder.branches.1.0"):
        zoo.convert(file, arch="dust3r-vitl16-512-dpt", out=tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("('exp', 1, inf)", "('sigmoid', 0, 1)"), "conf_mode"),
        (("('exp', -inf, inf)", "('linear', -inf, inf)"), "depth_mode"),
        (("RoPE100", "cosine"), "pos_embed"),
        (("AsymmetricMASt3R", "Fast3R"), "Fast3R"),
        (("catmlp+dpt", "linear"), "head_type"),
        (("two_confs=True", "two_confs=False"), "two_confs"),
        (("('exp', 0, inf)", "('exp', 0, 5)"), "desc_conf_mode"),
        (("dec_depth=2", "dec_depth=2, wings=3"), "wings"),
        (("dec_depth=2", "dec_depth=__import__('os').getpid()"), "refused"),
        (("dec_depth=2", "clip_head_type='linear'"), "clip_head_type"),
    ],
)
def test_a_layout_that_is_not_built_is_refused_by_name(change, problem, tmp_path):
    state = zoo.export_official(zoo.build("mast3r-vitl16", size="debug"))
    file = naver(state, CONSTRUCTORS["mast3r-vitl16"].replace(*change), tmp_path / "model.pth")
    with pytest.raises(UserError, match=problem) as caught:
        zoo.convert(file, arch="mast3r-vitl16", out=tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


def test_what_a_constructor_says():
    said = model_fields(
        Call(
            "AsymmetricMASt3R",
            (),
            {
                "head_type": "catmlp+dpt",
                "output_mode": "pts3d+desc24",
                "two_confs": True,
                "img_size": (512, 384),
                "patch_size": 16,
                "mlp_ratio": 4,
            },
        )
    )
    assert said == {
        "head": "dpt",
        "descriptor_dim": 24,
        "descriptor_floor": 1.0,  # without words of its own it is as the points'
        "image_size": 512,
        "patch_size": 16,
    }
    modes = {"depth_mode": ("exp", -math.inf, math.inf), "conf_mode": ("exp", 1.0, math.inf)}
    assert model_fields(Call("AsymmetricCroCo3DStereo", (), modes)) == {"head": "linear"}


def test_a_hugging_face_directory_says_it_in_its_configuration(tmp_path):
    model = zoo.build("mast3r-vitl16", size="debug", seed=1)
    folder = tmp_path / "hub"
    folder.mkdir()
    state = {k: t.detach() for k, t in zoo.export_official(model).items() if ".layer_rn." not in k}
    save_file(state, folder / "model.safetensors")
    config = {
        "head_type": "catmlp+dpt",
        "output_mode": "pts3d+desc24",
        "two_confs": True,
        "img_size": [64, 64],
        "depth_mode": ["exp", -math.inf, math.inf],
        "conf_mode": ["exp", 1, math.inf],
        "desc_conf_mode": ["exp", 0, "inf"],
        "enc_embed_dim": 8,
        "enc_depth": 2,
        "enc_num_heads": 2,
        "dec_embed_dim": 8,
        "dec_depth": 2,
        "dec_num_heads": 2,
        "pos_embed": "RoPE100",
    }
    (folder / "config.json").write_text(json.dumps(config))
    loaded = mv.load(zoo.convert(folder, arch="mast3r-vitl16", out=tmp_path / "m"))
    assert same(model, loaded)
    assert loaded.config == model.config


def test_croco_comes_in_with_its_own_words_and_lends_its_encoder(tmp_path):
    model = zoo.build("croco-v2-vitl16", size="debug", seed=1)
    state = zoo.export_official(model)
    assert {"prediction_head.weight", "mask_token", "dec_blocks.1.cross_attn.projv.bias"} <= set(state)
    assert not any(key.startswith("dec_blocks2") for key in state)
    words = {"enc_embed_dim": 8, "enc_num_heads": 2, "dec_embed_dim": 8, "dec_num_heads": 2, "pos_embed": "RoPE50"}
    torch.save({"model": state, "croco_kwargs": words}, tmp_path / "croco.pth")
    loaded = mv.load(zoo.convert(tmp_path / "croco.pth", arch="croco-v2-vitl16", out=tmp_path / "m"))
    assert same(model, loaded)
    assert (loaded.config.encoder.heads, loaded.config.decoder_heads, loaded.config.encoder.rope_base) == (2, 2, 50.0)
    student = zoo.build("dust3r-vitl16-512-dpt", size="debug", encoder=tmp_path / "m")
    assert same(student.encoder, loaded.encoder)
    del state["mask_token"]
    torch.save({"model": state}, tmp_path / "croco.pth")
    with pytest.raises(UserError, match="mask_token"):
        zoo.convert(tmp_path / "croco.pth", arch="croco-v2-vitl16", out=tmp_path / "m", **SILENT)


@pytest.fixture
def wrapper(tmp_path) -> dict:
    """MASt3R on DUNE as published: no encoder, and one of MASt3R's own that nothing uses."""
    model = zoo.build("dunemast3r-vits14", size="debug", seed=1)
    state = {k: t for k, t in zoo.export_official(model).items() if not k.startswith("dune_backbone.")}
    state |= {"mast3r.enc_norm.weight": torch.rand(8), "mast3r.patch_embed.proj.bias": torch.rand(8)}
    text = CONSTRUCTORS["mast3r-vitl16"].replace("enc_depth=2", "enc_depth=1").replace("_dim=8", "_dim=8", 1)
    content = {"dune_backbone_name": "dune_vitsmall_14_448_encoder", "mast3r_model_str": text, "model": state}
    torch.save(content, tmp_path / "dunemast3r.pth")
    return {"file": tmp_path / "dunemast3r.pth", "model": model, "state": state}


def test_mast3r_on_dune_takes_its_encoder_from_elsewhere(wrapper, tmp_path):
    name = "dunemast3r-vits14"
    with pytest.raises(UserError, match="encoder=dune-vits14-448"):
        zoo.convert(wrapper["file"], arch=name, out=tmp_path / "m")
    dune = zoo.save_model(zoo.build("dune-vits14-448", size="debug", seed=2), tmp_path / "dune")
    loaded = mv.load(zoo.convert(wrapper["file"], arch=name, out=tmp_path / "m", encoder=dune, heads=2))
    assert same(loaded.encoder, mv.load(dune).encoder)
    assert same(loaded.decoder, wrapper["model"].decoder)
    assert same(loaded.heads, wrapper["model"].heads)
    assert torch.equal(loaded.norm.weight, wrapper["model"].norm.weight)
    assert (loaded.config.encoder.depth, loaded.config.patch_size, loaded.config.decoder_heads) == (2, 14, 2)
    exported = zoo.export_official(loaded)
    assert all(torch.equal(exported[key], tensor) for key, tensor in wrapper["state"].items())
    assert set(exported) - set(wrapper["state"]) == {k for k in exported if k.startswith("dune_backbone.")}
    assert loaded(torch.rand(1, 2, 3, 28, 42))["descriptors"].shape == (1, 2, 28, 42, 2)


def test_another_pair_models_file_is_refused(tmp_path):
    state = zoo.export_official(zoo.build("sab3r-cd", size="debug"))
    torch.save({"module": state}, tmp_path / "base.pt")
    loaded = mv.load(zoo.convert(tmp_path / "base.pt", arch="sab3r-cd", out=tmp_path / "m", **SILENT))
    assert loaded.config.feature_heads == (("clip", 3), ("dino", 3))
    assert loaded.config.descriptor_floor == 1.0
    for other in ("dunemast3r-vitb14", "croco-v2-vitl16"):
        with pytest.raises(UserError, match=f"is not {other}.*looks like sab3r-cd"):
            zoo.convert(tmp_path / "base.pt", arch=other, out=tmp_path / "n")
    plain = {key: tensor for key, tensor in state.items() if "clip_head" not in key and "dino_head" not in key}
    torch.save({"model": plain}, tmp_path / "mast3r.pth")
    for other in ("sab3r-c", "sab3r-cd"):
        with pytest.raises(UserError, match=r"no head for clip.*looks like mast3r-vitl16"):
            zoo.convert(tmp_path / "mast3r.pth", arch=other, out=tmp_path / "n")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ("dust3r/keys_small", "dust3r-vitl16-512-dpt"),
        ("dust3r/keys_vitl512_dpt", "dust3r-vitl16-512-dpt"),
        ("mast3r/keys_small", "mast3r-vitl16"),
        ("mast3r/keys_vitl512_catmlpdpt", "mast3r-vitl16"),
        ("mast3r/keys_dune_backbone_smalldec", "dunemast3r-vitb14"),
    ],
)
def test_official_key_lists_round_trip(keys, name, shared):
    listed = json.loads((shared / "goldens" / "models" / f"{keys}.json").read_text())
    official = {key: torch.zeros(1).expand(shape) for key, shape, _ in listed["keys"]}
    family, preset = lookup(name)
    state = family.keymap.to_ours(official)
    with torch.device("meta"):
        model = family.network(family.configured(preset, family.sizes(state, preset)))
    ours = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert {k: tuple(t.shape) for k, t in state.items() if not k.startswith(CARRIED)} == ours
    back = {key: list(tensor.shape) for key, tensor in family.keymap.to_official(state).items()}
    assert back == {key: shape for key, shape, _ in listed["keys"]}
    # Carried tensors count as the official network's parameters, its computed constants do not.
    spare = [k for k in state if k.startswith(CARRIED) and k.removeprefix(CARRIED) not in listed["computed"]]
    counted = sum(p.numel() for p in model.parameters()) + sum(state[k].numel() for k in spare)
    assert counted == listed["num_parameters"]
