"""Configuration is frozen dataclasses with a sentence under each field.

They come from and go to plain dictionaries, take dotted `key=value` assignments, and say what each option means: the
command line makes its flags and help of that.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import re
import textwrap
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml

from manyview.errors import UserError
from manyview.registry import did_you_mean

C = TypeVar("C")
LARGEST = 1e15
"""What no count, size or seed is above."""


@dataclass(frozen=True)
class Range:
    """The numbers that an option takes, all finite; `above` and `below`: without the least, without the most."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or with the numbers in it, or None."""
        if isinstance(value, dict):
            return self.problem(list(value.values()))
        if isinstance(value, (list, tuple)):
            return next((problem for inner in value if (problem := self.problem(inner))), None)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        ends = (self.above and value == self.least) or (self.below and value == self.most)
        within = self.least <= value <= self.most and not ends
        if within and (math.isfinite(value) if isinstance(value, float) else abs(value) <= LARGEST):
            return None
        low = f"above {self.least:g}" if self.above else f"from {self.least:g}"
        high = f" and below {self.most:g}" if self.below else f" to {self.most:g}"
        if math.isinf(self.most):
            high = "" if self.above else " up"
        wanted = "that is finite" if math.isinf(self.least) else f"{low}{high}"
        return f"{value} is out of range: give a number {wanted}"


Positive = Annotated[float, Range(0, above=True)]
"""A number that is divided by, or that nothing happens without."""
Share = Annotated[float, Range(0, 1)]
Moment = Annotated[float, Range(0, 1, below=True)]
"""How much of a running mean stays at every step."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a run is optimised: everything the engine needs and nothing a recipe knows."""

    steps: int = 1000
    """Optimiser steps of the whole run; the schedule is counted in these."""
    seconds: Positive | None = None
    """Seconds of the whole run, interruptions not counted, in place of steps: the schedule follows the clock, so that
    the rates of two runs are not the same bits (their batches are)."""
    batch: int = 1
    """Scenes per device and forward pass."""
    accumulate: int = 1
    """Forward passes per optimiser step."""
    images: int | None = None
    """Images of the whole run, over all ranks, in place of steps: fewer GPUs take more steps."""
    lr: Positive = 1e-4
    """Peak learning rate; with lr_per the rate for so many images."""
    lr_per: int | None = None
    """Images of an optimiser step, over all ranks and accumulation, that lr is for: the peak is lr x images / lr_per.
    none: the peak is lr, whatever the step holds."""
    min_lr: float = 0.0
    """Learning rate at the last step (cosine)."""
    warmup: float = 0.05
    """Linear warm-up: a share of the run when below 1, else a number of steps."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    decay_vectors: bool = True
    """Whether weight decay also falls on biases, norms and other one-dimensional parameters."""
    betas: tuple[Moment, Moment] = (0.9, 0.95)
    """AdamW betas."""
    eps: Positive = 1e-8
    """AdamW epsilon."""
    clip: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    clip_each: bool = False
    """Clip every tensor's own norm instead of the global one (DINO, DUNE)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast: auto is bf16 on a GPU or CPU that computes it natively, and fp32 elsewhere."""
    compile: bool = False
    """Compile the transformer blocks (the first steps take a minute; on a CPU it needs a C++ compiler)."""
    shard: bool = False
    """Split the transformer blocks' weights, gradients and AdamW moments over the ranks (FSDP2): for models whose
    optimiser state does not fit one GPU. Every rank must then run the same blocks in the same order."""
    seed: int = 0
    """One seed, the same bits on the same machine."""
    checkpoint_every: int = 200
    """Optimiser steps between checkpoints: at most this much work is lost by an interruption."""
    log_every: int = 10
    """Optimiser steps between lines of metrics.jsonl."""
    judge_every: int = 0
    """Optimiser steps between judgements, where a run has any (--validate, --probe); 0: ten over the whole run."""
    workers: int | None = None
    """Processes that load the data; none: up to eight beside a GPU, 0 (in the training process) beside a CPU."""
    keep: int = 2
    """Checkpoints kept; older ones are deleted."""


