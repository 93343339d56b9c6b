"""What a resumed run may differ in from the one it goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from manyview.engine.rundir import MAY_CHANGE, work_folder
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
