"""MuM's study end to end, absurdly small: jobs train, are probed, go on where they stopped, and make the report."""

from __future__ import annotations

import json

import pytest

from manyview.cli.main import main
from manyview.config import override
from manyview.data.synthetic import write_scenes
from manyview.recipes.base import RECIPES
from manyview.studies.base import STUDIES
from manyview.studies.mum import MumOptions, MumStudy


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
    presets = recipe.presets()
    for variant in MumStudy.variants:
        changed = override(presets[MumOptions().preset], list(variant.settings))
        assert (changed.method == presets[MumOptions().preset].method) == (variant.name == "multi-view")
    names = {variant.name for variant in MumStudy.variants}
    assert {name for q in MumStudy.questions for name in (q.better, q.worse)} <= names
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
        assert numbers["epe_untrained"] > 0
        assert (tmp_path / "study" / name / "seed-0" / "run" / "model" / "config.json").is_file()
    assert first["results"]["croco"] == {}
    one, other = (first["results"][name]["0"] for name in ("multi-view", "mae"))
    assert one["epe_untrained"] == other["epe_untrained"]  # the same start, judged once
    assert len(list((tmp_path / "study" / "references").iterdir())) == 1
    assert {answer["verdict"] for answer in first["answers"]} == {"undecided"}  # one seed decides nothing
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
    assert "random weights" in page.read_text()
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