def to_dict(config: Any) -> Any:
    """A dataclass (nested, with tuples) as plain JSON-able values."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    return config


def from_dict(cls: type[C], values: dict[str, Any], where: str = "") -> C:
    """Build a dataclass from a dictionary. Raises UserError for an unknown key or a value of the wrong type."""
    hints = hints_of(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"unknown option {where}{unknown[0]!r}; {did_you_mean(unknown[0], hints)}")
    return cls(**{key: _coerce(value, hints[key], f"{where}{key}") for key, value in values.items()})


def override(config: C, assignments: Sequence[str]) -> C:
    """A new dataclass with `key=value` (dotted for nested ones) applied. Raises UserError when one does not fit."""
    for assignment in assignments:
        key, text = split_assignment(assignment)
        config = _assign(config, key.replace("-", "_").split("."), text, key)
    return config


def split_assignment(assignment: str, name: str = "--set") -> tuple[str, str]:
    """The key and the text of `key=value`. Raises UserError without an equals sign or a key."""
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{name} takes key=value, got {assignment!r}")
    return key.strip(), text


def read_assignments(assignments: Sequence[str], name: str) -> dict[str, Any]:
    """Texts `key=value` of the option `name` as a dictionary. Raises UserError for one that cannot be read."""
    pairs = (split_assignment(assignment, name) for assignment in assignments)
    return {key: read_value(text, f"{name} {key}") for key, text in pairs}


def read_value(text: str, name: str) -> Any:
    """What `text` says as YAML: a number, true, null, [a, b], …. Raises UserError for what cannot be read."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{_label(name)}: cannot read {text!r}") from error


def parse_size(text: str, name: str) -> tuple[int, int]:
    """Rows and columns of "224x518". Raises UserError that names the option for anything else."""
    match = re.fullmatch(r"([0-9]+)[xX]([0-9]+)", text)
    if match is None:
        raise UserError(f"{name} is {text!r}; write rows x columns, for example 224x518")
    return int(match[1]), int(match[2])


def hints_of(cls: type) -> dict[str, Any]:
    """The fields of a dataclass with their types, in order."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(typing.cast(Any, cls)) if field.init}


_SENTENCES: dict[type, dict[str, str]] = {}


def sentences_of(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass and its bases, each as one line; fields without one are absent."""
    if cls in _SENTENCES:
        return _SENTENCES[cls]
    sentences = _SENTENCES.setdefault(cls, {})
    for base in reversed(cls.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            continue  # no source at hand
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, below in itertools.pairwise(body):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant):
                sentences[ast.unparse(field.target)] = " ".join(str(text.value).split())
    return sentences


def _assign(config: Any, path: list[str], text: str, name: str) -> Any:
    hints = hints_of(type(config))
    head, rest = path[0], path[1:]
    if head not in hints:
        raise UserError(f"unknown option {name!r}; {did_you_mean(head, hints)}")
    if rest:
        if not dataclasses.is_dataclass(getattr(config, head)):
            raise UserError(f"option {name!r}: {head!r} has no parts")
        return dataclasses.replace(config, **{head: _assign(getattr(config, head), rest, text, name)})
    value, before = convert(text, hints[head], name), getattr(config, head)
    if dataclasses.is_dataclass(before) and not dataclasses.is_dataclass(value):
        parts = ", ".join(f"{name}.{part}" for part in list(hints_of(type(before)))[:4])
        raise UserError(f"option {name!r} has parts; give one of them: {parts} …")
    if problem := range_of(type(config), head).problem(value):
        raise UserError(f"{_label(name)} {problem}")
    return dataclasses.replace(config, **{head: value})


