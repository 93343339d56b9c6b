"""Every number of a paper's preset is the one of a table with its source, on the ranks of the paper and on others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manyview.config import RunConfig, to_dict
from manyview.engine.schedule import sized, warmup_steps
from manyview.errors import UserError
from manyview.pipelines.train import _plainly
from manyview.recipes.base import RECIPES, preset

TABLE = json.loads((Path(__file__).parents[1] / "data/paper_presets.json").read_text())
CASES = [(recipe, name) for recipe, presets in TABLE.items() for name in presets]


def values_of(recipe: str, name: str, ranks: int) -> dict[str, object]:
    kind = RECIPES.get(recipe)
    chosen = preset(kind, name)[1]
    run, _ = sized(chosen.run, kind.images_of(chosen.method, chosen.run), ranks)
    flat: dict[str, object] = {"sized.lr": run.lr, "sized.steps": run.steps, "sized.warmup_steps": warmup_steps(run)}
    for part, values in (("method", to_dict(chosen.method)), ("run", to_dict(chosen.run))):
        flat |= {f"{part}.{key}": value for key, value in values.items()}
    for key, value in to_dict(chosen.method).get("student", {}).items():
        flat[f"method.student.{key}"] = value
    return flat


@pytest.mark.parametrize(("recipe", "name"), CASES)
def test_every_number_is_the_published_one(recipe, name):
    expected = dict(TABLE[recipe][name])
    assert expected.pop("source")
    values = values_of(recipe, name, expected.pop("ranks"))
    for key, value in expected.items():
        assert values[key] == (pytest.approx(value) if isinstance(value, float) else value), key


@pytest.mark.parametrize(("recipe", "name"), [("mum", "paper"), ("dune", "paper")])
def test_on_one_gpu_the_rate_falls_and_the_budget_stays(recipe, name):
    published, alone = values_of(recipe, name, TABLE[recipe][name]["ranks"]), values_of(recipe, name, 1)
    ranks = TABLE[recipe][name]["ranks"]
    assert alone["sized.lr"] == pytest.approx(published["sized.lr"] / ranks)
    assert alone["sized.steps"] == pytest.approx(published["sized.steps"] * ranks, rel=1e-5)


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
