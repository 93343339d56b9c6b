"""The zoo's verbs on names: names, build, load, convert, present."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from manyview.errors import UserError, mismatch
from manyview.models.family import encoder_of, lookup, names_of, presets, require, require_name
from manyview.models.model import Model, Role, device_of
from manyview.models.outside import is_outside, outside
from manyview.written import refuse_changed
from manyview.zoo.cards import CARDS, Card, licences_of
from manyview.zoo.converting import keep, network_of, recognise
from manyview.zoo.directory import CONFIG, WEIGHTS, WHAT, load_model, refuse_other_model
from manyview.zoo.hub import download
from manyview.zoo.reading import read_checkpoint

ASSETS = Path(__file__).resolve().parent.parent / "assets"
R = TypeVar("R", bound=Role)


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
) -> Model:
    """A freshly initialised network, in train mode.

    size="debug" shrinks any name to a few thousand parameters; overrides are fields of its configuration (an
    unknown one raises TypeError); encoder: a name or directory whose encoder's weights to start from. `seed`
    fixes the initial weights; None draws them from torch's generator. Raises UserError for an unknown name.
    """
    family, config = lookup(name)
    if size not in (None, "debug"):
        raise UserError(f"size is {size!r}; it must be 'debug' or left away")
    config = family.configured(family.debug(config) if size else config, overrides)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model = family.network.fresh(config)
    model.architecture = names_of(family)
    if encoder is not None:
        what, mend = f"the encoder of {encoder}", "it has another shape: override dim, depth …"
        take_weights(encoder_of(model), encoder_weights(encoder), what, mend)
        model.card = {"derived_from": licences_of(encoder)}
    return model


def take_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    what: str,
    mend: str,
    *,
    partly: bool = False,
    but: tuple[str, ...] = (),
) -> tuple[int, int]:
    """Copy weights into a network: (taken, left as they were).

    partly: only those that agree in name and shape, and whose names do not begin with one of `but`. Raises UserError,
    which names `what` they are of and ends in `mend`, when some do not fit; with `partly` when none does.
    """
    own = model.state_dict()
    agreed = {
        name: values
        for name, values in weights.items()
        if name in own and own[name].shape == values.shape and not (but and name.startswith(but))
    }
    problem = mismatch(*({name: tensor.shape for name, tensor in of.items()} for of in (own, weights)))
    if not agreed or (problem and not partly):
        raise UserError(f"{what} does not fit: {problem}; {mend}")
    model.load_state_dict(agreed, strict=False)
    return len(agreed), sum(not (but and name.startswith(but)) for name in own) - len(agreed)


def encoder_weights(source: str | Path) -> Mapping[str, Tensor]:
    """The encoder's state dict of a zoo name, model directory or published file of any model with one."""
    path = Path(source)
    if path.is_file() and path.name != WEIGHTS:
        arch = recognise(read_checkpoint(path).weights)
        if arch is None:
            raise UserError(f"{path} is none of the models we know; convert it first and give its directory")
        return encoder_of(network_of(path, arch), str(path)).state_dict()
    return encoder_of(load(source), str(source)).state_dict()


def convert(
    file_or_dir: str | Path,
    arch: str,
    out: str | Path,
    *,
    encoder: str | Path | None = None,
    part: str | None = None,
    prefix: str | None = None,
    overwrite: bool = False,
    **overrides: Any,
) -> Path:
    """Bring a published weights file into a model directory, at the precision it is stored in; returns it.

    The configuration is what the file says of itself, then what its shapes say, then the overrides (an
    unknown one raises TypeError). encoder: a name, model directory or published file whose encoder to put in,
    for files that come without one. part, prefix: which weights of a container of training (`teacher`) and which of
    their names (`backbone.`); guessed where not given. Code in a pickle is never run. Raises UserError when the file
    is not of this family (the message says which it looks like), and when a file in `out` would be replaced that is
    not from an earlier call, unless `overwrite`.
    """
    family, preset = lookup(arch)
    family.configured(preset, overrides)  # an unknown option fails before large files are read
    refuse_other_model(Path(out), overwrite=overwrite)
    weights = None if encoder is None else encoder_weights(encoder)
    model = network_of(file_or_dir, arch, encoder=weights, part=part, prefix=prefix, **overrides)
    return keep(model, arch, out, {"file": Path(file_or_dir).name, **model.card.get("taken", {})}, encoder, overwrite)


def load(
    name_or_dir: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    accept: Callable[[Card], bool] | None = None,
    verify: bool = False,
) -> Model:
    """A zoo name, a model directory or its weights file -> the network in eval mode, float32 on the CPU
    unless told otherwise. `timm:NAME` and `hf:NAME` are encoders of those libraries.

    A name whose weights are not on this machine is downloaded and converted first. `accept` is shown the card
    with the licence before that and says whether to go on; without it only permissive licences are accepted.
    Raises UserError for an unknown name, a directory that is none, a licence not accepted or a download that
    fails; the message then says how to put the file in place by hand. verify: also compare every file with the
    digest that was noted when it was written (UserError when one differs).
    """
    if is_outside(name_or_dir):
        model: Model = outside(str(name_or_dir))
    else:
        directory = _directory(name_or_dir, accept)
        if verify:
            refuse_changed(directory, WHAT)
        model = load_model(directory, dtype=dtype or torch.float32)
    if device is not None or dtype is not None:
        model = model.to(device=device, dtype=dtype)
    return model


def load_as(model: object, role: type[R], device: torch.device | None = None) -> tuple[R, str]:
    """A model that can do what it is wanted for, and its name: a name or directory is loaded on the CPU or `device`,
    a network is moved to the device, if one is named. Raises UserError, for a name before its weights are fetched.
    """
    if isinstance(model, (str, Path)):
        require_name(str(model), role)
        return require(load(model, device=device), role, str(model)), str(model)
    if isinstance(model, nn.Module):
        model = model.to(device or device_of(model))
    return require(model, role), type(model).__name__


def _directory(name_or_dir: str | Path, accept: Callable[[Card], bool] | None) -> Path:
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        return path
    if path.is_file() and path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        return path.parent
    name = str(name_or_dir)
    if path.exists() or (name not in presets() and (os.sep in name or name.startswith("."))):
        raise UserError(f"{path} is no model directory; give one, or convert a weights file with `manyview convert`")
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
