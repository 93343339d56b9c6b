"""Flags and help made of option dataclasses: one flag per field, with its type, its default and its sentence.

A flag `--run.lr 1e-4` is the assignment `run.lr=1e-4`, as `--set` takes it; both end in `args.settings`, in the order
they were given, for `manyview.config.override`.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import math
import shutil
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from manyview.config import Range, convert, hints_of, range_of, sentences_of
from manyview.errors import UserError

_PLACES = ("images", "photos", "source", "model", "init")
"""Arguments that name a file, a folder or something else, as text."""
PLAIN = {int: ("N", "int"), float: ("X", "float"), str: ("TEXT", "text"), bool: ("B", "yes or no")}
"""Type -> the placeholder of a value, and what the help calls it."""


def number(kind: Callable[[str], Any], *, least: float, most: float = math.inf) -> Callable[[str], Any]:
    """The `type` of an argument that takes finite numbers of a range."""

    def read(text: str) -> Any:
        value = kind(text)
        if problem := Range(least, most).problem(value):
            raise argparse.ArgumentTypeError(problem)
        return value

    read.__name__ = kind.__name__  # what argparse calls it when the text is no number
    return read


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written, and a usage line of what must be given only."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size((112, 24)).columns - 2, 112)
        super().__init__(prog, max_help_position=28, width=width)

    def add_usage(self, usage: Any, actions: Iterable[Any], groups: Any, prefix: Any = None) -> None:
        needed = [action for action in actions if action.required or not action.option_strings]
        super().add_usage(usage, needed, [], prefix)

    def _format_usage(self, *words: Any) -> str:
        return f"{super()._format_usage(*words).rstrip()} [options]\n\n"


class Parser(argparse.ArgumentParser):
    """Mistakes are UserErrors: one line, with the nearest flag for one that does not exist."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": Formatter, **settings})

    def add_subparsers(self, **settings: Any) -> Any:
        return super().add_subparsers(**{"prog": self.prog, **settings})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if arg_string == "" and (action.type is Path or action.dest in _PLACES):
            raise argparse.ArgumentError(action, "it is empty (a variable that is not set?); name a file or a folder")
        return super()._get_value(action, arg_string)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        namespace, rest = super().parse_known_args(args, namespace)
        for word in rest:
            if word.startswith("-"):
                flag = word.partition("=")[0]
                close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
                guess = f"did you mean {close[0]}? " if close else ""
                raise UserError(f"there is no option {flag} here; {guess}see {self.prog} --help")
        return namespace, rest


@dataclass(frozen=True)
class Option:
    """One field of an options dataclass, or of one inside it."""

    key: str
    """Dotted name, as `--set` takes it."""
    hint: Any
    default: Any
    sentence: str
    range: Range


def options_of(defaults: Any, prefix: str = "") -> Iterator[Option]:
    """All options below an instance of a dataclass, in the order in which they are written."""
    sentences = sentences_of(type(defaults))
    for name, hint in hints_of(type(defaults)).items():
        value = getattr(defaults, name)
        if dataclasses.is_dataclass(value):
            yield from options_of(value, f"{prefix}{name}.")
        else:
            yield Option(f"{prefix}{name}", hint, value, sentences.get(name, ""), range_of(type(defaults), name))


