"""Table III in miniature: one teacher's answers, three ways to learn from its confidence, judged on unseen rooms."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from manyview import zoo
from manyview.engine.rundir import read_config
from manyview.recipes.distill3r import Distill3R
from manyview.studies import distill3r
from manyview.studies.base import STUDIES, answers, run_study
from manyview.studies.report import markdown


@pytest.fixture
def study(tmp_path, monkeypatch):
    teacher = zoo.save_model(zoo.build("distill3r", size="debug", seed=0).eval(), tmp_path / "teacher")
    monkeypatch.setattr(distill3r, "SIZE", (28, 42))
    presets = Distill3R.presets()
    small = replace(presets["tiny"].method, model="distill3r", size="debug")
    monkeypatch.setattr(Distill3R, "presets", staticmethod(lambda: {"tiny": replace(presets["tiny"], method=small)}))
    options = distill3r.Distill3ROptions(steps=2, teacher=str(teacher), scenes=4, unseen=1)
    return distill3r.Distill3RStudy(options)


def test_each_variant_learns_from_the_same_answers_in_its_own_way(study, tmp_path):
    results = run_study(study, tmp_path / "study", seeds=[0])
    assert set(results) == {"full", "no-weighting", "labels-only"}
    settings = {}
    for name, runs in results.items():
        assert runs[0]["accuracy"] > 0
        method = read_config(tmp_path / "study" / name / "seed-0" / "run")["method"]
        settings[name] = (method["weighting"], method["confidence"])
    assert settings == {"full": ("teacher", True), "no-weighting": ("none", True), "labels-only": ("student", False)}
    assert {answer.verdict for answer in answers(study, results)} == {"undecided"}  # of one seed
    assert "labels-only" in markdown(study, results)
    again = run_study(study, tmp_path / "study", seeds=[0])
    assert json.dumps(again) == json.dumps(results)
    assert STUDIES.get("distill3r") is distill3r.Distill3RStudy
