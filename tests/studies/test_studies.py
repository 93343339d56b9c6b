"""Studies: jobs are done once, verdicts follow the seeds, reports say what was not run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, ClassVar

import pytest

from manyview.errors import UserError
from manyview.studies.base import Question, Study, Variant, answers, as_json, judge, run_study
from manyview.studies.report import markdown, plot, write_page, write_report

QUESTION = Question(name="views", better="many", worse="one", source="Table 1")


class Toy(Study):
    """Scores are given; a job that is asked to fail fails."""

    name, line, score = "toy", "A toy study", "EPE"
    columns: ClassVar[dict[str, str]] = {"loss": "loss"}
    variants: ClassVar = (
        Variant(name="one", line="one view", paper=12.5),
        Variant(name="many", line="many views", paper=10.6),
        Variant(name="never", line="is never run"),
    )
    questions: ClassVar = (QUESTION, Question(name="nothing", better="never", worse="one", source="nowhere"))

    def __init__(self, gap: float = 1.0, fail: bool = False, steps: int = 5) -> None:
        self.gap, self.fail, self.steps, self.jobs = gap, fail, steps, []

    def settings(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def defaults(self) -> dict[str, Any]:
        return {"steps": 5}

    def run(self, variant: Variant, seed: int, out: Path) -> dict[str, float]:
        self.jobs.append((variant.name, seed))
        if self.fail and seed == 1:
            raise KeyboardInterrupt
        return {"EPE": 10 + 0.1 * seed - (self.gap if variant.name == "many" else 0), "loss": 0.5}


def test_an_interrupted_study_does_only_what_is_missing(tmp_path):
    first = Toy(fail=True)
    with pytest.raises(KeyboardInterrupt):
        run_study(first, tmp_path, seeds=[0, 1, 2], only=["one", "many"])
    assert first.jobs == [("one", 0), ("many", 0), ("one", 1)]
    second = Toy()
    results = run_study(second, tmp_path, seeds=[0, 1, 2], only=["one", "many"])
    assert second.jobs == [("one", 1), ("many", 1), ("one", 2), ("many", 2)]
    assert sorted(results["many"]) == [0, 1, 2]
    assert results["never"] == {}
    answer = answers(second, results)[0]
    assert (answer.verdict, answer.seeds) == ("reproduced", 3)
    assert answer.mean == pytest.approx(1.0)


def test_jobs_that_another_process_did_meanwhile_are_left_alone(tmp_path):
    class Beside(Toy):
        def run(self, variant: Variant, seed: int, out: Path) -> dict[str, float]:
            other = tmp_path / "many" / "seed-0"
            other.mkdir(parents=True, exist_ok=True)
            (other / "result.json").write_text('{"EPE": 1.0, "loss": 0.1, "seconds": 9.0}')
            return super().run(variant, seed, out)

    study = Beside()
    results = run_study(study, tmp_path, seeds=[0], only=["one", "many"])
    assert study.jobs == [("one", 0)]
    assert results["many"][0]["EPE"] == 1.0


def test_a_study_refuses_a_folder_with_other_settings(tmp_path):
    run_study(Toy(), tmp_path, seeds=[0], only=["one"])
    with pytest.raises(UserError, match="steps = 5, not 6"):
        run_study(Toy(steps=6), tmp_path, seeds=[0], only=["one"])
    with pytest.raises(UserError, match="no variant 'two'"):
        run_study(Toy(), tmp_path, seeds=[0], only=["two"])


def test_no_job_starts_when_the_time_is_over(tmp_path):
    toy = Toy()
    run_study(toy, tmp_path, seeds=[0], minutes=-1)
    assert toy.jobs == []


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([1.0, 1.2, 0.9], "reproduced"),
        ([-1.0, -1.2, -0.9], "contradicted"),
        ([1.0, 1.2, -0.1], "undecided"),  # a seed disagrees
        ([0.1, 0.1, 5.0], "undecided"),  # agree, but spread wider than their mean
        ([1.0, 1.0], "undecided"),  # too few
        ([], "undecided"),
    ],
)
def test_verdicts(differences, verdict):
    assert judge(QUESTION, differences).verdict == verdict


def test_the_report_holds_every_variant_and_says_what_was_not_run(tmp_path):
    toy = Toy()
    results = run_study(toy, tmp_path, seeds=[0, 1, 2], only=["one", "many"])
    text = markdown(toy, results)
    assert "| many | many views | 9.10 ± 0.10 | 0.500 ± 0.000 | 3 | 10.6 |" in text
    assert "| never | is never run | not run | not run | 0 |  |" in text
    assert "views: `many` beats `one` | +1.000 ± 0.000 |  | 3 | reproduced | Table 1 |" in text
    root = ET.fromstring(plot(toy, results))
    assert len([e for e in root.iter() if e.tag.endswith("circle")]) == 6
    assert write_report(toy, results, tmp_path).read_text() == text
    assert json.loads(json.dumps(as_json(toy, results)))["results"]["one"]["2"]["EPE"] == pytest.approx(10.2)


def test_an_empty_study_still_makes_a_report(tmp_path):
    toy = Toy()
    results = run_study(toy, tmp_path, seeds=[])
    assert "not run" in markdown(toy, results)
    ET.fromstring(plot(toy, results))


def test_a_page_says_how_it_was_made_and_shows_every_run(tmp_path):
    toy = Toy(steps=7)
    results = run_study(toy, tmp_path / "runs", seeds=[0, 1], only=["one", "many"])
    write_page(toy, results, tmp_path / "docs" / "toy.md", notes=["One more thing."])
    text = (tmp_path / "docs" / "toy.md").read_text()
    assert text.startswith("# A toy study\n\nWritten by `manyview study toy --set steps=7 --page toy.md`")
    assert "| variant | seed | EPE | loss |" in text
    assert "| one | 1 | 10.100 | 0.500 |" in text
    assert "One more thing." in text
    assert "](toy.svg)" in text
    ET.parse(tmp_path / "docs" / "toy.svg")
    write_page(Toy(), results, tmp_path / "plain.md")
    assert "`manyview study toy --page plain.md`" in (tmp_path / "plain.md").read_text()
