"""Conversion: every container, the file's own words, half precision, missing encoders, other models' files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import manyview as mv
from manyview import UserError, zoo
from manyview.layers.init import init_weights
from manyview.models.family import FAMILIES, lookup
from manyview.zoo import converting
from manyview.zoo.cards import CARDS
from manyview.zoo.converting import recognise
from manyview.zoo.directory import CONFIG, WEIGHTS, fill

NAMES = [name for name in zoo.names() if CARDS.get(name) and CARDS[name].published]


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture
def model() -> nn.Module:
    return zoo.build("dinov2-vits14-reg4", size="debug", seed=1)


def sharded(state: dict, folder: Path) -> Path:
    """A Hugging Face directory of two files and their index."""
    folder.mkdir()
    names = sorted(state)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in halves.items():
        save_file({key: state[key] for key in keys}, folder / file)
    placed = {key: file for file, keys in halves.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


def hub_directory(state: dict, folder: Path) -> Path:
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text('{"encoder_args": {"embed_dim": 8}}')
    return folder


def pickled(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def plain(state: dict, path: Path) -> Path:
    save_file(state, path)
    return path


CONTAINERS = {
    "plain": lambda s, d: pickled(s, d / "m.pth"),
    "model and args": lambda s, d: pickled({"model": s, "args": Namespace(lr=1.0)}, d / "m.pth"),
    "lightning": lambda s, d: pickled({"state_dict": s, "hyper_parameters": {"lr": 1}}, d / "m.ckpt"),
    "ddp": lambda s, d: pickled({f"module.{k}": t for k, t in s.items()}, d / "m.pth"),
    "compiled": lambda s, d: pickled({f"_orig_mod.{k}": t for k, t in s.items()}, d / "m.pth"),
    "deepspeed": lambda s, d: pickled({"module": s, "global_steps": 3, "ds_version": "0.9"}, d / "m.pt"),
    "safetensors": lambda s, d: plain(s, d / "m.safetensors"),
    "hub directory": lambda s, d: hub_directory(s, d / "hub"),
    "hub directory, by file": lambda s, d: hub_directory(s, d / "hub") / "model.safetensors",
    "sharded": lambda s, d: sharded(s, d / "hub"),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_network(container, model, tmp_path):
    path = CONTAINERS[container](zoo.export_official(model), tmp_path)
    loaded = mv.load(zoo.convert(path, "dinov2-vits14-reg4", tmp_path / "out", heads=2))
    assert same(model, loaded)
    assert not loaded.training
    images = torch.rand(1, 3, 28, 42)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode(images).patches, model.eval().encode(images).patches)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_stay_half_on_disk_and_load_as_float32(dtype, model, tmp_path):
    state = {k: t.to(dtype) for k, t in zoo.export_official(model).items()}
    out = zoo.convert(pickled(state, tmp_path / "m.pth"), "dinov2-vits14-reg4", tmp_path / "out", heads=2)
    assert {t.dtype for t in load_file(out / WEIGHTS).values()} == {dtype}
    loaded, half = mv.load(out), mv.load(out, dtype=dtype)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert {p.dtype for p in half.parameters()} == {dtype}
    assert torch.equal(half.pos_embed.float(), loaded.pos_embed)
    assert torch.isfinite(loaded.encode(torch.rand(1, 3, 28, 28)).patches).all()


def test_weights_are_not_copied_when_they_fit(model, tmp_path):
    path = zoo.save_model(model, tmp_path / "m") / WEIGHTS
    with torch.device("meta"):
        empty = zoo.build("dinov2-vits14-reg4", size="debug")
    state = load_file(path)
    fill(empty, state, where="here")
    assert empty.pos_embed.data_ptr() == state["pos_embed"].data_ptr()
    assert not any(tensor.is_meta for tensor in [*empty.parameters(), *empty.buffers()])
    assert all(p.requires_grad for p in empty.parameters())


def test_training_a_loaded_model_leaves_its_file_alone(model, tmp_path):
    out = zoo.save_model(model, tmp_path / "m")
    before = (out / WEIGHTS).read_bytes()
    loaded = mv.load(out)
    with torch.no_grad():
        for weight in loaded.parameters():
            weight.add_(1.0)
    assert (out / WEIGHTS).read_bytes() == before
    assert same(model, mv.load(out))
    zoo.save_model(loaded, out)  # over the file it is mapped from
    assert torch.equal(mv.load(out).pos_embed, model.pos_embed + 1)


class Computed(nn.Module):
    """A persistent buffer that is computed, one that is stored, one that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.register_buffer("periods", torch.empty(3))
        self.register_buffer("passing", torch.empty(2), persistent=False)
        init_weights(self)

    def init_buffers(self) -> None:
        self.periods.copy_(torch.arange(3.0))
        self.passing.fill_(7.0)


