"""The extra `dev` brings what tests would skip for: where the environment was made from it, nothing is missing."""

from __future__ import annotations

import importlib.metadata
import os
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def packages(requirements: list[str]) -> set[str]:
    """Names of the packages, those of the package's own extras in brackets included."""
    names = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w.,-]+)\])?", requirement).groups()
        names |= packages([r for extra in extras.split(",") for r in EXTRAS[extra]]) if extras else {name.lower()}
    return names


def test_dev_brings_every_extra():
    for extra, requirements in EXTRAS.items():
        assert packages(requirements) <= packages(EXTRAS["dev"]), f"{extra} is not in dev"


def test_versions_are_pinned_for_the_core_and_for_what_dev_brings():
    """pip install -e .[dev] -c constraints.txt gives every machine the same packages."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    wanted = packages(PROJECT["dependencies"]) | packages(EXTRAS["dev"])
    assert sorted(name for name in wanted if name.replace("_", "-") not in pinned) == []


@pytest.mark.skipif("CI" not in os.environ, reason="only where the environment was made from the extra dev")
def test_nothing_is_missing_where_everything_was_installed():
    for name in packages(EXTRAS["dev"]):
        assert importlib.metadata.version(name)
    import timm  # with a torchvision that works beside this torch

    assert timm.list_models("vit_*dinov2")
