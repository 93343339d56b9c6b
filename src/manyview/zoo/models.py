"""The zoo's verbs: names, build, load, convert, export_official."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.zoo.cards import CARDS
from manyview.zoo.directory import CONFIG, fill, load_model, save_model
from manyview.zoo.family import FAMILIES, family_of, lookup, presets, with_overrides
from manyview.zoo.reading import read_weights

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def names() -> list[str]:
    """Every name that build and load know."""
    return sorted(presets())


def models_folder() -> Path:
    """Where load looks for converted models: $MANYVIEW_HOME/models, else ~/.cache/manyview/models."""
    home = os.environ.get("MANYVIEW_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "manyview") / "models"


def build(
    name: str,
    size: Literal["debug"] | None = None,
    *,
    seed: int | None = None,
    encoder: str | Path | None = None,
    **overrides: Any,
) -> nn.Module:
    """A freshly initialised network, in train mode.

    size="debug" shrinks any name to a few thousand parameters; overrides are fields of its configuration (an
    unknown one raises TypeError); encoder: a name or directory whose encoder's weights to start from. `seed`
    fixes the initial weights; None draws them from torch's generator. Raises UserError for an unknown name.
    """
    family, config = lookup(name)
    if size not in (None, "debug"):
        raise UserError(f"size is {size!r}; it must be 'debug' or left away")
    config = with_overrides(family.debug(config) if size else config, overrides)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model = family.model(config)
    if encoder is not None:
        _start_encoder(model, encoder)
    return model


def _start_encoder(model: nn.Module, source: str | Path) -> None:
    """Copy the encoder of a model of the zoo. Raises UserError when the two differ in shape."""
    target = model.get_submodule("encoder")
    weights, ours = load(source).get_submodule("encoder").state_dict(), target.state_dict()
    different = [
        k for k in {*weights, *ours} if k not in weights or k not in ours or weights[k].shape != ours[k].shape
    ]
    if different:
        raise UserError(
            f"the encoder of {source} has another shape, first {sorted(different)[:3]}; override dim, depth …"
        )
    target.load_state_dict(weights)


def load(
    name_or_dir: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """A zoo name or a model directory -> the network in eval mode, float32 on the CPU unless told otherwise.

    Raises UserError for an unknown name, a directory that is none, or a name whose weights are not on this
    machine; the message then says how to put them there.
    """
    model = load_model(_directory(name_or_dir))
    if device is not None or dtype is not None:
        model = model.to(device=device, dtype=dtype)
    return model


def _directory(name_or_dir: str | Path) -> Path:
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        return path
    name = str(name_or_dir)
    if path.exists() or (name not in presets() and (os.sep in name or name.startswith("."))):
        raise UserError(
            f"{path} is no model directory; give one, or convert a weights file with `manyview convert`"
        )
    lookup(name)
    for folder in _places(name):
        if (folder / CONFIG).is_file():
            return folder
    card, (bundled, placed) = CARDS[name], _places(name)
    if card.bundled:
        raise UserError(
            f"the weights of {name} are missing from this installation ({bundled}); install it again"
        )
    raise UserError(
        f"the weights of {name} are not on this machine; get {card.file} from {card.published} "
        f"(licence: {card.licence}), then run `manyview convert FILE --arch {name} -o {placed}`"
    )


def _places(name: str) -> tuple[Path, Path]:
    """Where the weights of a name may lie: with the package, and where the user put them."""
    return ASSETS / name, models_folder() / name


def present(name: str) -> bool:
    """Whether the weights of a zoo name are on this machine."""
    return any((folder / CONFIG).is_file() for folder in _places(name))


def convert(file_or_dir: str | Path, arch: str, out: str | Path, **overrides: Any) -> Path:
    """Bring a published weights file into a model directory; returns it.

    Sizes come from the file's shapes, then the overrides (an unknown one raises TypeError). Code in a pickle
    is never run. Raises UserError when the file is not of this family.
    """
    family, preset = lookup(arch)
    with_overrides(preset, overrides)  # an unknown option fails before a large file is read
    official = read_weights(file_or_dir, family.prefixes)
    try:
        state = family.keymap.to_ours(official)
        sizes = family.sizes(state, preset)
    except UserError as error:
        raise UserError(f"{file_or_dir} is not {arch}: {error}") from error
    except KeyError as error:
        raise UserError(f"{file_or_dir} is not {arch}: it has no weight {error}") from error
    config = with_overrides(preset, {**sizes, **overrides})
    with torch.device("meta"):
        model = family.model(config)
    fill(model, state, where=str(file_or_dir))
    return save_model(model, out, CARDS.get(arch))


def export_official(model: nn.Module) -> dict[str, Tensor]:
    """The state dict under the names of the published file, tensors it stores twice included."""
    return FAMILIES.get(family_of(model)).keymap.to_official(model.state_dict())
