"""Every number of a paper's preset is the one of a table with its source, on the ranks of the paper and on others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import manyview
from manyview import zoo
from manyview.config import RunConfig, read_assignments, to_dict
from manyview.data.manifest import Frame, Manifest
from manyview.engine.schedule import sized, warmup_steps
from manyview.errors import UserError
from manyview.pipelines.train import _plainly
from manyview.recipes.base import RECIPES, preset

TABLE = json.loads((Path(__file__).parents[1] / "data/paper_presets.json").read_text())
CASES = [(recipe, name) for recipe, presets in TABLE.items() for name in presets]
COMPLETE = ("mum", "dune")
HOW_IT_RUNS = {
    *("run.steps", "run.seconds", "run.precision", "run.compile", "run.shard", "run.seed", "run.checkpoint_every"),
    *("run.log_every", "run.judge_every", "run.workers", "run.keep", "method.size", "method.memory_mb", "method.split"),
    *("method.checkpointing", "method.compile", "method.domains", "method.crops", "method.keep", "method.shuffle"),
}
"""What no paper says, or says as budget: these change speed and safety, or data and answers that a user brings."""


def published(recipe: str, name: str) -> dict[str, Any]:
    """What the table says of a preset, with all that it has in common with the one that it is `like`."""
    own = dict(TABLE[recipe][name])
    return {**published(recipe, own.pop("like")), **own} if "like" in own else own


def network_of(recipe: str, method: Any) -> dict[str, object]:
    """The sizes of the student, as `network.encoder.dim`."""
    changes = method.student if recipe == "mum" else read_assignments(method.encoder, "method.encoder")
    with torch.device("meta"):
        sizes = to_dict(zoo.build(method.model, **changes).config)
    flat = {f"network.encoder.{key}": value for key, value in sizes.pop("encoder").items()}
    return flat | {f"network.{key}": value for key, value in sizes.items()}


def values_of(recipe: str, name: str, ranks: int) -> dict[str, object]:
    kind = RECIPES.get(recipe)
    chosen = preset(kind, name)[1]
    run, _ = sized(chosen.run, kind.images_of(chosen.method, chosen.run), ranks)
    flat: dict[str, object] = {"sized.lr": run.lr, "sized.steps": run.steps, "sized.warmup_steps": warmup_steps(run)}
    for part, values in (("method", to_dict(chosen.method)), ("run", to_dict(chosen.run))):
        flat |= {f"{part}.{key}": value for key, value in values.items()}
    return flat | (network_of(recipe, chosen.method) if recipe in COMPLETE else {})


@pytest.mark.parametrize(("recipe", "name"), CASES)
def test_every_number_is_the_published_one(recipe, name):
    expected = published(recipe, name)
    assert expected.pop("source")
    values = values_of(recipe, name, expected.pop("ranks"))
    for key, value in expected.items():
        assert values[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    if recipe in COMPLETE:
        said = {key for key in values if not key.startswith("network.")}
        assert said - {*expected} - HOW_IT_RUNS == set()


@pytest.mark.parametrize(("recipe", "name"), [("mum", "paper"), ("dune", "paper")])
def test_on_one_gpu_the_rate_falls_and_the_budget_stays(recipe, name):
    ranks = TABLE[recipe][name]["ranks"]
    on_all, alone = values_of(recipe, name, ranks), values_of(recipe, name, 1)
    assert alone["sized.lr"] == pytest.approx(on_all["sized.lr"] / ranks)
    assert alone["sized.steps"] == pytest.approx(on_all["sized.steps"] * ranks, rel=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A manifest of one scene of 24 pictures, and debug networks where the published teachers would be."""
    folder = tmp_path_factory.mktemp("paper")
    frames = []
    for place in range(24):
        Image.new("RGB", (48, 40), (10 * place, 90, 120)).save(folder / f"{place}.png")
        frames.append(Frame("imagenet", "s", str(place), "train", f"{place}.png", 48, 40))
    Manifest(frames, folder).save(folder / "m.parquet")
    for seed, name in enumerate(("dinov2", "mast3r", "multihmr")):
        zoo.save_model(zoo.build("dinov2-vits14", size="debug", seed=seed, cls_token=name == "dinov2"), folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("recipe", ["mum", "dune"])
def test_a_run_of_debug_width_says_the_numbers_of_the_table(recipe, ranks, folder, tmp_path):
    """The paper's preset as it starts, on one process and on two; it is stopped after its first step."""
    table = dict(TABLE[recipe]["paper"])
    settings = ["method.size=debug", "run.log_every=1", "run.workers=0"]
    if recipe == "dune":
        named = ", ".join(f"{name}={folder / name}" for name in ("dinov2", "mast3r", "multihmr"))
        settings += [f"method.teachers=[{named}]", "method.image_size=28"]
    else:
        settings += ["method.image_size=32"]
    line = [
        "train",
        recipe,
        "--preset",
        "paper",
        "--data",
        folder / "m.parquet",
        "--device",
        "cpu",
        "-o",
        tmp_path / "r",
    ]
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "-m"] if ranks > 1 else []
    words = [sys.executable, "-m", *launch, "manyview", *line, "--set", *settings]
    path = str(Path(manyview.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    log, metrics = tmp_path / "log", tmp_path / "r" / "metrics.jsonl"
    with log.open("w") as output:
        process = subprocess.Popen([str(word) for word in words], env=environment, stdout=output, stderr=output)
        try:
            begun = time.monotonic()
            while not (metrics.is_file() and metrics.stat().st_size) and process.poll() is None:
                assert time.monotonic() - begun < 500, log.read_text()
                time.sleep(0.2)
        finally:
            process.terminate()
            process.wait(100)
    told, config = log.read_text(), json.loads((tmp_path / "r" / "config.json").read_text())
    a_pass = table["method.frames"] if recipe == "mum" else table["run.batch"]
    images, budget = a_pass * ranks, table["run.images"]
    rate, steps = table["run.lr"] * images / table["run.lr_per"], round(budget / images)
    assert f"learning rate {rate:.3g} = {table['run.lr']:.3g} x {images:,} images a step" in told, told
    assert f"{steps:,} steps = {budget:,} images / {images:,} a step" in told
    assert config["run"]["lr"] == pytest.approx(rate)
    assert config["run"]["steps"] == steps
    first = json.loads(metrics.read_text().splitlines()[0])
    assert first["lr"] == pytest.approx(rate / (config["run"]["warmup"] * steps), rel=1e-3)  # the first of its warm-up
    if recipe == "mum":
        assert first["frames"] <= a_pass


def test_the_parts_are_said_and_accumulation_counts():
    run, told = sized(RunConfig(lr=3e-4, lr_per=256, images=1_281_167, accumulate=2), 128, 4)
    assert run.lr == pytest.approx(1.2e-3)
    assert run.steps == round(1_281_167 / 1024)
    assert (run.lr_per, run.images) == (None, None)
    assert "learning rate 0.0012 = 0.0003 x 1,024 images a step (128 x 2 passes x 4 ranks) / 256" in told
    assert "1,251 steps = 1,281,167 images / 1,024 a step" in told
    assert sized(RunConfig(lr=1e-3), 128, 4) == (RunConfig(lr=1e-3), "")


def test_a_stated_rate_or_number_of_steps_is_meant_as_it_stands():
    assert _plainly(["run.lr=1e-3"]) == ["run.lr_per=null", "run.lr=1e-3"]
    assert _plainly(["run.lr=1e-3", "run.lr_per=64"]) == ["run.lr=1e-3", "run.lr_per=64"]
    assert _plainly(["run.steps=7", "run.batch=2"]) == ["run.images=null", "run.steps=7", "run.batch=2"]


@pytest.mark.parametrize("changes", [{"lr_per": 0}, {"images": 0}])
def test_numbers_that_count_nothing(changes):
    with pytest.raises(UserError, match=r"run\.\w+ is 0"):
        sized(RunConfig(**changes), 8, 1)
