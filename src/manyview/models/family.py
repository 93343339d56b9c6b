"""A family of networks: its class, configuration, presets and card, and how its published files are read.

Each family is a folder here: `network.py`, `card.toml`, and an `__init__.py` that ends in `FAMILIES.add(...)`. Other
packages bring theirs through the entry-point group `manyview.models`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from manyview.config import from_dict, to_dict
from manyview.errors import UserError
from manyview.models.keymaps import KeyMap
from manyview.models.model import EncodesImages, Model, Reconstructs, Role, abilities
from manyview.registry import Registry, did_you_mean

State = Mapping[str, Tensor]
C = TypeVar("C")
R = TypeVar("R", bound=Role)
MOST_NAMES = 12
"""Zoo names that an error message lists."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a family registers. Fields of the encoder inside a configuration may be named without `encoder.`."""

    network: type[Model]
    """The class of the network; its roles are what the family's names can do."""
    config: Callable[[], Any]
    """The configuration with its defaults: a frozen dataclass, maybe with an `encoder` inside."""
    presets: Mapping[str, Callable[[], Any]]
    """Zoo name -> configuration."""
    keymap: KeyMap
    """Names of weights in the published files and here."""
    debug: Callable[[Any], Any]
    """A configuration -> the same layout with a few thousand parameters."""
    sizes: Callable[[State, Any], dict[str, Any]]
    """Our state and a preset -> the configuration fields that shapes decide."""
    says: Callable[[Mapping[str, Any], Any], dict[str, Any]] = lambda about, preset: {}
    """What a container holds beside weights, and a preset -> the fields it states."""
    words: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    """Fields by other names, of older model directories or for short, to those of the configuration."""
    prefixes: tuple[str, ...] = ()
    """Prefixes that a container puts before the official names."""
    adapt: Callable[[State], State] = dict
    """A file's weights to the names that the key map knows, in our shapes."""
    restore: Callable[[State], State] = dict
    """Official names in our shapes to the shapes of the official file."""
    cards: str = ""
    """The package whose card.toml describes the names; empty for a family without published weights."""

    def configured(self, config: C, values: Mapping[str, Any]) -> C:
        """The configuration with fields replaced. Raises TypeError for an unknown field."""
        return with_overrides(config, self.words(values))


FAMILIES: Registry[Family] = Registry(
    "model family",
    package="manyview.models",
    group="manyview.models",
    instance_of=Family,
    claims=lambda family: family.presets,
)


def presets() -> dict[str, tuple[str, Callable[[], Any]]]:
    """Zoo name -> (family, preset)."""
    return {name: (family, make) for family in FAMILIES.names() for name, make in FAMILIES.get(family).presets.items()}


def lookup(name: str) -> tuple[Family, Any]:
    """Family and preset configuration of a zoo name. Raises UserError for an unknown one."""
    choices = presets()
    if name not in choices:
        raise UserError(f"no model {name!r}; {did_you_mean(name, choices)}")
    family, make = choices[name]
    return FAMILIES.get(family), make()


def names_of(family: Family) -> str:
    """The name under which a family is registered."""
    return next(name for name in FAMILIES.names() if FAMILIES.get(name) is family)


def family_of(model: object) -> str:
    """Name of the family of a network that the zoo built or loaded. Raises TypeError for another one."""
    if not isinstance(model, Model) or model.architecture not in FAMILIES.names():
        raise TypeError(f"this {type(model).__name__} is no model of the zoo; make it with zoo.build or zoo.load")
    return model.architecture


def able(role: type[Role]) -> list[str]:
    """The zoo names whose networks declare a role."""
    return sorted(name for name in presets() if issubclass(lookup(name)[0].network, role))


def require(model: object, role: type[R], name: str = "") -> R:
    """The model as what it must be; a plain function of images is taken for a reconstructor.

    Raises UserError in one line that says what the model is, what it can do, and which models can do this.
    """
    plain = callable(model) and not isinstance(model, nn.Module)
    if isinstance(model, role) or (plain and issubclass(role, Reconstructs)):
        return cast(R, model)
    kind = model.architecture if isinstance(model, Model) else type(model).__name__
    raise cannot(name or f"this {type(model).__name__}", kind, type(model), role)


def require_name(name: str, role: type[Role]) -> None:
    """The same for a zoo name, before its weights are asked for; other names pass."""
    family = presets()[name][0] if name in presets() else None
    if family is not None and not issubclass(network := FAMILIES.get(family).network, role):
        raise cannot(name, family, network, role)


