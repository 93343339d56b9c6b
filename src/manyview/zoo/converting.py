"""From a published file to a network and its model directory, and back to the published names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from manyview.config import to_dict
from manyview.errors import UserError
from manyview.models.family import FAMILIES, family_of, lookup
from manyview.models.keymaps import CARRIED
from manyview.models.model import Model
from manyview.zoo.cards import CARDS, card_of, licences_of
from manyview.zoo.directory import FORMAT, fill, save_model, unfilled
from manyview.zoo.reading import Checkpoint, bare, read_checkpoint, sha256_of

ENCODER = "encoder."
# Share of a model's kinds of names, and of the file's, that must agree before we say what a file looks like.
ENOUGH = 0.6


def keep(
    model: Model,
    arch: str,
    out: str | Path,
    origin: Mapping[str, Any],
    encoder: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a converted network with the card of its zoo name and what is known of its file."""
    card = {"name": arch, **(card_of(arch) if arch in CARDS else {}), "origin": dict(origin)}
    made_from = [] if encoder is None else licences_of(encoder)
    return save_model(model, out, card, derived_from=made_from, overwrite=overwrite)


def network_of(
    file_or_dir: str | Path,
    arch: str,
    *,
    encoder: Mapping[str, Tensor] | None = None,
    part: str | None = None,
    prefix: str | None = None,
    **overrides: Any,
) -> Model:
    """The network of a published file, weights as they are stored there; `encoder`: weights for a file without one.

    part, prefix: which of several sets of weights, as `read_checkpoint` takes them; guessed where they are not given,
    and what was guessed is in `model.card["taken"]`.
    """
    family, preset = lookup(arch)
    path = Path(file_or_dir)
    checkpoint = read_checkpoint(
        path, family.prefixes, part=part, prefix=prefix, likeness=lambda names: _likeness(names, arch)
    )
    _check_origin(path, arch, checkpoint)
    stated = family.configured(preset, family.says(checkpoint.about, preset))
    try:
        state = family.keymap.to_ours(family.adapt(checkpoint.weights))
        state |= {f"{ENCODER}{key}": tensor for key, tensor in (encoder or {}).items()}
        sizes = family.sizes(state, stated)
    except UserError as error:
        raise UserError(f"{path} is not {arch}: {error}{_hint(checkpoint, arch)}") from error
    except KeyError as error:
        lack = f"it has no weight {error.args[0]!r}"
        if str(error.args[0]).startswith(ENCODER):
            lack = "it has no encoder; give one with encoder=NAME|DIR|FILE (--set encoder=…)"
        raise UserError(f"{path} is not {arch}: {lack}{_hint(checkpoint, arch)}") from error
    _refuse_other_size(path, arch, checkpoint)
    model = unfilled(family, family.configured(family.configured(stated, sizes), overrides))
    try:
        fill(model, state, where=str(path), may_miss=family.keymap.missing, dtype=None)
    except UserError as error:
        raise UserError(f"{error}{_hint(checkpoint, arch)}") from error
    dropped = [key for key in checkpoint.weights if key.startswith(family.keymap.ignored)]
    taken: dict[str, Any] = {"part": checkpoint.part, "prefix": checkpoint.prefix, "left_out": dropped}
    taken |= {"sizes": _unlike(arch, checkpoint.weights)}
    taken |= {"beside": list(checkpoint.beside) if checkpoint.part else [], "without": checkpoint.without}
    model.card = {"taken": {name: value for name, value in taken.items() if value}}
    return model


def _refuse_other_size(path: Path, arch: str, checkpoint: Checkpoint) -> None:
    """Raise UserError for weights whose shapes are exactly those of another name of the family."""
    if _fitting(arch, checkpoint.weights) == 1:
        return
    family, _ = lookup(arch)
    others = [name for name in family.presets if name != arch and _fitting(name, checkpoint.weights) == 1]
    if others:
        raise UserError(f"{path} is not {arch} but, by its shapes, {others[0]}; convert it with --arch {others[0]}")


