"""The main job in small: every station runs, the report stands alone, the same line works again."""

from __future__ import annotations

import re

import pytest

from manyview import zoo
from manyview.cli.main import main
from manyview.errors import UserError
from manyview.quickstart import QuickstartConfig, quickstart
from manyview.scene.scene import Scene

SMALL = QuickstartConfig(scenes=2, test_scenes=1, views=2, size=(28, 42), steps=3, scratch=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick") / "out"
    lines: list[str] = []
    return out, quickstart(out, config=SMALL, say=lines.append), lines


def test_leaves_a_report_a_model_and_scenes(done):
    out, result, lines = done
    assert [line[:3] for line in lines] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert set(result["table"]) == {"before training", "after training", "best constant plane"}
    assert zoo.load(out / "run/model").config.image_size == 154
    assert len(Scene.load(out / "scenes/0")) == 2
    assert (out / "scenes/0.glb").stat().st_size > 1000


def test_the_report_needs_nothing_else(done):
    html = (done[0] / "report.html").read_text(encoding="utf-8")
    assert html.count("data:image/jpeg;base64,") == 5  # one room: maps, answer and truth from two sides
    assert "<svg" in html
    assert "best constant plane" in html
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert "<script" not in html


def test_again_trains_nothing_and_gives_the_same_table(done):
    out, result, _ = done
    before = (out / "run/metrics.jsonl").read_bytes()
    again = quickstart(out, config=SMALL)
    assert again["table"] == result["table"]
    assert (out / "run/metrics.jsonl").read_bytes() == before


def test_other_options_or_a_foreign_folder_are_refused(done, tmp_path, capsys):
    with pytest.raises(UserError, match="holds a quickstart with another"):
        quickstart(done[0], config=QuickstartConfig())
    (tmp_path / "mine.txt").write_text("keep me")
    assert main(["quickstart", "-o", str(tmp_path)]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_report_draws_cameras_with_their_errors_and_says_what_colours_mean(done):
    html = (done[0] / "report.html").read_text(encoding="utf-8")
    for words in ("where the student says they are", "rotation off by", "if it had not moved", "the truth from"):
        assert words in html
    rows = re.findall(r"<tr>(<th>.*?)</tr>", html)
    assert all("<th></th>" not in row for row in rows)