def cannot(name: str, kind: str, network: type, role: type[Role]) -> UserError:
    """The error that says what a model is and can do, why it is the wrong one, and which are right ones."""
    can, others = " and ".join(abilities(network)), able(role)
    says = f"is a {kind} model: it can {can} but" if can else "declares nothing that it can do and"
    more = f" and {len(others) - MOST_NAMES} more (manyview models)" if len(others) > MOST_NAMES else ""
    return UserError(f"{name} {says} cannot {role.can}; models that can: {', '.join(others[:MOST_NAMES])}{more}")


def encoder_of(model: object, name: str = "") -> Any:
    """The image encoder of a model: the one inside it, or itself. Raises UserError for a model without one."""
    return require(model, EncodesImages, name).trunk


def with_overrides(config: C, values: Mapping[str, Any]) -> C:
    """The configuration with fields replaced; a name that only its encoder has is the encoder's.

    Raises TypeError for an unknown name.
    """
    plain: dict[str, Any] = to_dict(config)
    inner = plain.get("encoder", {})
    for name, value in values.items():
        if name == "encoder":
            inner |= value
        elif name in plain:
            plain[name] = value
        elif name.removeprefix("encoder.") in inner:
            inner[name.removeprefix("encoder.")] = value
        else:
            choices = {*plain, *inner} - {"encoder"}
            raise TypeError(f"unknown option {name!r}; {did_you_mean(name, choices)}")
    return from_dict(type(config), plain)


def stated(
    words: Mapping[str, Any],
    fields: Mapping[str, str],
    built: Mapping[str, tuple[Any, ...]],
    *,
    silent: Collection[str] | None = None,
) -> dict[str, Any]:
    """Configuration fields that the words of a file's own configuration state.

    fields: its words and ours. built: what other words may be. silent: words that change no result; None: all others.
    Raises UserError for another network.
    """
    said = {}
    for word, value in words.items():
        if word in fields:
            said[fields[word]] = value
        elif value not in built.get(word, (value,)):
            raise UserError(f"the file's configuration says {word}={value!r}; only {built[word][0]!r} is built")
        elif silent is not None and word not in (*silent, *built):
            raise UserError(f"the file's configuration says {word}={value!r}, which this layout does not know")
    if isinstance(sides := said.get("image_size"), (tuple, list)):
        said["image_size"] = max(sides)
    if "rope_base" in said:
        kind, _, base = str(said["rope_base"]).partition("RoPE")
        if kind or not base.isdigit():
            raise UserError(f"its positions (pos_embed) are {said['rope_base']!r}, and only RoPE positions are built")
        said["rope_base"] = float(base)
    return said


def count(state: State, pattern: str) -> int:
    """How many different numbers the first group of a pattern takes among the names."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def heads_of(dim: int, usual_dim: int, usual_heads: int) -> int:
    """Attention heads, which no weight tells: the preset's for the preset's width, else one per 64 channels."""
    return usual_heads if dim == usual_dim else max(1, dim // 64)


def encoder_sizes(state: State, preset: Any, prefix: str = "encoder.") -> dict[str, Any]:
    """Fields of an EncoderConfig from the weights under `prefix`."""
    dim, patch = state[f"{prefix}patch_embed.proj.weight"].shape[0::3]
    table, registers = state.get(f"{prefix}pos_embed"), state.get(f"{prefix}register_tokens")
    cls_token = f"{prefix}cls_token" in state
    return {
        "dim": dim,
        "depth": count(state, rf"{re.escape(prefix)}blocks\.(\d+)\."),
        "heads": heads_of(dim, preset.dim, preset.heads),
        "patch_size": patch,
        "cls_token": cls_token,
        "registers": 0 if registers is None else registers.shape[1],
        "positions": 0 if table is None else round((table.shape[1] - cls_token) ** 0.5),
        "layer_scale": preset.layer_scale if f"{prefix}blocks.0.ls1.gamma" in state else None,
    }


def dpt_sizes(state: State, head: str) -> dict[str, Any]:
    """Fields of a DPT head from the weights under `head`."""
    return {
        "head_layer_dims": tuple(state[f"{head}.project.{level}.weight"].shape[0] for level in range(4)),
        "head_dim": state[f"{head}.narrow.weight"].shape[1],
        "head_last_dim": state[f"{head}.smooth.weight"].shape[0],
    }


def quarter_taps(depth: int) -> tuple[int, int, int, int]:
    """Where DUSt3R's rule puts the four taps of a decoder with so many blocks."""
    return (0, depth // 2, depth * 3 // 4, depth)