def export_official(model: Model) -> dict[str, Tensor]:
    """The state dict under the names of the published file, tensors it stores twice included."""
    family = FAMILIES.get(family_of(model))
    spare = {f"{CARRIED}{name}": tensor for name, tensor in model.carried.items()}
    return dict(family.restore(family.keymap.to_official({**model.state_dict(), **spare})))


def _check_origin(path: Path, arch: str, checkpoint: Checkpoint) -> None:
    """Refuse our own directories, and a file that bears the published name but is not the published one."""
    config = checkpoint.about.get("config")
    if isinstance(config, Mapping) and config.get("format") == FORMAT:
        raise UserError(f"{path} is a model directory already; load it with mv.load({str(path)!r})")
    card = CARDS.get(arch)
    if card is None or card.sha256 is None or path.name != Path(card.file).name:
        return
    if (digest := sha256_of(path)) != card.sha256:
        raise UserError(
            f"{path} is not the published {path.name}: its sha256 is {digest[:12]}…, not {card.sha256[:12]}…; "
            "download it again, or rename it if it is your own"
        )


def _hint(checkpoint: Checkpoint, arch: str) -> str:
    """What the file looks like, when that is something else."""
    try:
        other = recognise(checkpoint.weights)
    except Exception:  # a guess must never hide what was wrong
        return ""
    return f"; this looks like {other}, convert it with --arch {other}" if other not in (None, arch) else ""


def recognise(weights: Mapping[str, Tensor]) -> str | None:
    """The zoo name whose published layout the names fit best; None when none is near.

    Names are compared without their numbers; among models that differ only in size, shapes decide.
    """
    rated: list[tuple[float, int, str]] = []
    for name in FAMILIES.names():
        family = FAMILIES.get(name)
        bare_names = [bare(key, family.prefixes) for key in weights]
        for arch in family.presets:
            likeness = _likeness(bare_names, arch)
            if likeness >= ENOUGH:  # equally alike, the one that uses more of the file: a whole model, not its encoder
                rated.append((likeness, len(_expected(arch)), arch))
    best = [arch for *alike, arch in rated if alike == list(max(rated)[:2])]
    return max(best, key=lambda arch: (_fitting(arch, weights), arch), default=None)


def _likeness(names: Iterable[str], arch: str) -> float:
    """How near names are to the published ones of a model, without their numbers."""
    family, _ = lookup(arch)
    spare = (*family.keymap.ignored, *family.keymap.carried)
    kinds = frozenset(_kind(key) for key in names if not key.startswith(spare))
    expected = _expected(arch)
    return len(kinds & expected) / max(1, len(kinds | expected))


def _kind(key: str) -> str:
    return re.sub(r"\d+", "#", key)


@cache
def _expected(arch: str) -> frozenset[str]:
    """Kinds of official names of a model, from a shrunken network without memory behind it."""
    family, preset = lookup(arch)
    state = unfilled(family, family.debug(preset)).state_dict()
    return frozenset(map(_kind, family.restore(family.keymap.to_official(state))))


def _fitting(arch: str, weights: Mapping[str, Tensor]) -> float:
    """Share of the configuration fields told by shapes that are those of a preset."""
    told, stated = _sizes(arch, weights)
    return sum(stated.get(name) == value for name, value in told.items()) / max(1, len(told))


def _unlike(arch: str, weights: Mapping[str, Tensor]) -> str:
    """Where shapes contradict a preset: "dim 384, not 768, …"; empty where they do not."""
    told, stated = _sizes(arch, weights)
    other = {name: (value, stated.get(name)) for name, value in told.items() if stated.get(name) != value}
    return ", ".join(f"{name} {value}, not {instead}" for name, (value, instead) in other.items())


def _sizes(arch: str, weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration fields told by shapes, none for weights of another layout, and those of the preset."""
    family, preset = lookup(arch)
    names = {bare(key, family.prefixes): tensor for key, tensor in weights.items()}
    try:
        fields = to_dict(family.sizes(family.keymap.to_ours(family.adapt(names)), preset))
    except (UserError, KeyError):
        return {}, {}
    told, stated = ({**values, **values.get("encoder", {})} for values in (fields, to_dict(preset)))
    return {name: value for name, value in told.items() if name != "encoder"}, stated
