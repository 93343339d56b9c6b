"""The README's blocks after its two commands run as printed, in order, in one folder: in small, and without a network.

Every line is a command of `manyview` or Python. What a block needs comes from a block before it, or is said to be the
reader's. `SMALL` is what is put in a line's place to make it small; `SKIPPED` names lines that are not run, and why.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from manyview.cli.main import main
from manyview.data.synthetic import write_scenes

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MARKS = ("(downloads)", "(GPU)", "yours to download", "hours")
"""Words of the README, in the line or in the sentence before its block, of what is not run."""
SKIPPED = {
    "manyview onnx": "half a minute of tracing: tests/zoo/test_onnx.py",
    "manyview view": "opens a page until Ctrl-C: tests/viewer",
    "manyview models mast3r": "(downloads)",
    "manyview models dinov2": "(downloads)",
    "manyview reconstruct photos/ --model mast3r": "(downloads)",
    "manyview features photos/ --model dinov2": "(downloads)",
    "manyview features photos/ --model timm": "(downloads)",
    "manyview features photos/ --model dune": "(downloads)",
    "manyview convert weights.pth": "(downloads)",
    "manyview train mum --preset tiny --data rooms/manifest.parquet --validate": "minutes: tests/pipelines",
    "manyview study": "hours: tests/studies",
    "manyview data scan ADEChallengeData2016": "yours to download",
    "manyview eval linear-segmentation": "yours to download",
    "manyview distil": "minutes, in small too: tests/pipelines/test_distil.py",
}
SMALL = {
    "--scenes 200 --views 8 --size 112x154": "--scenes 6 --views 4 --size 56x70 --workers 1",
    "--scenes 40 --views 8 --size 112x154": "--scenes 5 --views 3 --size 56x70 --workers 1",
    "--teacher sensor --size 112x154": "--teacher sensor --size 56x70",
    "-o runs/mine": "-o runs/mine --steps 2",
    "--preset views --data abstract:1 --seconds 1800": "--preset debug --data abstract:1 --steps 1",
    "-o runs/mum": "-o runs/mum --steps 2",
    "--baselines --train rooms/manifest.parquet": "--views 1",
    "eval map-and-locate": "eval map-and-locate --scenes 1",
    "eval views-used": "eval views-used --data unseen/manifest.parquet --views 2",
    "eval matching-probe": "eval matching-probe --size 48 --pairs 4 --train-pairs 8 --val-pairs 4 --motion 0.01 "
    "--sweep.steps 4",
    "-o runs/dune": "-o runs/dune --steps 2",
    "-o runs/pairs": "-o runs/pairs --steps 2",
}
VERDICT = "manyview eval views-used"
"""A gate, whose exit code says what it found."""


def blocks() -> Iterator[tuple[str, str, str]]:
    """Language, text, and the paragraph before, of every block after the two commands."""
    text = README.read_text(encoding="utf-8")
    text = text[text.index("## Use it") :]
    end = 0
    for found in re.finditer(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        yield found[1], found[2], text[end : found.start()].strip().rpartition("\n\n")[2]
        end = found.end()


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def reason(line: str) -> str | None:
    return next((why for begins, why in SKIPPED.items() if line.startswith(begins)), None)


def small(line: str) -> str:
    for printed, instead in SMALL.items():
        line = re.sub(rf"{re.escape(printed)}(?![\w-])", instead, line)
    return line


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the reader brings: photos/."""
    monkeypatch.chdir(tmp_path)
    write_scenes("room", scenes=1, views=4, size=(168, 224), seed=3, workers=1)
    shutil.copytree("room/scene_000000/images", "photos")
    return tmp_path


def test_every_block_runs_as_printed_in_order(folder, capfd):
    ran, names = [], {}
    for language, text, _ in blocks():
        if language == "python":
            exec(compile(text, "README.md", "exec"), names)
            ran.append(text)
            continue
        for line in lines(text):
            if reason(line):
                continue
            words = shlex.split(small(line), comments=True)
            assert words[0] == "manyview", line
            code = main(words[1:])
            said = capfd.readouterr()
            assert code == 0 or (code == 1 and line.startswith(VERDICT)), f"{line}\n{said.err[-2000:]}"
            ran.append(line)
    assert len(ran) > 18


def test_what_is_not_run_is_marked_for_the_reader():
    used = set()
    for _, text, before in blocks():
        for line in lines(text):
            why = reason(line)
            used |= {begins for begins in SKIPPED if line.startswith(begins)}
            if why in MARKS:
                assert why in before or why in line, f"{line}: the README does not say {why}"
    assert used == set(SKIPPED)
    text = README.read_text(encoding="utf-8")
    for yours in ("`photos/`", "`walk.mp4`", "activate", "two cores", "GB"):
        assert yours in text


def test_what_is_made_small_is_printed():
    printed = "\n".join(text for _, text, _ in blocks())
    assert [one for one in SMALL if one not in printed] == []
