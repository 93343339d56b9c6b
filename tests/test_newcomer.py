"""A newcomer's first hour: what is printed is short and true, tables have heads, what is missing is named to be had."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import manyview as mv
from manyview import progress
from manyview.cli.main import main
from manyview.data.synthetic import write_scenes
from manyview.errors import UserError
from manyview.pages.charts import line_chart, log_ticks, round_ticks
from manyview.pages.page import Page
from manyview.pages.pictures import two_sides
from manyview.pipelines.features import features
from manyview.quickstart import _better

ROOT = Path(__file__).parents[1]


def test_what_is_printed_of_an_object_is_one_short_line(tmp_path):
    write_scenes(tmp_path / "rooms", scenes=1, views=2, size=(28, 42), workers=1)
    manifest = mv.Manifest.load(tmp_path / "rooms/manifest.parquet")
    assert main(["cache", "build", str(tmp_path / "rooms/manifest.parquet"), "--teacher", "sensor", "--size", "28x42",
                 "--views", "2", "-o", str(tmp_path / "cache")]) == 0  # fmt: skip
    pictures = [np.zeros((28, 42, 3), np.uint8)] * 2
    found = features(pictures, model=mv.zoo.build("dinov2-vits14", size="debug"), device="cpu")
    said = [repr(one) for one in (manifest, mv.Cache.open(tmp_path / "cache"), found, found[0])]
    assert all(len(line) < 300 and "\n" not in line and "array(" not in line for line in said)
    assert said[0].startswith("Manifest(2 frames of 1 scenes")
    assert said[1].startswith("Cache(1 samples, answers of sensor")
    assert said[2].startswith("FeatureSet(2 pictures, ")
    assert "2x4 patches" in said[3]


def test_options_are_had_from_the_package_itself():
    assert mv.ReconstructOptions(cameras="model").cameras == "model"
    assert mv.FeatureOptions(half=True).half
    assert mv.FeatureSet.__name__ == "FeatureSet"


@pytest.mark.parametrize("name", ["manyview-tiny", "dinov2-vits14", "mum-vitl16", "mast3r-vitl16", "vggt-1b"])
def test_a_model_says_what_it_cannot_take(name):
    model = mv.zoo.build(name, size="debug")
    several = name not in ("dinov2-vits14", "mum-vitl16")
    shape, wrong = ((1, 2, 3, 112, 112), (1, 2, 3, 100, 101)) if several else ((1, 3, 112, 112), (1, 3, 100, 101))
    call = model if several else model.encode
    with pytest.raises(UserError, match=r"images are 100x101, .* multiples of 1[46]; resize or crop"):
        call(torch.rand(wrong))
    with pytest.raises(UserError, match="RGB, floats from 0 to 1"):
        call(torch.rand(*shape[:-3], 1, *shape[-2:]))  # one channel, which would be taken for three alike
    with pytest.raises(UserError, match="images are uint8 of shape"):
        call(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("words", "heads"),
    [(["models"], "model licence here"), (["eval", "--list"], "protocol"), (["bench"], "benchmark what it measures")],
)
def test_tables_have_heads(capsys, words, heads):
    assert main(words) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert all(head in first for head in heads.split(" ")), first


def test_what_is_missing_is_named_with_the_extra_that_brings_it():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = {re.split(r"[>=\[]", one)[0].lower() for of in extras.values() for one in of} - {"manyview"}
    for path in (ROOT / "src/manyview").rglob("*.py"):
        for install in re.findall(r"pip install ([^\s)\"]+)", path.read_text(encoding="utf-8")):
            name, extra = re.fullmatch(r"([\w.{}-]+)(?:\[([\w-]+)\])?", install.strip("`'.,;:")).groups()
            assert name.lower() not in brought, f"{path}: {install}"
            assert extra is None or (name == "manyview" and extra in extras), f"{path}: {install}"


def test_ticks_are_round():
    assert round_ticks(0, 260) == [0, 50, 100, 150, 200, 250]
    assert round_ticks(0.031, 0.0952) == [0.04, 0.06, 0.08]
    assert log_ticks(0.02, 3.7) == [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    assert log_ticks(1e-4, 30) == [1e-4, 1e-3, 1e-2, 0.1, 1, 10]
    assert log_ticks(0.21, 0.29) == [0.22, 0.24, 0.26, 0.28]
    for low, high in np.random.default_rng(0).uniform(-5, 5, (200, 2)):
        ticks = round_ticks(min(low, high), max(low, high))
        assert 2 <= len(ticks) <= 10
        assert all(len(f"{abs(tick):g}".lstrip("0.")) <= 5 for tick in ticks)
    svg = line_chart({"loss": ([1, 260], [0.9, 0.021]), "local": ([1, 260], [0.7, 0.02])}, x_label="step",
                     y_label="loss", log=True)  # fmt: skip
    assert re.findall(r">([\d.]+)</text>", svg) == [
        "50",
        "100",
        "150",
        "200",
        "250",
        "0.02",
        "0.05",
        "0.1",
        "0.2",
        "0.5",
    ]
    colours = re.findall(r'stroke="(#\w{6})" stroke-width="1.8"', svg)
    assert re.findall(r'style="fill:(#\w{6})">', svg) == colours  # the names of the lines, whatever the page's style


def test_nothing_is_bold_that_a_trivial_answer_beats(tmp_path):
    table = {
        "before training": {"abs_rel": 0.172, "accuracy": 33.7, "completeness": 28.9},
        "after training": {"abs_rel": 0.160, "accuracy": 37.8, "completeness": 34.7},
        "best constant plane": {"abs_rel": 0.213, "accuracy": 20.9, "completeness": 32.5},
    }
    assert _better(table) == {(1, 1), (0, 3)}
    page = Page("p")
    page.table(["method", "a", "b", "c"], [("x", "1", "2", "3"), ("y", "4", "5", "6")], bold={(1, 1), (0, 3)})
    page.write(tmp_path / "p.html")
    assert re.findall("<b>(.*?)</b>", (tmp_path / "p.html").read_text()) == ["3", "4"]


def test_truth_and_answer_are_seen_from_the_same_sides():
    cloud = np.random.default_rng(0).normal([0, 0, 3], 0.4, (500, 3))
    red = np.tile(np.array([255, 0, 0], np.uint8), (500, 1))
    for picture, moved in zip(two_sides(cloud, red), two_sides(cloud + [0.3, 0, 0], red, like=cloud), strict=True):
        assert not np.array_equal(picture, moved)  # a shift shows, where each for itself would be drawn alike
    alone, itself = two_sides(cloud + [0.3, 0, 0], red), two_sides(cloud, red)
    assert np.mean([np.array_equal(a, b) for a, b in zip(alone, itself, strict=True)]) == 1


def test_what_takes_long_says_how_long_without_a_terminal(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "say", said.append)

    def work(seconds, count):
        for _ in progress.track(range(count), label="probes", unit="step"):
            now[0] += seconds

    work(0.1, 50)
    assert said == []  # done before anybody wonders
    work(6.0, 40)
    assert said == ["probes: step 2 of 40, 0:03:48 left", "probes: step 12 of 40, 0:02:48 left",
                    "probes: step 22 of 40, 0:01:48 left", "probes: step 32 of 40, 0:00:48 left"]  # fmt: skip
    said.clear()
    monkeypatch.setattr(progress, "say", None)
    work(6.0, 40)  # the library alone
    assert said == []
