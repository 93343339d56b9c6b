"""Help and flags are made of the option dataclasses: every option once, no torch for it, mistakes in one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Literal

import pytest

from manyview.cli.main import COMMANDS, main
from manyview.cli.options import Parser, add_options, add_set, named, options_of, value_of
from manyview.cli.output import Answer, give
from manyview.config import RunConfig, override, sentences_of
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS
from manyview.recipes.base import RECIPES
from manyview.scene.exporters import EXPORTERS
from manyview.studies.base import STUDIES

WITHOUT_TORCH = [
    [],
    *([name] for name in COMMANDS if name != "export"),  # the formats are modules that compute
    ["data", "synth"],
    ["data", "scan"],
    ["data", "scan", "--format", "co3d"],
    ["data", "info"],
    ["cache", "build"],
    ["cache", "verify"],
]


def help_of(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def flags_in(text: str) -> list[str]:
    """Flags that an entry of the help begins with, `--no-…` left out."""
    entries = re.findall(r"^  (-.*?)(?:  |$)", text, re.MULTILINE)
    flags = [word for entry in entries for word in re.findall(r"--[\w.-]+", entry)]
    return [flag for flag in flags if not flag.startswith("--no-")]


def test_help_of_every_command_needs_no_torch():
    code = f"""
import sys
sys.modules["torch"] = None  # importing it fails
from manyview.cli.main import main
for words in {WITHOUT_TORCH!r}:
    try:
        main([*words, "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0, words
    else:
        raise AssertionError(words)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    usages = [line for line in done.stdout.splitlines() if line.startswith("usage: ")]
    assert len(usages) == len(WITHOUT_TORCH)
    assert all(
        line.startswith(f"usage: {' '.join(['manyview', *words[:2]])}".partition(" --")[0])
        for line, words in zip(usages, WITHOUT_TORCH)
    )


@pytest.mark.parametrize("name", RECIPES.names())
def test_a_recipe_shows_its_presets_and_every_option_once(capsys, name):
    recipe = RECIPES.get(name)
    text = help_of(capsys, "train", name)
    preset = next(iter(recipe.presets().values()))
    keys = [option.key for part in ("method", "run") for option in options_of(getattr(preset, part), f"{part}.")]
    expected = [f"--{key.replace('_', '-')}" for key in keys]
    assert [flag for flag in flags_in(text) if "." in flag] == expected
    for label in recipe.presets():
        assert text.count(f"--preset {label} ") >= 1
    assert "Peak learning rate" in text


def test_the_defaults_are_those_of_the_preset(capsys):
    rates = {}
    for preset in ("tiny", "paper"):
        text = " ".join(help_of(capsys, "train", "distill3r", "--preset", preset).split())
        rates[preset] = re.search(
            r"Peak learning rate; with lr_per the rate for so many images. \(float; default ([\d.e-]+)\)", text
        )[1]
    presets = RECIPES.get("distill3r").presets()
    assert {name: float(rate) for name, rate in rates.items()} == {n: presets[n].run.lr for n in rates}


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_a_protocol_shows_every_option_once(capsys, name):
    protocol = PROTOCOLS.get(name)
    flags = flags_in(help_of(capsys, "eval", name))
    for option in options_of(protocol()):
        assert flags.count(f"--{option.key.replace('_', '-')}") == 1, option.key


@pytest.mark.parametrize(
    ("words", "options"),
    [
        *((["export", "--to", name], EXPORTERS.get(name)()) for name in EXPORTERS.names()),
        *((["study", name], STUDIES.get(name).Options()) for name in STUDIES.names()),
    ],
)
def test_formats_and_studies_show_every_option_once(capsys, words, options):
    flags = flags_in(help_of(capsys, *words))
    for option in options_of(options):
        assert flags.count(f"--{option.key.replace('_', '-')}") == 1, option.key


def all_options():
    for name in RECIPES.names():
        yield f"recipe {name}", next(iter(RECIPES.get(name).presets().values())).method
    for registry in (PROTOCOLS, EXPORTERS):
        yield from ((f"{registry.kind} {name}", registry.get(name)()) for name in registry.names())
    yield from ((f"study {name}", STUDIES.get(name).Options()) for name in STUDIES.names())
    yield "run", RunConfig()


def test_every_option_has_its_sentence():
    silent = [
        f"{where}: {option.key}"
        for where, options in all_options()
        for option in options_of(options)
        if not option.sentence
    ]
    assert not silent


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 2
    """Blocks."""


@dataclass(frozen=True, kw_only=True)
class Toy:
    size: tuple[int, int] = (2, 3)
    """Pixels, 100 % of them."""
    kind: Literal["a", "b"] = "a"
    """Which."""
    fast_mode: bool = False
    """Less work."""
    rate: float | None = None
    """Per second."""
    inner: Inner = field(default_factory=Inner)
    """More."""
    device: str = "mine"
    """Taken already."""


def toy_parser(**settings) -> Parser:
    parser = Parser(prog="toy")
    parser.add_argument("--device", default="auto", help="where")
    add_set(parser, "any option")
    add_options(parser, Toy(), title="options", **settings)
    return parser


def test_flags_and_set_are_the_same_assignments():
    words = ["--size", "4x5", "--kind", "b", "--fast-mode", "--rate", "1e-3", "--inner.depth", "7"]
    by_flags = override(Toy(), toy_parser().parse_args(words).settings)
    words = ["--set", "size=[4, 5]", "kind=b", "fast_mode=true", "--set", "rate=0.001", "inner.depth=7"]
    assert by_flags == override(Toy(), toy_parser().parse_args(words).settings)
    assert by_flags == Toy(size=(4, 5), kind="b", fast_mode=True, rate=1e-3, inner=Inner(depth=7))
    later = toy_parser().parse_args(["--fast-mode", "--set", "rate=1", "--rate", "2", "--no-fast-mode"]).settings
    assert override(Toy(), later) == Toy(rate=2.0)
    assert override(Toy(), toy_parser(flat=True).parse_args(["--depth", "5"]).settings).inner.depth == 5
    assert toy_parser().parse_args([]).settings == []


def test_the_help_of_an_option():
    text = " ".join(toy_parser().format_help().split())
    assert "--size HxW Pixels, 100 % of them. (rows x columns; default 2x3)" in text
    assert "--kind a|b Which. (one of these; default a)" in text
    assert "--fast-mode, --no-fast-mode Less work. (yes or no; default no)" in text
    assert "--rate X Per second. (float; default none)" in text
    assert "--device DEVICE where" in text
    assert "--set device=…: Taken already. (text; default mine)" in text  # the flag is the parser's own


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "4"], "--size is '4'; write rows x columns"),
        (["--kind", "c"], "--kind is 'c'; it must be one of a, b"),
        (["--rate", "fast"], "--rate is 'fast'; it must be of type float"),
        (["--inner.depth", "2.5"], "--inner.depth is 2.5"),
        (["--ratio", "1"], "no option --ratio here; did you mean --rate?"),
    ],
)
def test_mistakes_name_the_flag(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        toy_parser().parse_args(words)


def test_the_word_that_chooses():
    parser, names = Parser(), ["mum", "pairs"]
    parser.add_argument("--init")
    parser.add_argument("--list", action="store_true")
    assert named(parser, ["mum", "--init", "pairs"], lambda: names) == "mum"
    assert named(parser, ["--init", "mum", "pairs"], lambda: names) == "pairs"
    assert named(parser, ["--list", "mum"], lambda: names) == "mum"
    assert named(parser, ["mun"], lambda: names) == "mun"  # so that its registry can guess
    assert named(parser, ["--list"], lambda: pytest.fail("names are not needed")) is None
    assert value_of(["--to", "ply", "--to=glb"], "--to") == "glb"
    assert value_of(["x"], "--to") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "mum", "--run.lrr", "1"], "did you mean --run.lr?"),
        (["train", "mun", "--run.lr", "1"], "no recipe 'mun'; did you mean 'mum'?"),
        (["train", "mum", "--preset", "tiyn"], "no preset 'tiyn'; did you mean 'tiny'?"),
        (["eval", "recon-per-view", "--vews", "2"], "did you mean --views?"),
        (["export", "s", "--to", "plly", "-o", "x"], "no export format 'plly'; did you mean 'ply'?"),
        (["export", "s", "--to", "ply", "--depth", "-o", "x"], "there is no option --depth here"),
        (["data", "scan", "x", "--format", "co3", "-o", "m"], "no source format 'co3'; did you mean 'co3d'?"),
        (["models", "--jsn"], "did you mean --json?"),
        (["reconstruct"], "required: IMAGES, -o/--out"),
    ],
)
def test_mistakes_are_one_line(capsys, words, message):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(f"manyview {words[0]}: ")
    assert error.count("\n") == 1


