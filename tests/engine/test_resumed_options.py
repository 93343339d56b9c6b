"""What a resumed run may differ in from the one it goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from manyview.engine.rundir import _same
from manyview.errors import UserError

OUT = Path("runs/a")


def test_an_option_inside_another_that_one_version_does_not_know_is_no_difference():
    before = {"augmentation": {"flip": 0.5, "grey": 0.2}, "size": 96}
    _same(OUT, "method", before, {"augmentation": {"flip": 0.5, "grey": 0.2, "gamma": 0.0}, "size": 96})
    _same(OUT, "method", {**before, "gone": 1}, before)


def test_an_option_inside_another_that_changed_is_named_with_both_values():
    with pytest.raises(UserError, match=r"runs/a was started with method\.augmentation\.flip = 0\.5, not 0\.7"):
        _same(OUT, "method", {"augmentation": {"flip": 0.5}}, {"augmentation": {"flip": 0.7, "gamma": 0.0}})
