"""Which network, configuration, names and container belong to each zoo name, and how a file's shapes tell the
sizes.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from manyview.config import from_dict, to_dict
from manyview.errors import UserError
from manyview.models import dune, reconstructor
from manyview.models.dune import Dune, DuneConfig
from manyview.models.reconstructor import Reconstructor, ReconstructorConfig
from manyview.registry import did_you_mean
from manyview.zoo import keymaps
from manyview.zoo.keymaps import KeyMap

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """A family of networks: its class, its configuration, the names of its weights in the published files."""

    model: Callable[[Any], nn.Module]
    config: type
    keymap: KeyMap
    debug: Callable[[Any], Any]
    sizes: Callable[[State, Any], dict[str, Any]]
    """Our state and a preset -> the configuration fields that the shapes decide."""
    prefixes: tuple[str, ...] = ()
    """Prefixes that a container puts before the official names."""


def _count(state: State, pattern: str) -> int:
    """How many different numbers the first group of a pattern takes among the names."""
    return len({found[1] for key in state if (found := re.match(pattern, key))})


def _encoder_sizes(state: State, preset: Any) -> dict[str, Any]:
    table = state["encoder.pos_embed"]
    registers = state.get("encoder.register_tokens")
    dim = table.shape[-1]
    return {
        "dim": dim,
        "depth": _count(state, r"encoder\.blocks\.(\d+)\."),
        "heads": preset.heads if dim == preset.dim else max(1, dim // 64),
        "patch_size": state["encoder.patch_embed.proj.weight"].shape[-1],
        "registers": 0 if registers is None else registers.shape[1],
        "positions": math.isqrt(table.shape[1] - 1),
        "layer_scale": preset.layer_scale if "encoder.blocks.0.ls1.gamma" in state else None,
    }


def _reconstructor_sizes(state: State, preset: ReconstructorConfig) -> dict[str, Any]:
    dim = state["fusion.embed.weight"].shape[0]
    depth = _count(state, r"fusion\.blocks\.(\d+)\.")
    return {
        **_encoder_sizes(state, preset),
        "decoder_dim": dim,
        "decoder_depth": depth,
        "decoder_heads": preset.decoder_heads if dim == preset.decoder_dim else max(1, dim // 64),
        "taps": preset.taps if depth == preset.decoder_depth else (0, depth // 2, depth * 3 // 4, depth),
        "head_layer_dims": tuple(state[f"head.dpt.project.{level}.weight"].shape[0] for level in range(4)),
        "head_dim": state["head.dpt.narrow.weight"].shape[1],
        "head_last_dim": state["head.dpt.narrow.weight"].shape[0],
        "head_spare_unit": "head.dpt.merge.3.skip.conv1.weight" in state,
    }


def _dune_sizes(state: State, preset: DuneConfig) -> dict[str, Any]:
    teachers = tuple(name for name in keymaps.DUNE_TEACHERS if f"projectors.{name}.linear.weight" in state)
    sizes = {**_encoder_sizes(state, preset), "teachers": teachers}
    if teachers:
        sizes["teacher_dim"] = state[f"projectors.{teachers[0]}.linear.weight"].shape[0]
    return sizes


ARCHITECTURES = {
    "reconstructor": Architecture(
        Reconstructor,
        ReconstructorConfig,
        keymaps.DISTILL3R,
        reconstructor.debug,
        _reconstructor_sizes,
        prefixes=("student.",),
    ),
    "dune": Architecture(Dune, DuneConfig, keymaps.DUNE, dune.debug, _dune_sizes),
}

# name -> (architecture, preset)
NAMES: dict[str, tuple[str, Callable[[], Any]]] = {
    "manyview-tiny": ("reconstructor", reconstructor.tiny),
    "distill3r": ("reconstructor", reconstructor.distill3r),
    "dune-vits14-336": ("dune", partial(dune.dune, "s", 336)),
    "dune-vits14-448": ("dune", partial(dune.dune, "s", 448)),
    "dune-vitb14-336": ("dune", partial(dune.dune, "b", 336)),
    "dune-vitb14-448": ("dune", partial(dune.dune, "b", 448)),
    "dune-vitb14-448-paper": ("dune", partial(dune.dune, "b", 448)),
}


def lookup(name: str) -> tuple[Architecture, Any]:
    """Architecture and preset configuration of a zoo name. Raises UserError for an unknown one."""
    if name not in NAMES:
        raise UserError(f"no model {name!r}; {did_you_mean(name, NAMES)}")
    family, preset = NAMES[name]
    return ARCHITECTURES[family], preset()


def family_of(model: nn.Module) -> str:
    """Key of ARCHITECTURES that a network belongs to."""
    for family, architecture in ARCHITECTURES.items():
        if type(getattr(model, "config", None)) is architecture.config:
            return family
    raise TypeError(f"{type(model).__name__} is no model of the zoo")


def with_overrides(config: Any, overrides: Mapping[str, Any]) -> Any:
    """The configuration with fields replaced. Raises TypeError for an unknown field."""
    known = [field.name for field in dataclasses.fields(config)]
    for name in overrides:
        if name not in known:
            raise TypeError(f"unknown option {name!r}; {did_you_mean(name, known)}")
    return from_dict(type(config), {**to_dict(config), **overrides})
