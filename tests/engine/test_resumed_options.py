"""What a resumed run may differ in from the one it goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from manyview.engine.rundir import MAY_CHANGE, changed, work_folder
from manyview.errors import UserError

RUN = work_folder(Path("runs/a"))


def check(before: dict, now: dict) -> None:
    RUN.refuse_others(before, now, MAY_CHANGE, common=True)


def test_an_option_inside_another_that_one_version_does_not_know_is_no_difference():
    before = {"augmentation": {"flip": 0.5, "grey": 0.2}, "size": 96}
    check({"method": before}, {"method": {"augmentation": {"flip": 0.5, "grey": 0.2, "gamma": 0.0}, "size": 96}})
    check({"method": {**before, "gone": 1}}, {"method": before})


def test_an_option_inside_another_that_changed_is_named_with_both_values():
    before, now = ({"method": {"augmentation": {"flip": flip, **more}}} for flip, more in ((0.5, {}), (0.7, {"a": 0})))
    with pytest.raises(
        UserError, match=r"runs/a holds a run with another method\.augmentation\.flip \(.* 0\.5, not 0\.7"
    ):
        check(before, now)


def test_what_does_not_change_a_step_may_differ():
    check({"run": {"steps": 5, "lr": 1.0}}, {"run": {"steps": 9, "lr": 1.0}})
    with pytest.raises(UserError, match=r"another run\.lr"):
        check({"run": {"steps": 5, "lr": 1.0}}, {"run": {"steps": 9, "lr": 2.0}})


def test_a_resumed_run_says_what_makes_it_another():
    before = {"run": {"steps": 60}, "version": "0.0.9", "torch": "2.9.0", "threads": 1}
    assert changed(before, before) == []
    lines = changed(before, {"run": {"steps": 90}, "version": "0.1.0", "torch": "2.9.1", "threads": 2})
    assert lines[0].startswith("90 steps instead of 60")
    assert [line.partition(";")[0] for line in lines[1:]] == [
        "manyview 0.1.0 instead of 0.0.9",
        "torch 2.9.1 instead of 2.9.0",
        "threads: 2 instead of 1",
    ]
    unknown = {"run": {"steps": 60}}  # of a version that did not write it down
    assert changed(unknown, before) == []
    by_clock = {"run": {"steps": 90, "seconds": 5.0}}
    assert changed({"run": {"steps": 60, "seconds": 5.0}}, {**before, **by_clock}) == []