def test_json_goes_to_stdout_or_beside_the_sentences(capsys, tmp_path):
    file = tmp_path / "list.json"
    assert main(["models", "--json", "manyview-tiny"]) == 0  # a word that is no .json file is not taken for one
    card = json.loads(capsys.readouterr().out)
    assert main(["models", "manyview-tiny", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "licence" in printed
    assert f"wrote {file}" in printed
    assert json.loads(file.read_text()) == card
    assert main(["models", "manyview-tiny", f"--json={file}"]) == 0  # its own file is replaced


@pytest.mark.parametrize("content", ["years of work", "[1, 2]", '{"name": "my-package", "version": 3}'])
def test_json_never_replaces_another_file(capsys, tmp_path, content):
    file = tmp_path / "package.json"
    file.write_text(content)
    assert main(["models", "manyview-tiny", "--json", str(file)]) == 2
    assert "was not written by this program, or was changed since" in capsys.readouterr().err
    assert file.read_text() == content
    assert main(["models", "manyview-tiny", "--json", str(file), "--overwrite"]) == 0
    assert "manyview-tiny" in json.loads(file.read_text())


def test_json_of_a_list_replaces_its_own_file(tmp_path):
    file = tmp_path / "steps.json"
    args = Namespace(json=str(file), overwrite=False)
    for seconds in (1, 2):
        give(Answer(values=[{"shape": "a", "seconds": seconds}]), args)
    assert json.loads(file.read_text())[0]["seconds"] == 2
    file.write_text("[]")
    with pytest.raises(UserError, match="was changed since"):
        give(Answer(values={"other": 1}), args)


def test_sentences_of_inherited_options_are_found():
    for name in PROTOCOLS.names():
        assert sentences_of(PROTOCOLS.get(name))