class _Assign(argparse.Action):
    """Checks a value and appends `key=value` to the settings."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, option: Option, **settings: Any) -> None:
        super().__init__(option_strings, dest, **{**settings, "default": argparse.SUPPRESS})
        self.option = option

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        text = values if self.nargs is None else str(option_string == self.option_strings[0]).lower()
        if problem := self.option.range.problem(convert(text, self.option.hint, str(option_string))):
            raise UserError(f"{option_string} {problem}")
        namespace.settings = [*namespace.settings, f"{self.option.key}={text}"]


def add_options(
    parser: argparse.ArgumentParser,
    defaults: Any,
    *,
    title: str | None = None,
    about: str | None = None,
    prefix: str = "",
    flat: bool = False,
    skip: Iterable[str] = (),
) -> None:
    """A flag for every option below `defaults`, an instance of a dataclass.

    title, about: of the group that the help shows them in. prefix: what stands before every key. flat: flags of nested
    options leave their group out (`--fps` for take.fps). skip: keys that get no flag here. A flag that the parser has
    already stays as it is: such an option is named in the group and set with --set.
    """
    group = parser.add_argument_group(title, about) if title else parser
    parser.set_defaults(settings=[])
    for option in options_of(defaults, prefix):
        if option.key in skip:
            continue
        name = (option.key.rpartition(".")[2] if flat else option.key).replace("_", "-")
        if f"--{name}" in parser._option_string_actions:
            note = f"--set {option.key}=…: {_help(option)}"
            group.description = f"{group.description}\n{note}" if group.description else note
        else:
            text: dict[str, Any] = {"dest": "settings", "option": option, "help": _help(option)}
            if option.hint is bool:
                group.add_argument(f"--{name}", f"--no-{name}", action=_Assign, nargs=0, **text)
            else:
                group.add_argument(f"--{name}", action=_Assign, metavar=_naming(option.hint)[0], **text)


def _help(option: Option) -> str:
    kind = _naming(option.hint)[1]
    text = f"{option.sentence} ({kind}; default {shown(option.default)})".strip()
    return text.replace("%", "%%")


def _naming(hint: Any) -> tuple[str, str]:
    """The placeholder of a value of this type, and the type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        return PLAIN[hint]
    if hint == tuple[int, int]:
        return "HxW", "rows x columns"
    if origin is Literal:
        return "|".join(map(str, arguments)), "one of these"
    if origin in (types.UnionType, typing.Union):
        parts = [_naming(argument) for argument in arguments if argument is not type(None)]
        return "|".join(part[0] for part in parts), " or ".join(part[1] for part in parts)
    if origin in (tuple, list):
        return "[A,B]", "list"
    if origin is dict:
        return "{A: X}", "table"
    name = getattr(hint, "__name__", str(hint))
    return name.upper(), name.lower()  # PATH, path


def shown(value: Any) -> str:
    """A default as one would type it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        whole = len(value) == 2 and all(type(item) is int for item in value)
        return f"{value[0]}x{value[1]}" if whole else f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(inner)}" for key, inner in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"


def imported(place: str) -> Any:
    """What "package.module:NAME" names; its module is imported only now."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def named(parser: Any, words: Sequence[str], names: Callable[[], Iterable[str]]) -> str | None:
    """What `words` choose: the first one, when it is no flag, else the first of the `names` that no flag stands before.

    None when nothing is chosen. `names` is only asked when it is needed.
    """
    if words and not words[0].startswith("-"):
        return words[0]
    values = {flag for flag, action in parser._option_string_actions.items() if action.nargs != 0}
    free = [word for before, word in pairwise(words) if not word.startswith("-") and before not in values]
    choices = set(names()) if free else set()
    return next((word for word in free if word in choices), None)


def value_of(words: Sequence[str], flag: str) -> str | None:
    """What `words` give to a flag, as `--flag VALUE` or `--flag=VALUE`; the last one counts."""
    given = [word for before, word in pairwise(words) if before == flag]
    given += [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
    return given[-1] if given else None


def add_set(parser: argparse.ArgumentParser, text: str, **settings: Any) -> None:
    """`--set key=value …`, into `args.settings`."""
    parser.set_defaults(settings=[])
    how = {"nargs": "+", "action": "extend", **settings}
    parser.add_argument("--set", dest="settings", metavar="KEY=VALUE", help=text, **how)


def add_device(parser: argparse.ArgumentParser) -> None:
    text = "auto, cpu, cuda, cuda:N or mps (default auto)"
    parser.add_argument("--device", default="auto", metavar="D", help=text)
