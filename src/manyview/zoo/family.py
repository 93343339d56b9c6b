"""A family of networks of the zoo: its class, configuration, presets, and how its published files are read.

Each family is one file under `families`, which ends in `FAMILIES.add(...)`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from manyview.config import from_dict, to_dict
from manyview.errors import UserError
from manyview.registry import Registry, did_you_mean
from manyview.zoo.keymaps import KeyMap

State = Mapping[str, Tensor]


def says_nothing(about: Mapping[str, Any], preset: Any) -> dict[str, Any]:
    """For containers that hold nothing but weights."""
    return {}


def as_it_is(state: State) -> State:
    """For files whose weights have our shapes and the key map's names."""
    return state


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a family's file registers. `config` is its own type: it tells which family a network belongs to."""

    model: Callable[[Any], nn.Module]
    """Configuration -> freshly initialised network, which keeps it as `.config`."""
    config: type
    """Type of the configuration: a frozen dataclass."""
    presets: Mapping[str, Callable[[], Any]]
    """Zoo name -> configuration."""
    keymap: KeyMap
    """Names of weights in the published files and here."""
    debug: Callable[[Any], Any]
    """A configuration -> the same layout with a few thousand parameters."""
    sizes: Callable[[State, Any], dict[str, Any]]
    """Our state and a preset -> the configuration fields that shapes decide."""
    says: Callable[[Mapping[str, Any], Any], dict[str, Any]] = says_nothing
    """What a container holds beside weights, and a preset -> the fields it states."""
    prefixes: tuple[str, ...] = ()
    """Prefixes that a container puts before the official names."""
    adapt: Callable[[State], State] = as_it_is
    """A file's weights to the names that the key map knows, in our shapes."""
    restore: Callable[[State], State] = as_it_is
    """Official names in our shapes to the shapes of the official file."""


FAMILIES: Registry[Family] = Registry(
    "model family", package="manyview.zoo.families", group="manyview.models", instance_of=Family
)


def presets() -> dict[str, tuple[str, Callable[[], Any]]]:
    """Zoo name -> (family, preset)."""
    return {
        name: (family, make)
        for family in FAMILIES.names()
        for name, make in FAMILIES.get(family).presets.items()
    }


def lookup(name: str) -> tuple[Family, Any]:
    """Family and preset configuration of a zoo name. Raises UserError for an unknown one."""
    known = presets()
    if name not in known:
        raise UserError(f"no model {name!r}; {did_you_mean(name, known)}")
    family, make = known[name]
    return FAMILIES.get(family), make()


def family_of(model: nn.Module) -> str:
    """Name of the family that a network belongs to. Raises TypeError for a network of another kind."""
    for family in FAMILIES.names():
        if type(getattr(model, "config", None)) is FAMILIES.get(family).config:
            return family
    raise TypeError(f"{type(model).__name__} is no model of the zoo")


def with_overrides(config: Any, overrides: Mapping[str, Any]) -> Any:
    """The configuration with fields replaced. Raises TypeError for an unknown field."""
    known = [field.name for field in dataclasses.fields(config)]
    for name in overrides:
        if name not in known:
            raise TypeError(f"unknown option {name!r}; {did_you_mean(name, known)}")
    return from_dict(type(config), {**to_dict(config), **overrides})


def count(state: State, pattern: str) -> int:
    """How many different numbers the first group of a pattern takes among the names."""
    return len({found[1] for key in state if (found := re.match(pattern, key))})


def encoder_sizes(state: State, preset: Any, prefix: str = "encoder.") -> dict[str, Any]:
    """Configuration fields of an Encoder from its weights. Heads are the preset's, or as wide as 64 channels."""
    dim, patch = state[f"{prefix}patch_embed.proj.weight"].shape[0::3]
    table, registers = state.get(f"{prefix}pos_embed"), state.get(f"{prefix}register_tokens")
    cls_token = f"{prefix}cls_token" in state
    side = 0 if table is None else round((table.shape[1] - cls_token) ** 0.5)
    return {
        "dim": dim,
        "depth": count(state, rf"{re.escape(prefix)}blocks\.(\d+)\."),
        "heads": preset.heads if dim == preset.dim else max(1, dim // 64),
        "patch_size": patch,
        "cls_token": cls_token,
        "registers": 0 if registers is None else registers.shape[1],
        "positions": side,
        "layer_scale": preset.layer_scale if f"{prefix}blocks.0.ls1.gamma" in state else None,
    }


def decoder_heads(dim: int, preset: Any) -> int:
    """The preset's heads for the preset's width, else one per 64 channels."""
    return preset.decoder_heads if dim == preset.decoder_dim else max(1, dim // 64)
