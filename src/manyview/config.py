"""Configuration is frozen dataclasses: to and from plain dictionaries, and dotted `key=value` overrides."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml

from manyview.errors import UserError
from manyview.registry import did_you_mean

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a run is optimised: everything the engine needs and nothing a recipe knows."""

    steps: int = 1000
    """Optimiser steps of the whole run; the schedule is counted in these."""
    batch: int = 1
    """Scenes per device and forward pass."""
    accumulate: int = 1
    """Forward passes per optimiser step."""
    lr: float = 1e-4
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the last step (cosine)."""
    warmup: float = 0.05
    """Linear warm-up: a share of the run when below 1, else a number of steps."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    decay_vectors: bool = True
    """Whether weight decay also falls on biases, norms and other one-dimensional parameters."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW betas."""
    eps: float = 1e-8
    """AdamW epsilon."""
    clip: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    clip_each: bool = False
    """Clip every tensor's own norm instead of the global one (DINO, DUNE)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast: auto is bf16 on a GPU and fp32 elsewhere."""
    shard: bool = False
    """Split the transformer blocks' weights, gradients and AdamW moments over the ranks (FSDP2): for models whose
    optimiser state does not fit one GPU. Every rank must then run the same blocks in the same order."""
    seed: int = 0
    """One seed, the same bits on the same machine."""
    checkpoint_every: int = 200
    """Optimiser steps between checkpoints: at most this much work is lost by an interruption."""
    log_every: int = 10
    """Optimiser steps between lines of metrics.jsonl."""
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
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"unknown option {where}{unknown[0]!r}; {did_you_mean(unknown[0], hints)}")
    return cls(**{key: _coerce(value, hints[key], f"{where}{key}") for key, value in values.items()})


def override(config: C, assignments: Sequence[str]) -> C:
    """A new dataclass with `key=value` (dotted for nested ones) applied. Raises UserError when one does not fit."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set takes key=value, got {assignment!r}")
        config = _assign(config, key.strip().split("."), text, key.strip())
    return config


def _assign(config: Any, path: list[str], text: str, name: str) -> Any:
    hints = typing.get_type_hints(type(config))
    head, rest = path[0], path[1:]
    if head not in hints:
        raise UserError(f"unknown option {name!r}; {did_you_mean(head, hints)}")
    if rest:
        if not dataclasses.is_dataclass(getattr(config, head)):
            raise UserError(f"option {name!r}: {head!r} has no parts")
        return dataclasses.replace(config, **{head: _assign(getattr(config, head), rest, text, name)})
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"option {name!r}: cannot read {text!r}") from error
    return dataclasses.replace(config, **{head: _coerce(value, hints[head], name)})


def _coerce(value: Any, hint: Any, name: str) -> Any:
    """Turn a YAML or JSON value into the annotated type, or say what is wrong with it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        inner = [a for a in arguments if a is not type(None)]
        for candidate in inner:
            try:
                return _coerce(value, candidate, name)
            except UserError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
        raise UserError(f"option {name!r} is {value!r}; it must be one of {', '.join(map(str, arguments))}")
    elif origin is tuple and isinstance(value, (list, tuple)):
        item = arguments[0] if arguments[-1] is Ellipsis else None
        if item is not None or len(value) == len(arguments):
            kinds = [item] * len(value) if item is not None else arguments
            return tuple(_coerce(v, kind, name) for v, kind in zip(value, kinds, strict=True))
    elif dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast(type, hint), value, f"{name}.")
    elif hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            pass
    elif (
        isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    ) or (origin in (dict, list) and isinstance(value, origin)):
        return value
    kind = getattr(hint, "__name__", str(hint))
    raise UserError(f"option {name!r} is {value!r}; it must be of type {kind}")
