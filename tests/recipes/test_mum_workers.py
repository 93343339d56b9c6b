"""A whole run gives the same weights whoever loads its data, goes on with older runs, and takes mixtures."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

import manyview as mv
from manyview.data.manifest import Manifest
from manyview.engine import track
from manyview.errors import UserError
from manyview.pipelines import train as pipeline
from manyview.recipes.mum import MumRecipe
from painted_walls import write_walls


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[Path]:
    """Two manifests of three scenes each."""
    folder = tmp_path_factory.mktemp("walls")
    frames = write_walls(folder, scenes=[f"w{i}" for i in range(6)])
    halves = [[f for f in frames if (f.scene < "w3") == first] for first in (True, False)]
    return [Manifest(half, folder).save(folder / f"m{i}.parquet") for i, half in enumerate(halves)]


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setattr(track, "_board", lambda run_dir, step: None)  # it takes seconds to import


def run(out: Path, data: list[Path | str], *settings: str, steps: int = 6) -> dict[str, torch.Tensor]:
    settings = (*settings, f"run.steps={steps}", "run.checkpoint_every=3", "method.crop=random")
    pipeline.train("mum", out=out, preset="debug", data=data, settings=settings, device="cpu")
    return mv.load(out / "model").state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_weights_are_the_same_whoever_loads_and_wherever_it_was_cut(tmp_path, data, monkeypatch):
    alone = run(tmp_path / "alone", data)
    step, calls = MumRecipe.step, []

    def dies(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(MumRecipe, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", data, "run.workers=2")
    monkeypatch.setattr(MumRecipe, "step", step)
    pipeline.resume(tmp_path / "cut", device="cpu")
    assert same(mv.load(tmp_path / "cut" / "model").state_dict(), alone)


def test_an_older_run_goes_on_and_says_that_its_batches_change(tmp_path, data, caplog):
    run(tmp_path / "old", data, steps=3)
    path = tmp_path / "old" / "config.json"
    config = json.loads(path.read_text())
    for key in ("order", "rows"):
        del config["batches"][key]
    del config["run"]["workers"]
    path.write_text(json.dumps({**config, "batches": {**config["batches"], "manifests": ["0" * 64]}}))
    with caplog.at_level(logging.WARNING):
        resumed = pipeline.resume(tmp_path / "old", steps=4, device="cpu")
    assert resumed.fit.steps == 4
    assert "another order" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        pipeline.resume(tmp_path / "old", steps=5, device="cpu")
    assert "another order" not in caplog.text


def test_manifests_are_mixed_by_the_weights_behind_them(tmp_path, data):
    weighted = [f"{data[0]}:1", f"{data[1]}:3"]
    run(tmp_path / "run", weighted, steps=3)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert sorted(config["batches"]["datasets"].values()) == [0.25, 0.75]
    assert config["data"] == weighted
    assert pipeline.resume(tmp_path / "run", steps=4, device="cpu").fit.steps == 4
    with pytest.raises(UserError, match=r"none\.parquet does not exist"):
        run(tmp_path / "other", [data[0], f"{tmp_path}/none.parquet:2"])
    with pytest.raises(UserError, match="given twice"):
        run(tmp_path / "other", weighted, "method.weights={walls: 1}")
