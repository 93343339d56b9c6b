"""Single bits flipped in a store, a run, a model and a scene: the check that answers for them finds every one."""

from __future__ import annotations

import runpy
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "benchmarks/bit_flips.py"


def test_every_flipped_bit_is_found():
    rows = runpy.run_path(str(BENCHMARK))["run"](6)
    assert {row.work for row in rows} == {"store", "run", "model", "scene"}
    assert len(rows) > 15
    assert [(row.file, row.found, row.flips) for row in rows if row.found != row.flips] == []


def test_the_page_says_what_was_found():
    page = (BENCHMARK.parents[1] / "docs/bit-flips.md").read_text(encoding="utf-8")
    rows = [line.split("|")[-3:-1] for line in page.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert rows
    assert all(int(flips) == int(found) > 20 for flips, found in rows)
