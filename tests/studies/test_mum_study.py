"""MuM's study end to end, absurdly small: jobs train, are probed, go on where they stopped, and make the report."""

from __future__ import annotations

import json

import pytest

from manyview.cli.main import main
from manyview.config import override
from manyview.data.synthetic import write_scenes
from manyview.recipes.base import RECIPES
from manyview.studies.base import BAR, STUDIES
from manyview.studies.mum import UNTRAINED, MumOptions, MumStudy


@pytest.fixture(scope="module")
def manifests(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("rooms")
    sizes = {"views": 4, "size": (36, 48)}
    return (
        str(write_scenes(folder / "train", scenes=6, seed=1, **sizes)),
        str(write_scenes(folder / "test", scenes=4, seed=2, **sizes)),
    )


def test_every_variant_is_a_setting_of_the_recipe():
    recipe = RECIPES.get("mum")
    base = override(recipe.presets()[MumOptions().preset], ["method.min_views=4", "method.max_views=8"])
    for variant in MumStudy.variants:
        changed = override(base, list(variant.settings))
        assert (changed.method == base.method) == variant.name.startswith("multi-view")
    names = {variant.name for variant in MumStudy.variants}
    assert {name for q in MumStudy.questions for name in (q.better, q.worse)} <= {*names, BAR}
    assert {name for v in MumStudy.variants for name in v.beside} == {v.name for v in MumStudy.untrained}
    assert STUDIES.get("mum") is MumStudy


def test_a_study_runs_from_the_command_line_and_resumes(manifests, tmp_path, capsys):
    train, test = manifests
    line = [
        "study",
        "mum",
        "-o",
        str(tmp_path / "study"),
        "--seeds",
        "0",
        "--only",
        "multi-view",
        "mae",
        "--json",
        "--set",
        f"train=[{train}]",
        f"test={test}",
        "preset=debug",
        "steps=3",
        "pairs=4",
        "probe_steps=5",
        "weights={manyview-synth: 1}",
    ]
    assert main(line) == 0
    first = json.loads(capsys.readouterr().out)
    for name in ("multi-view", "mae"):
        numbers = first["results"][name]["0"]
        assert numbers["epe"] > 0
        assert numbers["percent"] == pytest.approx(100 * numbers["epe"] / 32)
        assert (tmp_path / "study" / name / "seed-0" / "run" / "model" / "config.json").is_file()
    assert first["results"]["croco"] == {}
    one = first["results"]["multi-view"]["0"]
    untrained = {name: first["results"][name]["0"]["epe"] for name in UNTRAINED}
    assert one["below"] == pytest.approx(min(untrained.values()) - one["epe"])
    assert first["results"]["colours-same-light"] == {}  # only what was asked for has its controls
    answers = {answer["question"]["name"]: answer for answer in first["answers"]}
    assert answers["many views"]["verdict"] in ("undecided", "uninformative")  # one seed decides nothing
    assert answers["many views"]["low"] <= answers["many views"]["mean"] <= answers["many views"]["high"]
    assert answers["it learned to match"]["mean"] == pytest.approx(one["below"])
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out) == first  # nothing was done again
    (tmp_path / "study" / "multi-view" / "seed-0" / "result.json").unlink()  # stopped after its first probe
    assert main(line) == 0
    again = json.loads(capsys.readouterr().out)["results"]["multi-view"]["0"]
    assert {**again, "seconds": 0} == {**one, "seconds": 0}
    page = tmp_path / "page.md"
    settings = line[line.index("--set") :]
    assert main([*line[:4], "--report", "--page", str(page), *settings]) == 0
    assert "not run" in capsys.readouterr().out
    text = page.read_text()
    assert all(f"| {name} | {line} | {untrained[name]:.2f} |" in text for name, line in UNTRAINED.items())
    assert "rooms that judge" not in text  # they were named
    assert main([*line[:4], "--report", "--page", str(tmp_path / "page.html"), *settings]) == 2
    assert "page.md" in capsys.readouterr().err
    mine = tmp_path / "mine.md"
    mine.write_text("# My notes")
    assert main([*line[:4], "--report", "--page", str(mine), *settings]) == 2
    assert mine.read_text() == "# My notes"
    capsys.readouterr()
    assert main([*line, "steps=4"]) == 2
    assert "steps = 3, not 4" in capsys.readouterr().err


def test_bad_lines_are_one_clear_line(capsys, tmp_path):
    assert main(["study", "mmu"]) == 2
    assert "did you mean 'mum'" in capsys.readouterr().err
    assert main(["study", "mum", "-o", str(tmp_path / "none"), "--report"]) == 2
    assert "holds no study" in capsys.readouterr().err
    assert main(["study", "--list"]) == 0
    assert "multi-view" in capsys.readouterr().out
