"""`manyview train` from end to end with the toy recipe: new runs, resumed runs, refusals, what it prints."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from toy import Toy, ToyConfig

from manyview import zoo
from manyview.cli.main import main
from manyview.recipes.base import RECIPES

INITIAL = Toy(ToyConfig()).student


@pytest.fixture(autouse=True)
def toy_recipe(monkeypatch):
    """Registered for the test only; as its student is not of the zoo, saving and loading are stood in for."""

    def save(model, out, derived_from=()):
        out.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), out / "weights.pt")
        return out

    def load(name):
        student = Toy(ToyConfig(width=8 if name == "narrow" else 16)).student
        for parameter in student.parameters():
            torch.nn.init.constant_(parameter, 0.125)
        return student

    monkeypatch.setattr("manyview.engine.track._board", lambda run_dir, step: None)
    monkeypatch.setattr(zoo, "save_model", save)
    monkeypatch.setattr(zoo, "load", load)
    monkeypatch.setitem(RECIPES._entries, "toy", Toy)


def command(*words: object, code: int = 0) -> None:
    assert main(["train", *map(str, words), "--device", "cpu"]) == code


def student(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "model/weights.pt")


def test_trains_writes_the_model_and_says_what_is_next(tmp_path, capsys):
    out = tmp_path / "run"
    command("toy", "--set", "run.lr=2e-3", "method.width=16", "--set", "run.seed=3", "--steps", 14, "-o", out)
    said = capsys.readouterr().out
    assert "trained 14 steps" in said
    assert f"wrote {out / 'model'}" in said
    assert f"manyview reconstruct IMAGES --model {out / 'model'}" in said
    config = json.loads((out / "config.json").read_text())
    assert (config["recipe"], config["preset"]) == ("toy", "small")
    assert (config["run"]["lr"], config["run"]["seed"], config["run"]["steps"]) == (2e-3, 3, 14)
    assert config["method"]["width"] == 16
    assert config["version"]
    trained = student(out)
    assert any(not torch.equal(trained[name], value) for name, value in INITIAL.state_dict().items())


def test_the_last_loss_is_the_log_s(tmp_path, capsys, caplog):
    caplog.set_level("INFO", logger="manyview")
    command("toy", "--steps", 14, "--set", "run.log_every=5", "-o", tmp_path / "run")
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 14
    assert f"last loss {last['loss']:.4g}\n" in capsys.readouterr().out
    assert f"step 14/14  loss {last['loss']:.4g}  " in caplog.text


def test_a_resumed_run_with_other_steps_says_so(tmp_path, caplog):
    command("toy", "--steps", 6, "-o", tmp_path / "run")
    caplog.clear()
    command("toy", "--resume", "--steps", 9, "-o", tmp_path / "run")
    assert "resumed at step 6: 9 steps instead of 6; from here on the learning rate follows" in caplog.text


def test_resume_reads_its_options_from_the_run(tmp_path, capsys):
    options = ("--set", "run.lr=2e-3", "run.precision=fp32")
    command("toy", *options, "-o", tmp_path / "whole")
    command("toy", *options, "--steps", 60, "-o", tmp_path / "cut")
    for path in (tmp_path / "cut/checkpoints").iterdir():
        if path.name == "00000060":
            (path / "meta.json").unlink()  # as if the last interval had been lost
    command("toy", "--resume", "-o", tmp_path / "cut", "--json")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["steps"], report["stopped"]) == (60, False)
    assert report["model"] == str(tmp_path / "cut/model")
    whole, cut = student(tmp_path / "whole"), student(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["toy", "--set", "run.lr=1"], "--set cannot be given with --resume"),
        (["toy", "--preset", "debug"], "--preset cannot be given with --resume"),
        (["distill3r"], "is a run of recipe 'toy', not 'distill3r'"),
        (["toy", "--steps", "10"], "already at step 14, past the 10 asked for"),
    ],
)
def test_resume_keeps_the_options(tmp_path, capsys, words, message):
    command("toy", "--steps", 14, "-o", tmp_path / "run")
    command(*words, "--resume", "-o", tmp_path / "run", code=2)
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tyo"], "no recipe 'tyo'; did you mean 'toy'?"),
        (["toy", "--preset", "smal"], "no preset 'smal'; did you mean 'small'?"),
        (["toy", "--set", "run.lrr=1"], "unknown option 'run.lrr'; did you mean 'lr'?"),
        (["toy", "--set", "method.width=wide"], "'method.width' is 'wide'; it must be of type int"),
        (["toy", "--steps", "2"], "run.warmup is 5 steps but the run has only 2"),
        (["toy", "--init", "narrow"], "--init narrow does not fit: 3 differ in shape"),
        (["toy", "--resume"], "holds no run to resume"),
        ([], "which recipe?"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys, words, message):
    command(*words, "-o", tmp_path / "run", code=2)
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_seed_covers_the_initialisation(tmp_path, monkeypatch):
    def build(config):
        toy = Toy(config)
        torch.nn.init.normal_(toy.student[0].weight)
        return toy

    monkeypatch.setattr(Toy, "build", build)
    still = ("--set", "run.lr=1e-12", "run.weight_decay=0", "--steps", 6)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(time.time_ns() % 2**32)
        command("toy", *still, f"--set=run.seed={seed}", "-o", tmp_path / name)
    a, b, c = (student(tmp_path / name)["0.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("here first")
    for out in (tmp_path / "file", tmp_path / "file/run"):
        command("toy", "-o", out, code=2)
        assert "-o" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "here first"


def test_an_unavailable_device_is_named(tmp_path, capsys):
    assert main(["train", "toy", "-o", str(tmp_path / "run"), "--device", "cuda:63"]) == 2
    assert "cuda:63" in capsys.readouterr().err


def test_init_is_where_training_starts(tmp_path):
    command("toy", "--init", "some-model", "--set", "run.lr=1e-12", "run.weight_decay=0", "-o", tmp_path / "run")
    for value in student(tmp_path / "run").values():
        torch.testing.assert_close(value, torch.full_like(value, 0.125))


def test_interrupted_ends_with_130_and_the_line_that_resumes(tmp_path, capsys, monkeypatch):
    def slow(config, run, *, cache, data):
        def views(index):
            if index == 20:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.1)
            return Toy_batches(config, run, cache=cache, data=data)(index)

        return views

    Toy_batches = Toy.batches
    monkeypatch.setattr(Toy, "batches", staticmethod(slow))
    out = tmp_path / "run"
    command("toy", "-o", out, code=130)
    said = capsys.readouterr().out
    assert f"manyview train toy --resume -o {out}" in said
    assert not (out / "model").exists()
    monkeypatch.setattr(Toy, "batches", staticmethod(Toy_batches))
    command("--resume", "-o", out)
    assert "trained 60 steps" in capsys.readouterr().out
    assert (out / "model").is_dir()


def test_list_names_recipes_and_presets(capsys):
    assert main(["train", "--list"]) == 0
    said = capsys.readouterr().out
    assert "toy: A recipe that trains in milliseconds" in said
    assert "--preset debug" in said
    assert "distill3r: " in said
    assert main(["train", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["toy"]["small"]["run"]["steps"] == 60
