"""The engine on a protocol of a few lines: what is asked again, what is refused, what a number's interval is."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.evaluation import intervals
from manyview.evaluation.base import Item, Number, Protocol, Skipped, evaluate
from manyview.evaluation.work import Work
from manyview.models.model import EncodesImages, Role


@dataclass(frozen=True, kw_only=True)
class Width(Protocol):
    """A complete protocol: can a model tell how wide a frame is?"""

    name: ClassVar[str] = "width"
    line: ClassVar[str] = "how wide is a frame?"
    needs: ClassVar[type[Role]] = Role
    numbers: ClassVar[tuple[Number, ...]] = (Number("error", "error px", digits=1),)

    least: int = 0
    """Narrower frames are not asked about."""

    def choose(self, model, data, work):
        return [
            Item(str(index), frame.scene, {"frame": frame.image}, {"width": frame.width})
            for index, frame in enumerate(data.frames)
            if frame.width >= self.least
        ]

    def ask(self, model, data, item):
        answer = model(item.names["frame"])
        return Skipped("too dark") if answer is None else {"width": np.array(answer)}

    def judge(self, item, answer, truth):
        return {"error": abs(float(answer["width"]) - item.about["width"])}


class Guesser(Role):
    """Knows how wide every frame is, up to `off`; is interrupted before it answers about `stop`."""

    def __init__(self, off: int = 0, stop: str | None = None, dark: str | None = None) -> None:
        self.off, self.stop, self.dark, self.asked = off, stop, dark, []
        self.fingerprint = f"guesser {off}"

    def __call__(self, image: str) -> int | None:
        if image == self.stop:
            raise KeyboardInterrupt
        self.asked.append(image)
        return None if image == self.dark else 10 * int(image.removesuffix(".png")) + 10 + self.off


@pytest.fixture
def data(tmp_path) -> Manifest:
    """Six frames of three scenes, 10 to 60 pixels wide."""
    frames = [
        Frame("d", f"s{number // 2}", str(number), "", f"{number}.png", 10 * number + 10, 8) for number in range(6)
    ]
    return Manifest(frames, tmp_path)


def test_perfect_answers_score_perfectly_and_others_worse(data, tmp_path):
    for off in (0, 3):
        summary = evaluate(Width(), Guesser(off), data, tmp_path / str(off), names={"model": "guesser"})
        assert summary["rows"] == [{"method": "model", "label": "model", "error": off, "items": 6, "failed": 0}]
        assert summary["intervals"]["model"]["error"] == (off, off)
        text = (tmp_path / str(off) / "summary.md").read_text()
        assert text == f"# guesser on the data: width\n\n|  | error px |\n|---|---:|\n| model | {off}.0 |\n"


def test_what_was_answered_before_a_kill_is_not_asked_again(data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Width(), Guesser(stop="3.png"), data, out)
    assert not (out / "summary.json").exists()
    with pytest.raises(UserError, match="was stopped"):
        Width().score(out)
    second = Guesser()
    whole = evaluate(Width(), second, data, out)
    assert second.asked == ["3.png", "4.png", "5.png"]
    third = Guesser()
    assert evaluate(Width(), third, data, out) == whole
    assert third.asked == []
    assert Width().score(out) == whole  # from files alone


def test_a_kill_while_items_are_chosen_leaves_nothing_half_done(data, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Work, "keep_items", stopped)
        with pytest.raises(KeyboardInterrupt):
            evaluate(Width(), Guesser(), data, tmp_path / "out")
    assert evaluate(Width(), Guesser(), data, tmp_path / "out")["items"] == 6


def test_other_settings_models_and_data_are_refused_by_name(data, tmp_path):
    out = tmp_path / "out"
    evaluate(Width(), Guesser(), data, out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"another least \(least = 0, not 20\)"):
        evaluate(Width(least=20), Guesser(), data, out)
    with pytest.raises(UserError, match="another model"):
        evaluate(Width(), Guesser(1), data, out)
    with pytest.raises(UserError, match="another data"):
        evaluate(Width(), Guesser(), Manifest(list(data.frames)[1:], data.root), out)
    assert evaluate(Width(least=20), Guesser(), data, out, overwrite=True)["items"] == 5
    assert sorted(path.stem for path in (out / "predictions" / "model").iterdir()) == ["1", "2", "3", "4", "5"]
    assert (out / "notes.txt").read_text() == "mine"


def test_a_broken_answer_is_named_and_asked_again_once_it_is_gone(data, tmp_path):
    out = tmp_path / "out"
    evaluate(Width(), Guesser(), data, out)
    broken = out / "predictions" / "model" / "2.npz"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(UserError, match=r"2\.npz is missing or damaged; delete it"):
        Width().score(out)
    broken.unlink()
    model = Guesser()
    evaluate(Width(), model, data, out)
    assert model.asked == ["2.png"]
    (out / "items.json").write_text("{")
    with pytest.raises(UserError, match=r"items\.json is missing or damaged; .*--overwrite"):
        evaluate(Width(), Guesser(), data, out)


def test_an_item_without_an_answer_counts_for_nobody(data, tmp_path):
    out = tmp_path / "out"
    summary = evaluate(Width(), Guesser(dark="5.png"), data, out)
    assert summary["rows"][0]["items"] == 5
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert lines[0] == {"method": "model", "scene": "s0", "frame": "0.png", "error": 0.0}
    assert [line["frame"] for line in lines] == [f"{number}.png" for number in range(5)]
    only = Manifest([data.frames[5]], data.root)
    with pytest.raises(UserError, match=r"nothing could be judged; first 5\.png: too dark"):
        evaluate(Width(), Guesser(dark="5.png"), only, tmp_path / "none")


def test_an_evaluation_of_an_earlier_version_says_that_it_must_be_made_again(data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.json").write_text('{"settings": {"protocol": "width"}, "names": {}}')
    with pytest.raises(UserError, match=r"earlier version of manyview; remove it, or run .* --overwrite"):
        evaluate(Width(), Guesser(), data, out)
    assert evaluate(Width(), Guesser(), data, out, overwrite=True)["items"] == 6
    with pytest.raises(UserError, match="holds no evaluation"):
        Width().score(tmp_path / "elsewhere")


HOLD = (
    "import sys, pathlib; from manyview.evaluation.work import Work\n"
    "with Work.folder(pathlib.Path(sys.argv[1])).lock():\n    print('held', flush=True); sys.stdin.read()"
)


def test_two_processes_do_not_share_a_folder(data, tmp_path):
    out = tmp_path / "out"
    evaluate(Width(), Guesser(), data, out)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process is at work"):
        evaluate(Width(), Guesser(), data, out)
    process.kill()
    process.wait()
    evaluate(Width(), Guesser(), data, out)


def test_a_model_that_cannot_do_what_is_asked_is_refused_before_the_folder_is_made(data, tmp_path):
    class Seen(Width):
        needs = EncodesImages

    with pytest.raises(UserError, match="cannot encode images; models that can"):
        evaluate(Seen(), print, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_protocol_that_cannot_ask_says_so(data, tmp_path):
    class Mute(Width):
        ask = Protocol.ask

    with pytest.raises(NotImplementedError, match="neither `ask` nor `methods`"):
        evaluate(Mute(), Guesser(), data, tmp_path / "out")


def test_intervals_are_those_of_scenes_drawn_one_by_one():
    rng = np.random.default_rng(0)
    values, scenes = rng.normal(3, 1, 12), [f"s{number % 5}" for number in range(12)]
    low, high = intervals.over_scenes(np.stack([values, np.ones(12)], 1), scenes, seed=4)
    drawn = np.random.default_rng(4).integers(0, 5, (intervals.DRAWS, 5))
    means = []
    for row in drawn:
        picked = [value for scene in row for value, of in zip(values, scenes, strict=True) if of == f"s{scene}"]
        means.append(np.mean(picked))
    assert (low, high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert low < values.mean() < high


def test_scenes_are_what_is_drawn_not_items():
    same = np.repeat([0.0, 10.0], 50)
    parts = np.stack([same, np.ones(100)], 1)
    together = intervals.over_scenes(parts, ["a"] * 50 + ["b"] * 50, seed=0)
    apart = intervals.over_scenes(parts, [str(number) for number in range(100)], seed=0)
    assert together == (0, 10)
    assert apart[1] - apart[0] < 5
    assert all(np.isnan(bound) for bound in intervals.over_scenes(parts, ["a"] * 100, seed=0))
