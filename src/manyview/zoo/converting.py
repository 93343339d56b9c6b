"""From a published file to a network and its model directory, and back to the published names."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from manyview.errors import UserError
from manyview.zoo.cards import CARDS
from manyview.zoo.directory import FORMAT, carried, fill, save_model, unfilled
from manyview.zoo.family import FAMILIES, family_of, lookup, with_overrides
from manyview.zoo.keymaps import CARRIED
from manyview.zoo.licences import licences_of
from manyview.zoo.reading import Checkpoint, read_checkpoint
from manyview.zoo.recognise import recognise

ENCODER = "encoder."


def convert(
    file_or_dir: str | Path,
    arch: str,
    out: str | Path,
    *,
    encoder: str | Path | None = None,
    **overrides: Any,
) -> Path:
    """Bring a published weights file into a model directory, at the precision it is stored in; returns it.

    The configuration is what the file says of itself, then what its shapes say, then the overrides (an
    unknown one raises TypeError). encoder: a name, model directory or published file whose encoder to put in,
    for files that come without one. Code in a pickle is never run. Raises UserError when the file is not of
    this family; the message says which it looks like.
    """
    model = network_of(file_or_dir, arch, encoder=encoder, **overrides)
    return keep(model, arch, out, {"file": Path(file_or_dir).name}, encoder)


def keep(
    model: nn.Module,
    arch: str,
    out: str | Path,
    origin: Mapping[str, Any],
    encoder: str | Path | None = None,
) -> Path:
    """Write a converted network with the card of its zoo name and what is known of its file."""
    card: dict[str, Any] = dataclasses.asdict(CARDS[arch]) if arch in CARDS else {"name": arch}
    card["origin"] = dict(origin)
    return save_model(model, out, card, derived_from=[] if encoder is None else licences_of(encoder))


def network_of(
    file_or_dir: str | Path, arch: str, *, encoder: str | Path | None = None, **overrides: Any
) -> nn.Module:
    """The network of a published file, weights as they are stored there."""
    family, preset = lookup(arch)
    with_overrides(preset, overrides)  # an unknown option fails before a large file is read
    path = Path(file_or_dir)
    checkpoint = read_checkpoint(path, family.prefixes)
    _check_origin(path, arch, checkpoint)
    stated = with_overrides(preset, family.says(checkpoint.about, preset))
    try:
        state = {**family.keymap.to_ours(family.adapt(checkpoint.weights)), **_encoder_of(encoder)}
        sizes = family.sizes(state, stated)
    except UserError as error:
        raise UserError(f"{path} is not {arch}: {error}{_hint(checkpoint, arch)}") from error
    except KeyError as error:
        raise UserError(
            f"{path} is not {arch}: {_lacks(str(error.args[0]))}{_hint(checkpoint, arch)}"
        ) from error
    config = with_overrides(stated, {**sizes, **overrides})
    model = unfilled(family, config)
    try:
        fill(model, state, where=str(path), may_miss=family.keymap.missing, dtype=None)
    except UserError as error:
        raise UserError(f"{error}{_hint(checkpoint, arch)}") from error
    return model


def export_official(model: nn.Module) -> dict[str, Tensor]:
    """The state dict under the names of the published file, tensors it stores twice included."""
    family = FAMILIES.get(family_of(model))
    spare = {f"{CARRIED}{name}": tensor for name, tensor in carried(model).items()}
    return dict(family.restore(family.keymap.to_official({**model.state_dict(), **spare})))


def encoder_weights(source: str | Path) -> dict[str, Tensor]:
    """The encoder's state dict of a zoo name, model directory or published file of any model with one."""
    from manyview.zoo.models import load

    path = Path(source)
    if path.is_file() and path.name != "model.safetensors":
        arch = recognise(read_checkpoint(path).weights)
        if arch is None:
            raise UserError(f"{path} is none of the models we know; convert it first and give its directory")
        model = network_of(path, arch)
    else:
        model = load(source)
    inner = getattr(model, "encoder", model)
    return inner.state_dict() if isinstance(inner, nn.Module) else model.state_dict()


def _encoder_of(source: str | Path | None) -> dict[str, Tensor]:
    return {} if source is None else {f"{ENCODER}{key}": t for key, t in encoder_weights(source).items()}


def _check_origin(path: Path, arch: str, checkpoint: Checkpoint) -> None:
    """Refuse our own directories, and a file that bears the published name but is not the published one."""
    config = checkpoint.about.get("config")
    if isinstance(config, Mapping) and config.get("format") == FORMAT:
        raise UserError(f"{path} is a model directory already; load it with mv.load({str(path)!r})")
    card = CARDS.get(arch)
    if card is None or card.sha256 is None or path.name != Path(card.file).name:
        return
    if (found := sha256_of(path)) != card.sha256:
        raise UserError(
            f"{path} is not the published {path.name}: its sha256 is {found[:12]}…, not {card.sha256[:12]}…; "
            "download it again, or rename it if it is your own"
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _lacks(key: str) -> str:
    if key.startswith(ENCODER):
        return "it has no encoder; give one with encoder=NAME|DIR|FILE (--set encoder=…)"
    return f"it has no weight {key!r}"


def _hint(checkpoint: Checkpoint, arch: str) -> str:
    """What the file looks like, when that is something else."""
    try:
        found = recognise(checkpoint.weights)
    except Exception:  # a guess must never hide what was wrong
        return ""
    return f"; this looks like {found}, convert it with --arch {found}" if found not in (None, arch) else ""
