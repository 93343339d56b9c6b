"""MaskCLIP's and FeatUp's files: names, counts, layouts of others, leftovers, and files that are something else."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import manyview as mv
from manyview import UserError, zoo

BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture
def clip() -> torch.nn.Module:
    return zoo.build("maskclip-vitb16", size="debug", seed=1)


HEADS = {"heads": 2, "text_heads": 2}  # what shapes do not tell


def clip_names(width: int, text: int) -> dict[str, tuple[int, ...]]:
    """The official names and shapes of ViT-B/16's towers."""
    block = {
        "attn.in_proj_weight": (3, 1),
        "attn.in_proj_bias": (3,),
        "attn.out_proj.weight": (1, 1),
        "attn.out_proj.bias": (1,),
        "mlp.c_fc.weight": (4, 1),
        "mlp.c_fc.bias": (4,),
        "mlp.c_proj.weight": (1, 4),
        "mlp.c_proj.bias": (1,),
        **{f"ln_{i}.{kind}": (1,) for i in (1, 2) for kind in ("weight", "bias")},
    }
    names: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, text),
        "text_projection": (text, 512),
        "logit_scale": (),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (197, width),
        "visual.proj": (width, 512),
        "visual.conv1.weight": (width, 3, 16, 16),
        "token_embedding.weight": (49408, text),
        **{f"visual.ln_{end}.{kind}": (width,) for end in ("pre", "post") for kind in ("weight", "bias")},
        **{f"ln_final.{kind}": (text,) for kind in ("weight", "bias")},
    }
    for tower, dim in (("visual.", width), ("", text)):
        for index in range(12):
            prefix = f"{tower}transformer.resblocks.{index}."
            names |= {prefix + name: tuple(k * dim for k in shape) for name, shape in block.items()}
    return names


def test_clips_official_names_shapes_and_count():
    with torch.device("meta"):
        model = zoo.build("maskclip-vitb16")
    official = {name: tuple(tensor.shape) for name, tensor in zoo.export_official(model).items()}
    assert official == clip_names(768, 512)
    assert sum(p.numel() for p in model.parameters()) == 149_620_737


def test_the_official_layout_comes_in_and_goes_out(clip, tmp_path):
    official = zoo.export_official(clip)
    numbers = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save({**official, **numbers}, tmp_path / "clip.pt")
    loaded = mv.load(zoo.convert(tmp_path / "clip.pt", arch="maskclip-vitb16", out=tmp_path / "m", **HEADS))
    assert same(clip, loaded)
    assert loaded.config.encoder.positions == 4
    again = zoo.export_official(loaded)
    assert again.keys() == official.keys()
    assert all(torch.equal(official[key], again[key]) for key in official)