@pytest.mark.parametrize("stored", [torch.full((3,), 9.0), torch.full((3,), 9.0, dtype=torch.bfloat16), None])
def test_computed_buffers_are_computed_whatever_the_file_says(stored):
    state = Computed().state_dict()
    state.pop("periods")
    if stored is not None:
        state["periods"] = stored
    with torch.device("meta"):
        empty = Computed()
    fill(empty, state, where="here")
    assert empty.periods.tolist() == [0.0, 1.0, 2.0]
    assert empty.passing.tolist() == [7.0, 7.0]
    assert torch.equal(empty.inner.weight, state["inner.weight"])


def test_what_may_be_missing_is_zero_and_what_may_not_is_named():
    state = Computed().state_dict()
    state.pop("inner.bias")
    with torch.device("meta"):
        empty = Computed()
    with pytest.raises(UserError, match=r"here: 1 weights are missing, first \['inner.bias'\]"):
        fill(empty, state, where="here")
    fill(empty, state, where="here", may_miss=("inner.bias",))
    assert empty.inner.bias.tolist() == [0.0, 0.0]
    assert isinstance(empty.inner.bias, nn.Parameter)


def test_parts_we_do_not_build_are_carried_through(tmp_path):
    model = zoo.build("multihmr-vitl14-672", size="debug", seed=2)
    state = {**zoo.export_official(model), "mlp_classif.0.bias": torch.arange(3, dtype=torch.float16)}
    nested = {k.replace("encoder.blocks.", "encoder.blocks.0."): t for k, t in state.items()}
    for name, content in (("published", state), ("nested", nested)):
        file = {"model_state_dict": content, "args": Namespace(backbone="dinov2_vitl14")}
        out = zoo.convert(pickled(file, tmp_path / f"{name}.pt"), "multihmr-vitl14-672", tmp_path / name, heads=2)
        with safe_open(out / WEIGHTS, "pt") as stored:
            assert "carried.mlp_classif.0.bias" in stored.keys()  # noqa: SIM118
        loaded = mv.load(out)
        assert same(model, loaded)
        assert loaded.carried["mlp_classif.0.bias"].dtype == torch.float16
        again = zoo.export_official(mv.load(zoo.save_model(loaded, tmp_path / "again", half=True)))
        assert again.keys() == state.keys()
        assert torch.equal(again["mlp_classif.0.bias"], state["mlp_classif.0.bias"])


def test_a_files_own_words_come_before_shapes_and_overrides_after(model, tmp_path, monkeypatch):
    family = FAMILIES.get("dinov2")
    heard = []

    def says(about, preset):
        heard.append(about)
        return {"heads": 1, "image_size": 98, "dim": 999}

    monkeypatch.setitem(FAMILIES._entries, "dinov2", replace(family, says=says))
    path = pickled({"model": zoo.export_official(model), "args": Namespace(size=98)}, tmp_path / "m.pth")
    config = mv.load(zoo.convert(path, "dinov2-vits14-reg4", tmp_path / "a", image_size=70, heads=2)).config
    assert heard[0]["args"].size == 98
    assert (config.dim, config.heads, config.image_size) == (model.config.dim, 2, 70)
    assert mv.load(zoo.convert(path, "dinov2-vits14-reg4", tmp_path / "b", heads=2)).config.image_size == 98


@pytest.mark.parametrize("name", NAMES)
def test_every_published_layout_is_recognised(name):
    weights = zoo.export_official(zoo.build(name, size="debug"))
    found = recognise(weights)
    assert found is not None
    assert lookup(found)[0] is lookup(name)[0]  # the size is another one, the family is not
    if (prefixes := lookup(name)[0].prefixes) and name != found:
        assert recognise({f"{prefixes[0]}{k}": t for k, t in weights.items()}) is not None


