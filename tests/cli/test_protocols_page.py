"""The page of protocols names every protocol with a command, and nothing that is not there."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from manyview.config import override
from manyview.data.sources import SOURCES
from manyview.evaluation.base import PROTOCOLS
from manyview.evaluation.published import DATA_SETS, wanted
from manyview.models.family import presets

PAGE = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
LINES = [line.split("  #")[0].strip() for line in re.findall(r"^manyview eval .*$", PAGE, re.MULTILINE)]
OF_THE_COMMAND = {"--model", "--data"}


def test_every_protocol_has_a_command_on_the_page_and_a_row_in_a_table():
    commanded = {shlex.split(line)[2] for line in LINES}
    assert commanded == set(PROTOCOLS.names())
    rows = {name for line in PAGE.splitlines() if line.startswith("|") for name in re.findall(r"`([\w-]+)`", line)}
    assert commanded - rows == {"views-used"}  # which brings its own scenes


@pytest.mark.parametrize("line", LINES)
def test_options_and_models_exist(line):
    words = shlex.split(line)[2:]
    protocol: Any = PROTOCOLS.get(words[0])()
    known = {field.name for field in dataclasses.fields(protocol)}
    for flag, value in zip(words, [*words[1:], ""], strict=True):
        if not flag.startswith("--"):
            continue
        if flag == "--model":
            assert value in presets()
        elif flag not in OF_THE_COMMAND:
            assert flag.removeprefix("--").split(".")[0].replace("-", "_") in known
    override(protocol, [])


def test_what_protocols_say_of_data_is_on_the_page():
    assert set(DATA_SETS) <= set(SOURCES.names())
    assert [name for name in DATA_SETS if f"`{name}`" not in PAGE] == []
    assert "\n" not in wanted(*DATA_SETS)


def test_formats_exist():
    column = re.findall(r"^\|[^|]*\|[^|]*\|([^|]*)\|", PAGE, re.MULTILINE)
    named = {name for cell in column for name in re.findall(r"`([a-z0-9-]+)`", cell)}
    assert named - {"--format"} <= set(SOURCES.names())
    assert {"nyuv2", "kitti", "co3d", "voc", "navi", "spair", "mapfree", "re10k"} <= named