def as_transformers(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as the transformers library names and cuts them."""
    state = {
        "logit_scale": official["logit_scale"],
        "visual_projection.weight": official["visual.proj"].T.contiguous(),
        "text_projection.weight": official["text_projection"].T.contiguous(),
        "vision_model.embeddings.class_embedding": official["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": official["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": official["visual.positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "text_model.embeddings.token_embedding.weight": official["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": official["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(12)[None],
    }
    for kind in ("weight", "bias"):
        state[f"vision_model.pre_layrnorm.{kind}"] = official[f"visual.ln_pre.{kind}"]
        state[f"vision_model.post_layernorm.{kind}"] = official[f"visual.ln_post.{kind}"]
        state[f"text_model.final_layer_norm.{kind}"] = official[f"ln_final.{kind}"]
        for theirs, ours in (("vision_model", "visual."), ("text_model", "")):
            for index in range(2):
                old, new = f"{ours}transformer.resblocks.{index}", f"{theirs}.encoder.layers.{index}"
                for name, other in BLOCK.items():
                    state[f"{new}.{other}.{kind}"] = official[f"{old}.{name}.{kind}"]
                for name, part in zip("qkv", official[f"{old}.attn.in_proj_{kind}"].chunk(3)):
                    state[f"{new}.self_attn.{name}_proj.{kind}"] = part.contiguous()
    return state


def test_the_transformers_layout_gives_the_same_network(clip, tmp_path):
    state = as_transformers({key: tensor.detach().clone() for key, tensor in zoo.export_official(clip).items()})
    save_file(state, tmp_path / "model.safetensors")
    out = zoo.convert(tmp_path / "model.safetensors", arch="maskclip-vitb16", out=tmp_path / "m", **HEADS)
    assert same(clip, mv.load(out))
    del state["text_model.encoder.layers.1.self_attn.k_proj.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"no weight 'text_model.encoder.layers.1.self_attn.k_proj.weight'"):
        zoo.convert(tmp_path / "model.safetensors", arch="maskclip-vitb16", out=tmp_path / "n")


def test_half_precision_files_become_float32(clip, tmp_path):
    state = {key: tensor.detach().half() for key, tensor in zoo.export_official(clip).items()}
    save_file(state, tmp_path / "clip.safetensors")
    out = zoo.convert(tmp_path / "clip.safetensors", arch="maskclip-vitb16", out=tmp_path / "m", **HEADS)
    loaded = mv.load(out)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.projection, clip.projection, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "normed"), [("featup-jbu-maskclip", False), ("featup-jbu-dinov2", True)])
def test_a_featup_checkpoint_comes_in_without_what_only_training_needed(name, normed, tmp_path):
    model = zoo.build(name, size="debug", seed=2)
    official = zoo.export_official(model)
    norm = {key: tensor for key, tensor in official.items() if key.startswith("norm.")}
    state = {f"upsampler.{key}": tensor for key, tensor in official.items() if key not in norm}
    state |= {f"model.1.{key}": tensor for key, tensor in norm.items()}
    encoder = "model.0.model." if normed else "model.model.visual."
    leftovers = ("downsampler.attention_net.1.weight", "scale_net.net.1.bias", f"{encoder}norm.weight")
    state |= {name: torch.rand(3) for name in leftovers}
    torch.save({"state_dict": state, "epoch": 0, "pytorch-lightning_version": "2"}, tmp_path / "jbu.ckpt")
    loaded = mv.load(zoo.convert(tmp_path / "jbu.ckpt", arch=name, out=tmp_path / "m"))
    assert same(model, loaded)
    assert loaded.config == model.config
    assert loaded.config.channel_norm == bool(norm) == normed
    again = zoo.export_official(loaded)
    assert all(torch.equal(official[key], again[key]) for key in official)


@pytest.mark.parametrize(
    ("name", "entries", "parameters"), [("featup-jbu-maskclip", 42, 287_588), ("featup-jbu-dinov2", 44, 173_540)]
)
def test_featups_official_names_and_count(name, entries, parameters):
    with torch.device("meta"):
        model = zoo.build(name)
    official = zoo.export_official(model)
    stages = {
        f"up{stage}.{part}"
        for stage in (1, 2, 3, 4)
        for part in (
            "range_temp",
            "sigma_spatial",
            *(f"{net}_proj.{i}.{kind}" for net in ("range", "fixup") for i in (0, 3) for kind in ("weight", "bias")),
        )
    }
    rest = {"fixup_proj.1.weight", "fixup_proj.1.bias"}
    assert set(official) - {"norm.weight", "norm.bias"} == stages | rest
    assert len(official) == entries
    assert official["up1.sigma_spatial"].shape == ()
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_another_models_file_is_refused(clip, tmp_path):
    torch.save(dict(zoo.export_official(clip)), tmp_path / "clip.pt")
    jbu = zoo.export_official(zoo.build("featup-jbu-maskclip", size="debug"))
    torch.save({f"upsampler.{key}": tensor for key, tensor in jbu.items()}, tmp_path / "jbu.ckpt")
    for file, arch in (("clip.pt", "featup-jbu-maskclip"), ("jbu.ckpt", "maskclip-vitb16")):
        with pytest.raises(UserError, match=f"is not {arch}"):
            zoo.convert(tmp_path / file, arch=arch, out=tmp_path / "m")
        assert not (tmp_path / "m").exists()