def test_full_size_shapes_tell_which_size_it_is():
    with torch.device("meta"):
        for name in ("dinov2-vitl14", "dinov2-vitb14-reg4", "dune-vitb14-336", "multihmr-vitl14-672"):
            assert recognise(zoo.export_official(zoo.build(name))) == name


def test_what_is_no_model_of_ours_is_not_recognised():
    assert recognise({"layer1.0.conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}) is None


def test_another_models_file_says_which_it_looks_like(model, tmp_path):
    path = pickled(zoo.export_official(model), tmp_path / "m.pth")
    with pytest.raises(UserError, match=r"is not distill3r: .*looks like dinov2-\S+, convert it with --arch"):
        zoo.convert(path, "distill3r", tmp_path / "out")
    with pytest.raises(UserError) as caught:
        zoo.convert(pickled({"fc.weight": torch.zeros(1)}, tmp_path / "x.pth"), "distill3r", tmp_path / "out")
    assert "looks like" not in str(caught.value)
    assert "fc.weight" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_encoder_comes_from_a_name_a_directory_or_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEW_HOME", str(tmp_path / "home"))
    dune = zoo.build("dune-vits14-448", size="debug", seed=5)
    student = zoo.build("distill3r", size="debug", seed=6)
    state = {k: t for k, t in zoo.export_official(student).items() if not k.startswith("encoder.")}
    path = pickled(state, tmp_path / "headless.pth")
    options = {"taps": (0, 1, 2, 2), "heads": 2, "decoder_heads": 2}
    with pytest.raises(UserError, match=r"has no encoder; give one with encoder=NAME\|DIR\|FILE"):
        zoo.convert(path, "distill3r", tmp_path / "x", **options)
    sources = [
        zoo.save_model(dune, zoo.models_folder() / "dune-vits14-448", CARDS["dune-vits14-448"]),
        "dune-vits14-448",
        pickled({"model": zoo.export_official(dune)}, tmp_path / "dune_vitsmall14_448.pth"),
    ]
    for number, source in enumerate(sources):
        out = zoo.convert(path, "distill3r", tmp_path / str(number), encoder=source, **options)
        loaded = mv.load(out)
        assert same(loaded.encoder, dune.encoder)
        assert same(loaded.fusion, student.fusion)
        assert [e["name"] for e in zoo.licences_of(loaded)] == ["distill3r", "dune-vits14-448"]
    unknown = pickled({"fc.weight": torch.zeros(1)}, tmp_path / "unknown.pth")
    with pytest.raises(UserError, match="none of the models we know"):
        zoo.convert(path, "distill3r", tmp_path / "y", encoder=unknown, **options)


def test_a_file_with_the_published_name_must_be_the_published_file(model, tmp_path, monkeypatch):
    path = pickled(zoo.export_official(model), tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    name = "dinov2-vits14-reg4"
    wrong = {**CARDS, name: replace(CARDS[name], sha256="0" * 64)}
    monkeypatch.setattr(converting, "CARDS", wrong)
    with pytest.raises(UserError, match=r"not the published .*000000000000…; download it again, or rename"):
        zoo.convert(path, name, tmp_path / "out", heads=2)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(converting, "CARDS", {**CARDS, name: replace(CARDS[name], sha256=sha)})
    assert zoo.convert(path, name, tmp_path / "out", heads=2).is_dir()


def test_a_model_directory_is_not_converted_again(model, tmp_path):
    out = zoo.save_model(model, tmp_path / "m")
    for path in (out, out / WEIGHTS):
        with pytest.raises(UserError, match="is a model directory already"):
            zoo.convert(path, "dinov2-vits14-reg4", tmp_path / "again")


def test_a_converted_file_loads_by_itself(model, tmp_path):
    out = zoo.save_model(model, tmp_path / "m")
    assert same(model, mv.load(out / WEIGHTS))
    with pytest.raises(UserError, match="no model directory"):
        mv.load(out / CONFIG)


def test_building_without_weights_imports_no_compiler():
    code = (
        "import sys\n"
        "from manyview.zoo.directory import unfilled\n"
        "from manyview.models.family import lookup, presets\n"
        "for name in presets():\n"
        "    family, config = lookup(name)\n"
        "    model = unfilled(family, family.debug(config))\n"
        "    assert all(p.is_meta for p in model.parameters()), name\n"
        "assert 'sympy' not in sys.modules and 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
