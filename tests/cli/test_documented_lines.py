"""Every command line in the readme, the pages and the help texts is one that the parser understands."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from manyview.cli.main import COMMANDS, _spelled, build_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a reader fills in.
FILLED = {"RECIPE": "mum", "PROTOCOL": "recon-per-view", "FORMAT": "ply", "F": "folder"}


def lines_of(text: str) -> list[str]:
    """What begins with `manyview` and ends before two spaces, a comment or the end of the line."""
    found = re.findall(r"^[ $]*(manyview [a-z]+ .*?)(?:  |\s#|;|$)", text, re.MULTILINE)
    return [line for line in found if not re.search(r"[…|]|\.\.\.|\\$", line)]


def documented() -> list[tuple[str, str]]:
    texts = {page.name: "\n".join(re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL)) for page in PAGES}
    for name in [*COMMANDS, "data_synth"]:
        module = importlib.import_module(f"manyview.cli.{name}")
        texts[f"{name} --help"] = f"{module.__doc__}\n{getattr(module, 'EXAMPLES', '')}"
    return [(where, line) for where, text in texts.items() for line in lines_of(text)]


@pytest.mark.parametrize(("where", "line"), documented())
def test_the_parser_understands(where, line):
    words = [FILLED.get(word, word) for word in shlex.split(line)[1:]]
    words = [words[0], *_spelled(words[1:], any_name=words[0] in ("eval", "bench"))]
    if words[-1] == "--help":
        with pytest.raises(SystemExit) as stopped:
            build_parser(words[0], words[1:]).parse_args(words)
        assert stopped.value.code == 0
    else:
        assert build_parser(words[0], words[1:]).parse_args(words).run


def test_there_are_many():
    assert len(documented()) > 50
