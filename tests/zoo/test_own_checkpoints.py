"""Checkpoints of one's own training: which weights are taken, and what is said of it."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
import pytest
import torch

import manyview as mv
from manyview import zoo
from manyview.cli.main import main
from manyview.errors import UserError
from manyview.zoo.directory import read_config
from manyview.zoo.reading import read_checkpoint

ARCH = "dinov2-vits14"


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return {key: tensor.clone() for key, tensor in zoo.export_official(zoo.build(ARCH, size="debug")).items()}


def under(prefix, weights):
    return {prefix + key: tensor for key, tensor in weights.items()}


def inside_blocks(wrapper, weights):
    return {re.sub(r"^(blocks\.\d+)\.", rf"\1.{wrapper}.", key): tensor for key, tensor in weights.items()}


CONTAINERS = {
    "teacher": lambda w: {"student": under("backbone.", other(w)), "teacher": under("backbone.", w)},
    "ema": lambda w: {"model_ema": w, "epoch": 3},
    "lightning": lambda w: {"state_dict": {**under("model.backbone.", w), "model.loss.centre": torch.ones(3)}},
    "ddp": lambda w: {"model": under("module.backbone.", w)},
    "compiled": lambda w: inside_blocks("_orig_mod", w),
    "checkpointed": lambda w: inside_blocks("_checkpoint_wrapped_module", w),
    "fsdp": lambda w: under("_fsdp_wrapped_module.", inside_blocks("_fsdp_wrapped_module", w)),
    "chunks": lambda w: chunks(w),
    "head": lambda w: {**w, "head.weight": torch.zeros(5, 8), "head.bias": torch.zeros(5)},
    "dinov2's own": lambda w: {"teacher": {**under("backbone.", chunks(w)), "dino_head.a.weight": torch.ones(2)}},
    "prefixes of two": lambda w: {**under("student.backbone.", other(w)), **under("teacher.backbone.", w)},
    "lightning of two": lambda w: {"state_dict": {**under("student.", other(w)), **under("teacher.", w)}},
    "swa": lambda w: {"n_averaged": torch.tensor(3), **under("module.", w)},
    "ema state": lambda w: {"params": other(w), "params_ema": w},
    "three deep": lambda w: {"state": {"model": {"state_dict": under("module._orig_mod.", w)}}},
    "target": lambda w: {"encoder": under("module.", other(w)), "target_encoder": under("module.", w)},
    "nested fsdp": lambda w: under("_fsdp_wrapped_module.model._fsdp_wrapped_module.", w),
    "both wrappers": lambda w: inside_blocks("_checkpoint_wrapped_module._orig_mod", w),
    "parameters": lambda w: {key: torch.nn.Parameter(tensor) for key, tensor in w.items()},
    "optimizer": lambda w: {"model": w, "optimizer": defaultdict(dict, a={"lr": 1})},
    "rng": lambda w: {"model": w, "rng": np.random.RandomState(0).get_state()},
}


def chunks(weights):
    return {re.sub(r"^blocks\.", "blocks.0.", key): tensor for key, tensor in weights.items()}


def other(weights):
    return {key: tensor + 1 for key, tensor in weights.items()}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers_of_training_are_taken(weights, kind, tmp_path):
    torch.save(CONTAINERS[kind](weights), tmp_path / "w.pth")
    model = mv.load(zoo.convert(tmp_path / "w.pth", ARCH, tmp_path / "m"))
    kept = zoo.export_official(model)
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[key], weights[key]) for key in weights)


def test_what_was_guessed_is_said_and_may_be_chosen(weights, tmp_path, capsys):
    torch.save(CONTAINERS["teacher"](weights), tmp_path / "w.pth")
    words = ["convert", str(tmp_path / "w.pth"), "--arch", ARCH, "-o"]
    assert main([*words, str(tmp_path / "a")]) == 0
    said = capsys.readouterr().err
    assert "took the part 'teacher' of the file, beside 'student' (--part names another one)" in said
    assert "its sizes are not those of dinov2-vits14: dim 8, not 384" in said
    assert "took the prefix 'backbone.'" in said
    assert read_config(tmp_path / "a")["card"]["origin"]["part"] == "teacher"
    assert main([*words, str(tmp_path / "b"), "--part", "student", "--prefix", "backbone."]) == 0
    assert "took" not in capsys.readouterr().err
    first, second = (zoo.export_official(mv.load(tmp_path / name))["cls_token"] for name in "ab")
    assert torch.equal(second, first + 1)
    for wrong, sentence in (("nobody", "no part 'nobody'"), ("student.deep", "no part 'student.deep'")):
        assert main([*words, str(tmp_path / "c"), "--part", wrong]) == 2
        assert sentence in capsys.readouterr().err
    assert main([*words, str(tmp_path / "c"), "--prefix", "neck."]) == 2
    assert "no weight's name begins with 'neck.'" in capsys.readouterr().err


def test_of_two_parts_the_one_that_fits_is_taken(weights, tmp_path):
    torch.save({"head": {"weight": torch.ones(3)}, "trunk": weights}, tmp_path / "w.pth")
    assert mv.load(zoo.convert(tmp_path / "w.pth", ARCH, tmp_path / "m")).config.dim == weights["cls_token"].shape[-1]


def test_the_layout_of_timm(tmp_path):
    torch.manual_seed(0)
    ours = zoo.build("dinov2-vits14-reg4", size="debug").eval()
    state = {key: tensor.clone() for key, tensor in zoo.export_official(ours).items() if key != "mask_token"}
    state["reg_token"] = state.pop("register_tokens")
    table = state.pop("pos_embed")
    state["cls_token"] = state["cls_token"] + table[:, :1]
    state["pos_embed"] = table[:, 1:]
    torch.save(state, tmp_path / "w.pth")
    model = mv.load(zoo.convert(tmp_path / "w.pth", "dinov2-vits14-reg4", tmp_path / "m"))
    images = torch.rand(1, 3, 28, 28)
    with torch.inference_mode():
        assert torch.allclose(model(images).patches, ours(images).patches, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"<html><body>404</body></html>", "is a web page"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_is_no_weights_is_called_what_it_is(tmp_path, content, sentence, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_checkpoint(tmp_path / name)


def test_a_small_encoder_is_not_converted_as_a_larger_one(tmp_path):
    with torch.device("meta"):
        shapes = zoo.export_official(zoo.build("dinov2-vits14"))
    torch.save({key: torch.zeros(1).expand(tensor.shape) for key, tensor in shapes.items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="by its shapes, dinov2-vits14; convert it with --arch dinov2-vits14"):
        zoo.convert(tmp_path / "w.pth", "dinov2-vitb14", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_parts_that_were_not_taken_are_said(weights, tmp_path, capsys):
    torch.save({"model": weights, "ema": other(weights)}, tmp_path / "w.pth")
    words = ["convert", str(tmp_path / "w.pth"), "--arch", ARCH, "-o"]
    assert main([*words, str(tmp_path / "a")]) == 0
    assert "took the part 'model' of the file, beside 'ema'" in capsys.readouterr().err
    torch.save({**under("backbone.", weights), "head.weight": torch.ones(2)}, tmp_path / "w.pth")
    assert main([*words, str(tmp_path / "b")]) == 0
    assert "; 1 weights without it are left out" in capsys.readouterr().err


REFUSED = {
    "flat": ({"_fsdp_wrapped_module._flat_param": torch.ones(9)}, "FULL_STATE_DICT"),
    "twice": ({"module.cls_token": torch.ones(1), "cls_token": torch.ones(1)}, "two weights are called 'cls_token'"),
    "list": ([{"a": torch.ones(1)}], "holds a list, not weights by name"),
    "empty": ({}, "holds no weights"),
    "nothing": ({"model": None, "epoch": 3}, r"its entries are \['epoch', 'model'\]"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_taken_is_refused_by_what_it_is(kind, tmp_path):
    content, sentence = REFUSED[kind]
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=sentence):
        zoo.convert(tmp_path / "w.pth", ARCH, tmp_path / "m")


def test_quantised_weights_and_adapters_are_refused(weights, tmp_path):
    for content, sentence in (
        ({key: tensor.to(torch.int8) for key, tensor in weights.items()}, "weights are int8 numbers"),
        ({**weights, "blocks.0.attn.qkv.lora_A": torch.ones(2)}, r"first \['blocks.0.attn.qkv.lora_A'\]"),
        ({**weights, "norm.weight": weights["norm.weight"] * torch.nan}, "NaN or infinite values, first norm.weight"),
    ):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(UserError, match=sentence):
            zoo.convert(tmp_path / "w.pth", ARCH, tmp_path / "m")
        assert not (tmp_path / "m").exists()
