"""The DUNE study from drawing its domains to its report, absurdly small."""

from __future__ import annotations

import json

import pytest

from manyview.studies.base import STUDIES, answers, run_study
from manyview.studies.dune import CONTROL, DuneOptions, DuneStudy, describe, told, uninformative
from manyview.studies.report import markdown, write_page
from manyview.studies.teachers import TASKS

TINY = DuneOptions(
    steps=2,
    teacher_steps=2,
    images=8,
    unseen=8,
    size=32,
    batch=3,
    crops=1,
    probe_steps=3,
    encoder=("dim=8", "depth=1", "heads=1"),
    projected=True,
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("dune")
    study = DuneStudy(TINY)
    return study, run_study(study, out, seeds=[0], only=["full", "alone-depth", "shuffled"]), out


def test_it_is_registered():
    assert STUDIES.get("dune") is DuneStudy


def test_every_teacher_is_judged_on_every_task_beside_what_needs_no_learning(done):
    _, _, out = done
    references = json.loads((out / "references.json").read_text())
    assert {"segment", "depth", "figures", "random", "pixels", "constant"} == {*references}
    assert all({*numbers} == {task.name for task in TASKS} for numbers in references.values())
    text = (out / "references.md").read_text()
    assert text == describe(references)
    assert "on random weights" in text


def test_gaps_are_closed_from_random_weights_to_the_teacher(done):
    study, _, _ = done
    for task in TASKS:
        study.references["random"][task.name], study.references[task.name][task.name] = 0.5, 0.3
        assert study.closed(task, 0.5) == 0
        assert study.closed(task, 0.4) == pytest.approx(0.5)


def test_a_job_says_what_the_student_closes_and_what_its_losses_are_worth(done):
    _, results, _ = done
    full, alone = results["full"][0], results["alone-depth"][0]
    counting = [t for t in TASKS if t.name not in uninformative(results)] or TASKS
    assert full["unclosed"] == pytest.approx(1 - sum(full[f"closed_{t.name}"] for t in counting) / len(counting))
    for task in TASKS:
        assert full[f"constant_{task.name}"] <= full[f"zero_{task.name}"] * 1.001
        assert full[f"{task.column}_{task.name}_projected"] >= 0
    assert "loss_depth" in alone
    assert "loss_segment" not in alone
    assert "miou_segment" in alone


def test_a_task_whose_gap_the_control_closes_is_kept_out_of_score_and_verdict():
    def run(segment: float, depth: float, figures: float) -> dict[str, float]:
        closed = {"closed_segment": segment, "closed_depth": depth, "closed_figures": figures}
        return {**closed, "unclosed": 1 - (segment + depth + figures) / 3}

    study, seeds = DuneStudy(DuneOptions()), (0, 1, 2)
    results = {variant.name: {} for variant in study.variants}
    results["full"] = {seed: run(0.9, 0.2, 0.8 + 0.01 * seed) for seed in seeds}
    results["none"] = {seed: run(0.8, 0.9, 0.7) for seed in seeds}  # ahead by depth alone
    assert study.judged(results)["full"][0]["unclosed"] == pytest.approx(1 - 1.9 / 3)  # nothing is known yet
    assert answers(study, results)[0].verdict == "contradicted"
    results[CONTROL] = {0: run(0.3, 0.96, 0.3)}
    assert uninformative(results) == {"depth": 0.96}
    judged = study.judged(results)
    assert judged["full"][0]["unclosed"] == pytest.approx(0.15)
    assert judged["none"][0]["unclosed"] == pytest.approx(0.25)
    assert answers(study, judged)[0].verdict == "reproduced"
    assert "Uninformative: depth (96%)" in told(uninformative(results))
    assert "all of them count" in told({})


def test_done_jobs_and_teachers_are_left_alone(done):
    _, results, out = done
    teacher = out / "teachers" / "depth" / "model" / "model.safetensors"
    stamp = teacher.stat().st_mtime_ns
    again = DuneStudy(TINY)
    assert run_study(again, out, seeds=[0], only=["full", "shuffled"])["full"] == results["full"]
    assert teacher.stat().st_mtime_ns == stamp
    assert "not run" in markdown(again, results)
    assert (
        len(list((out / "answers" / "seed-0-all" / "depth" / "samples").glob("*/*.zip"))) == 6
    )  # every teacher answers to every picture
    assert all(answer.verdict == "undecided" for answer in answers(again, results))


def test_the_page_tells_the_references_and_the_sizes(done, tmp_path):
    study, results, out = done
    write_page(study, results, tmp_path / "page.md", notes=study.notes(out))
    text = (tmp_path / "page.md").read_text()
    assert "on random weights" in text
    assert "the student with its projectors" in text
    assert "fresh pictures" in text
    assert f"| {results['full'][0]['loss_depth']:.3f} |" in text
    assert "ninformative" in text or "all of them count" in text
    assert study.notes(tmp_path) == []
