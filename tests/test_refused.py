"""docs/refused.md says what is refused on purpose, with the line that it ends in; every one still is."""

from __future__ import annotations

from pathlib import Path

import pytest

from refused_on_purpose import REFUSALS, line_of

PAGE = Path(__file__).parents[1] / "docs/refused.md"
ALL = [one for refusals in REFUSALS.values() for one in refusals]


@pytest.mark.parametrize("one", ALL, ids=[one.what for one in ALL])
def test_it_is_refused_in_the_line_of_the_page(one):
    line = line_of(one)
    assert "\n" not in line
    assert f"**{one.what}**: {one.why}.\n\n```\n{line}\n```\n" in PAGE.read_text(encoding="utf-8")


def test_the_page_holds_nothing_else():
    assert PAGE.read_text(encoding="utf-8").count("**: ") == len(ALL)
