"""Table 3 in miniature: the same pictures, seen together or each alone, and judged on the same points."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from manyview import zoo
from manyview.models import minilm
from manyview.recipes.base import preset
from manyview.recipes.sab3r import Sab3R
from manyview.studies import sab3r
from manyview.studies.base import run_study
from manyview.studies.report import write_page

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(minilm.PACKAGE) is None, reason="manyview[text-offline] is not installed"
)


@pytest.fixture
def study(tmp_path, monkeypatch):
    plain = zoo.save_model(zoo.build("manyview-small", size="debug", seed=0).eval(), tmp_path / "plain")
    words = zoo.save_model(zoo.build("manyview-small-words", size="debug", seed=0).eval(), tmp_path / "words")
    monkeypatch.setattr(sab3r, "RECONSTRUCTOR", str(plain))
    monkeypatch.setattr(sab3r, "MODEL", str(words))
    monkeypatch.setattr(sab3r, "REPEATS", 1)
    presets = Sab3R.presets()
    small = replace(presets["tiny"].method, size="debug", start=str(plain), pixels=16)
    monkeypatch.setattr(Sab3R, "presets", staticmethod(lambda: {"tiny": replace(presets["tiny"], method=small)}))
    return sab3r.Sab3RStudy(sab3r.Sab3ROptions(steps=1, size="56x70", unseen=1))


def test_variants_learn_from_the_same_pictures_and_are_judged_on_the_same_points(study, tmp_path):
    results = run_study(study, tmp_path / "study", seeds=[0])
    assert list(results) == ["one-pass", "pipelined", "pipelined-warm", "one-pass-unfrozen"]
    runs = [result[0] for result in results.values()]
    assert len({run["oracle"] for run in runs[:3]}) == 1
    assert runs[3]["distance"] != runs[0]["distance"]  # its points are its own
    assert {"shuffled", "noise", "constant", "oracle"} <= runs[3].keys()
    assert all(0 <= run["miou_2"] < 0.3 for run in runs)  # one step teaches nothing
    trunk = load_file(tmp_path / "plain" / "model.safetensors")
    for name, frozen in (
        *(("one-pass", True), ("pipelined-warm", True), ("pipelined", False)),
        ("one-pass-unfrozen", False),
    ):
        trained = load_file(tmp_path / "study" / name / "seed-0" / "run" / "model" / "model.safetensors")
        assert all(torch.equal(value, trained[key]) for key, value in trunk.items()) == frozen
    again = run_study(study, tmp_path / "study", seeds=[0])
    assert json.dumps(again) == json.dumps(results)
    write_page(study, results, tmp_path / "page.md", notes=study.notes(tmp_path / "study"))
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| SAB3R (C) | 17.26 | 41.11 | 1.92 |" in page
    assert "| here: pipelined-warm |" in page
    assert "| 4 views | " in page
    assert "Of one pass of 4 views the trunk takes " in page
    assert "Those of `one-pass-unfrozen`, which learned on, are " in page
    lines = (tmp_path / "study" / "one-pass-unfrozen" / "seed-0" / "run" / "metrics.jsonl").read_text().splitlines()
    assert {"global", "local", "minilm"} <= json.loads(lines[-1]).keys()


def test_where_one_pass_spends_its_time_adds_up():
    times = {"one_pass": 1.0, "pipelined": 1.6, "trunk": 0.4, "alone": 0.45}
    times |= {"trunk_and_points": 0.9, "trunk_and_features": 0.45}
    said = sab3r.shares("4", times)
    assert "trunk takes 40%, the heads of points 50%, that of features 5%" in said
    assert "so about 1.45 times" in said
    assert sab3r.shares("4", {"one_pass": 1.0, "pipelined": 1.6}) == ""


def test_alone_a_photo_says_the_same_in_any_company():
    method = replace(preset(Sab3R, "debug")[1].method, geometry=False, pixels=8)
    views = Sab3R.batches(method, preset(Sab3R, "debug")[1].run, cache=None, data=["rooms:1"])(0)
    other = replace(views, images=torch.cat([views.images[:, :1], views.images[:, :1].flip(-1)], 1))
    for alone in (True, False):
        torch.manual_seed(0)
        recipe = Sab3R.build(replace(method, alone=alone))
        first = []
        recipe.meaning = partial(_kept, first)
        for batch in (views, other):
            recipe.step(batch, progress=0.0, generator=torch.Generator().manual_seed(0))
        assert torch.equal(*first) == alone


def _kept(first, space, said, *rest):
    first.append(said.unflatten(0, (-1, 2))[:, 0])
    return {}
