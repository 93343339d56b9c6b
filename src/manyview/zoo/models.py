"""The zoo's verbs on names: names, build, load, present."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from manyview.errors import UserError
from manyview.zoo.cards import CARDS, Card
from manyview.zoo.converting import encoder_weights
from manyview.zoo.directory import CONFIG, WEIGHTS, load_model
from manyview.zoo.family import lookup, presets, with_overrides
from manyview.zoo.hub import download
from manyview.zoo.licences import licences_of

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
    """Copy the encoder of another model. Raises UserError when the two differ in shape."""
    target = model.get_submodule("encoder")
    weights, ours = encoder_weights(source), target.state_dict()
    different = [
        k for k in {*weights, *ours} if k not in weights or k not in ours or weights[k].shape != ours[k].shape
    ]
    if different:
        raise UserError(
            f"the encoder of {source} has another shape, first {sorted(different)[:3]}; override dim, depth …"
        )
    target.load_state_dict(weights)
    model.card = {"derived_from": licences_of(source)}  # type: ignore[assignment]


def load(
    name_or_dir: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    accept: Callable[[Card], bool] | None = None,
) -> nn.Module:
    """A zoo name, a model directory or its weights file -> the network in eval mode, float32 on the CPU unless
    told otherwise.

    A name whose weights are not on this machine is downloaded and converted first. `accept` is shown the card
    with the licence before that and says whether to go on; without it only permissive licences are accepted.
    Raises UserError for an unknown name, a directory that is none, a licence not accepted or a download that
    fails; the message then says how to put the file in place by hand.
    """
    model = load_model(_directory(name_or_dir, accept), dtype=dtype or torch.float32)
    if device is not None or dtype is not None:
        model = model.to(device=device, dtype=dtype)
    return model


def _directory(name_or_dir: str | Path, accept: Callable[[Card], bool] | None) -> Path:
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        return path
    if path.is_file() and path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        return path.parent
    name = str(name_or_dir)
    if path.exists() or (name not in presets() and (os.sep in name or name.startswith("."))):
        raise UserError(
            f"{path} is no model directory; give one, or convert a weights file with `manyview convert`"
        )
    lookup(name)
    for folder in _places(name):
        if (folder / CONFIG).is_file():
            return folder
    if CARDS[name].bundled:
        raise UserError(
            f"the weights of {name} are missing from this installation ({_places(name)[0]}); install it again"
        )
    return download(name, models_folder() / name, accept=accept)


def _places(name: str) -> tuple[Path, Path]:
    """Where the weights of a name may lie: with the package, and where the user put them."""
    return ASSETS / name, models_folder() / name


def present(name: str) -> bool:
    """Whether the weights of a zoo name are on this machine."""
    return any((folder / CONFIG).is_file() for folder in _places(name))
