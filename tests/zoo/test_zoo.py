"""The zoo's verbs: build, save, load, convert, export, and what they say when something does not fit."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import manyview as mv
from manyview import UserError, zoo
from manyview.zoo.directory import CONFIG, WEIGHTS

DEBUG = {"taps": (0, 1, 2, 2), "heads": 2, "decoder_heads": 2}  # what the shapes of a debug model cannot tell


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture
def student() -> torch.nn.Module:
    return zoo.build("distill3r", size="debug", seed=3)


@pytest.fixture
def lightning(student, tmp_path) -> Path:
    """The student as a Lightning checkpoint under the official names, with the leftovers of old ones."""
    state = {f"student.{k}": v for k, v in zoo.export_official(student).items()}
    state["teacher_filter.table"] = torch.zeros(3)
    path = tmp_path / "student.ckpt"
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 1e-4}, "optimizer_states": []}, path)
    return path


@pytest.mark.parametrize("name", zoo.names())
def test_every_name_builds_small(name):
    model = zoo.build(name, size="debug")
    assert sum(p.numel() for p in model.parameters()) < 40_000
    assert model.training


def test_seeds_fix_the_weights_and_leave_the_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (zoo.build("manyview-tiny", size="debug", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    assert not same(first, other)


def test_overrides_reach_the_configuration():
    model = zoo.build("distill3r", size="debug", attention_scale="plain", registers=0, taps=[0, 0, 1, 2])
    assert model.config.attention_scale == "plain"
    assert model.config.taps == (0, 0, 1, 2)
    assert model.encoder.register_tokens is None


def test_an_unknown_override_is_a_type_error_with_a_guess():
    with pytest.raises(TypeError, match="did you mean 'depth'"):
        zoo.build("distill3r", size="debug", dpeth=3)


@pytest.mark.parametrize(
    ("arguments", "message"), [(("distil3r",), "did you mean 'distill3r'"), (("distill3r", "small"), "size")]
)
def test_what_does_not_exist_is_a_users_mistake(arguments, message):
    with pytest.raises(UserError, match=message):
        zoo.build(*arguments)
    with pytest.raises(UserError, match="taps"):
        zoo.build("distill3r", size="debug", taps="all")


def test_a_wrong_value_is_a_users_mistake():
    with pytest.raises(UserError, match="attention_scale"):
        zoo.build("distill3r", size="debug", attention_scale="wide")


def test_save_and_load_give_the_same_network_ready_to_use(student, tmp_path):
    out = zoo.save_model(student, tmp_path / "m", {"note": "mine"})
    loaded = mv.load(out)
    assert same(student, loaded)
    assert loaded.config == student.config
    assert not loaded.training
    images = torch.rand(1, 2, 3, 28, 42)
    torch.testing.assert_close(loaded(images)["pointmap"], student.eval()(images)["pointmap"])
    assert json.loads((out / CONFIG).read_text())["card"] == loaded.card == {"note": "mine"}
    assert sorted(p.name for p in out.iterdir()) == [".manyview.json", "README.md", CONFIG, WEIGHTS]
    zoo.save_model(student, out)  # again, over itself
    assert same(student, mv.load(out))


def test_half_storage_halves_the_file_and_reads_back_as_float32(student, tmp_path):
    full, half = (zoo.save_model(student, tmp_path / str(h), half=h) for h in (False, True))
    assert (half / WEIGHTS).stat().st_size < 0.75 * (full / WEIGHTS).stat().st_size
    loaded = mv.load(half)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.encoder.pos_embed, student.encoder.pos_embed, atol=1e-4, rtol=1e-3)
    assert mv.load(half, dtype=torch.float64).encoder.pos_embed.dtype == torch.float64


def test_a_lightning_checkpoint_comes_in_and_goes_out_under_its_names(student, lightning, tmp_path):
    out = zoo.convert(lightning, arch="distill3r", out=tmp_path / "m", **DEBUG)
    loaded = mv.load(out)
    assert same(student, loaded)
    expected = zoo.build("distill3r", size="debug", image_size=518).config
    words = {key: getattr(expected, key) for key in ("feature_hidden", "feature_inner", "feature_finer")}
    assert replace(loaded.config, **words) == expected  # without feature heads no shape tells these
    official = zoo.export_official(loaded)
    stored = torch.load(lightning, weights_only=True)["state_dict"]
    assert {f"student.{k}" for k in official} == set(stored) - {"teacher_filter.table"}
    assert all(torch.equal(stored[f"student.{k}"], v) for k, v in official.items())


@pytest.mark.parametrize("registers", [0, 4])
def test_a_dune_file_comes_in_whatever_its_registers_and_prefixes(registers, tmp_path):
    model = zoo.build("dune-vitb14-448-paper", size="debug", registers=registers)
    state = {f"module._orig_mod.{k}": v for k, v in zoo.export_official(model).items()}
    path = tmp_path / "dune.pth"
    torch.save({"model": state, "args": Namespace(image_size=448, teachers=["a"]), "iter": 7}, path)
    loaded = mv.load(zoo.convert(path, arch="dune-vitb14-448-paper", out=tmp_path / "m", heads=2))
    assert same(model, loaded)
    assert loaded.config.encoder.registers == registers


def test_a_new_student_can_start_from_an_encoder(tmp_path):
    encoder = zoo.save_model(zoo.build("dune-vits14-448", size="debug", seed=5), tmp_path / "dune")
    student = zoo.build("distill3r", size="debug", encoder=encoder)
    assert same(student.encoder, mv.load(encoder).encoder)
    with pytest.raises(UserError, match="another shape"):
        zoo.build("distill3r", size="debug", dim=16, encoder=encoder)


def test_aliases_may_be_missing_but_not_differ(student, tmp_path):
    official = zoo.export_official(student)
    alias = "downstream_head.dpt.scratch.layer_rn.0.weight"
    assert alias in official
    lean = {k: v for k, v in official.items() if "layer_rn" not in k}
    torch.save(lean, tmp_path / "lean.pth")
    assert same(student, mv.load(zoo.convert(tmp_path / "lean.pth", "distill3r", tmp_path / "a", **DEBUG)))
    torch.save({**official, alias: official[alias] + 1}, tmp_path / "torn.pth")
    with pytest.raises(UserError, match="damaged"):
        zoo.convert(tmp_path / "torn.pth", "distill3r", tmp_path / "b", **DEBUG)


def test_weights_that_nothing_explains_are_named(student, tmp_path):
    official = zoo.export_official(student)
    for change, message in (
        ({**official, "decoder.surprise": torch.zeros(1)}, "decoder.surprise"),
        ({k: v for k, v in official.items() if k != "decoder.dec_norm.bias"}, "fusion.norm.bias"),
    ):
        torch.save(change, tmp_path / "x.pth")
        with pytest.raises(UserError, match=message):
            zoo.convert(tmp_path / "x.pth", "distill3r", tmp_path / "m", **DEBUG)
    assert not (tmp_path / "m").exists()


def test_another_architectures_file_is_refused(lightning, tmp_path):
    with pytest.raises(UserError, match="is not dune-vits14-336"):
        zoo.convert(lightning, arch="dune-vits14-336", out=tmp_path / "m")


def test_an_override_that_the_weights_contradict_is_refused(lightning, tmp_path):
    with pytest.raises(UserError, match="the configuration says"):
        zoo.convert(lightning, arch="distill3r", out=tmp_path / "m", **{**DEBUG, "head_dim": 8})


@pytest.mark.parametrize("name", ["distill3r", "dune-vitb14-448"])
def test_weights_that_are_not_here_say_how_to_place_them(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEW_HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"manyview convert FILE --arch {name}"):
        mv.load(name)
    zoo.save_model(zoo.build(name, size="debug"), zoo.models_folder() / name)
    assert not mv.load(name).training


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / CONFIG).unlink(), "no model directory"),
        (lambda d: (d / WEIGHTS).unlink(), f"no {WEIGHTS}"),
        (lambda d: (d / CONFIG).write_text("{"), "is missing or damaged"),
        (lambda d: (d / CONFIG).write_text('{"model_type": "vit"}'), "not written by manyview"),
        (lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-100]), "damaged"),
        (lambda d: edit(d, lambda c: c.update(architecture="pear")), "unknown architecture"),
        (lambda d: edit(d, lambda c: c["config"].update(wings=2)), "wings"),
        (lambda d: edit(d, lambda c: c["config"].update(depth=3)), "are missing"),
        (lambda d: edit(d, lambda c: c["config"].update(depth=1)), "not part of this architecture"),
    ],
)
def test_a_damaged_model_directory_is_one_clear_line(student, tmp_path, damage, message):
    out = zoo.save_model(student, tmp_path / "m")
    damage(out)
    with pytest.raises(UserError, match=message) as caught:
        mv.load(out)
    assert "\n" not in str(caught.value)


def edit(directory: Path, change) -> None:
    path = directory / CONFIG
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("path", ["./nothing/here", "/nowhere/model"])
def test_a_path_that_is_none_is_not_taken_for_a_name(path):
    with pytest.raises(UserError, match="no model directory"):
        mv.load(path)


def test_a_folder_that_cannot_be_written_is_a_users_mistake(student, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        zoo.save_model(student, tmp_path / "file" / "m")


def test_a_model_beside_another_stores_only_what_is_its_own(tmp_path):
    """The weights it shares are read from there; other weights, or none, are said in one line."""
    base = zoo.build("manyview-small", size="debug", seed=0)
    zoo.save_model(base, tmp_path / "base", half=True)
    model = zoo.build("manyview-small-words", size="debug", seed=1)
    model.load_state_dict(zoo.load(tmp_path / "base").state_dict(), strict=False)
    out = zoo.save_model(model, tmp_path / "more", half=True, beside="base")
    names = set(load_file(out / "model.safetensors"))
    assert names == {name for name in model.state_dict() if name.startswith("feature_heads.")}
    again = zoo.load(out).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in zoo.load(tmp_path / "base").state_dict().items())
    zoo.save_model(zoo.build("manyview-small", size="debug", seed=2), tmp_path / "base")
    with pytest.raises(UserError, match="no longer what the model beside it was made on"):
        zoo.load(out)
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="which lends its weights, is missing"):
        zoo.load(out)
    config = json.loads((out / "config.json").read_text())
    for name in ("..", "../base", ""):
        (out / "config.json").write_text(json.dumps({**config, "base": {**config["base"], "name": name}}))
        with pytest.raises(UserError, match="is missing"):
            zoo.load(out)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_noticed_and_large_ones_are_none(student, tmp_path, value):
    with torch.no_grad():
        name, weight = next(iter(student.named_parameters()))
        kept, weight.data = weight.data, torch.full_like(weight, 3e38)  # their sum overflows, they do not
    zoo.save_model(student, tmp_path / "large")
    mv.load(tmp_path / "large")
    weight.data = kept.clone()
    weight.data.view(-1)[0] = value
    zoo.save_model(student, tmp_path / "bad")
    with pytest.raises(UserError, match=f"1 weights hold NaN or infinite values, first {name}: "):
        mv.load(tmp_path / "bad")
    weight.data = kept


def test_weights_that_half_a_float_cannot_hold_are_not_saved_as_such(student, tmp_path):
    zoo.save_model(student, tmp_path / "m", half=True)
    before = (tmp_path / "m/model.safetensors").read_bytes()
    name, weight = next(iter(student.named_parameters()))
    kept = weight.data.clone()
    weight.data.view(-1)[0] = 1e6
    with pytest.raises(UserError, match=f"1 weights are too large for float16, first {name}"):
        zoo.save_model(student, tmp_path / "m", half=True)
    assert (tmp_path / "m/model.safetensors").read_bytes() == before
    zoo.save_model(student, tmp_path / "m")
    weight.data = kept