def range_of(cls: type, name: str) -> Range:
    """The numbers that the field of a dataclass takes.

    What its annotation says (`Positive`, `Share`), else what its default and its sentence say: nothing below zero,
    unless the default is; counts from one up, unless the sentence says what 0 means; shares and probabilities up to 1.
    """
    hint = typing.get_type_hints(cls, include_extras=True)[name]
    if (stated := _stated_range(hint)) is not None:
        return stated
    default = next(field.default for field in dataclasses.fields(cls) if field.name == name)  # type: ignore[arg-type]
    parts = default if isinstance(default, tuple) else (default,)
    numbers = [part for part in parts if isinstance(part, (int, float)) and not isinstance(part, bool)]
    if min(numbers, default=0) < 0 or (str in get_args(hint) and get_origin(hint) is not dict):
        return Range()
    sentence = sentences_of(cls).get(name, "")
    if sentence.startswith(("Share", "Probability")):
        return Range(0, 1)
    counts = {int, float} & _kinds(hint) == {int} and all(isinstance(number, int) and number > 0 for number in numbers)
    return Range(1 if counts and name != "seed" and not _SAYS_ZERO.search(sentence) else 0)


_SAYS_ZERO = re.compile(r"(?<![\d.,])0(?![\d.,]\d|\d)")


def _kinds(hint: Any) -> set[Any]:
    """The types that an annotation is made of."""
    inner = get_args(hint)
    return set().union(*map(_kinds, inner)) if inner else {hint}


def _stated_range(hint: Any) -> Range | None:
    if get_origin(hint) is Annotated:
        return next((note for note in hint.__metadata__ if isinstance(note, Range)), None)
    return next((found for inner in get_args(hint) if (found := _stated_range(inner))), None)


def convert(text: str, hint: Any, name: str) -> Any:
    """The value of an annotated type that `text` says; "none" is null. Raises UserError that names the option."""
    if text == "none" and type(None) in get_args(hint):
        return None
    if not _accepts_text(hint):
        return _coerce(read_value(text, name), hint, name)
    nothing = hint is not str and text.strip().lower() in ("", "null", "~")
    return _coerce(None if nothing else text, hint, name)  # what looks like a number, or like no YAML, stays a name


def _accepts_text(hint: Any) -> bool:
    """Whether text is all that an option takes, beside null."""
    return hint in (str, Path) or set(get_args(hint)) in ({str, type(None)}, {Path, type(None)})


def _coerce(value: Any, hint: Any, name: str) -> Any:
    """Turn a YAML or JSON value into the annotated type, or say what is wrong with it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        for candidate in (argument for argument in arguments if argument is not type(None)):
            try:
                return _coerce(value, candidate, name)
            except UserError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
        raise UserError(f"{_label(name)} is {value!r}; it must be one of {', '.join(map(str, arguments))}")
    elif origin is tuple and isinstance(value, (list, tuple)):
        item = arguments[0] if arguments[-1] is Ellipsis else None
        if item is not None or len(value) == len(arguments):
            kinds = [item] * len(value) if item is not None else arguments
            return tuple(_coerce(v, kind, name) for v, kind in zip(value, kinds, strict=True))
    elif hint == tuple[int, int] and isinstance(value, (str, int)):
        return parse_size(str(value), _label(name))
    elif origin is dict and isinstance(value, dict):
        kinds = (f"a name of {name}", f"{name} of")
        return {
            _coerce(k, arguments[0], kinds[0]): _coerce(v, arguments[1], f"{kinds[1]} {k!r}") for k, v in value.items()
        }
    elif dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast(type, hint), value, f"{name}.")
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            pass
    elif (isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool))) or (
        origin in (dict, list) and isinstance(value, origin)
    ):
        return value
    kind = getattr(hint, "__name__", str(hint))
    raise UserError(f"{_label(name)} is {value!r}; it must be of type {kind}")


def _label(name: str) -> str:
    """A flag as it is typed, any other option in quotes."""
    return name if name.startswith("-") else f"option {name!r}"
