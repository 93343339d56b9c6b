"""Model directories: config.json and model.safetensors, written whole or not at all, read strictly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from manyview.config import to_dict
from manyview.errors import UserError
from manyview.files import read_json, writing
from manyview.layers.init import init_buffers
from manyview.models.family import FAMILIES, Family, family_of, names_of
from manyview.models.keymaps import CARRIED
from manyview.models.model import Model
from manyview.registry import did_you_mean
from manyview.types import not_finite
from manyview.written import fresh_directory, refuse_other_files, settle
from manyview.zoo.cards import Card, card_of, merged, readme
from manyview.zoo.reading import read_safetensors, sha256_of

FILES = CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"
WHAT = "model"
"""What the record of written files calls it."""
FORMAT = "manyview-model"
# Version 1 had the encoder's fields among the others; they are read alike.
VERSION = 2


def save_model(
    model: Model,
    out: Path | str,
    card: Card | Mapping[str, Any] | None = None,
    *,
    half: bool = False,
    derived_from: Sequence[Mapping[str, Any]] = (),
    overwrite: bool = False,
    beside: str = "",
) -> Path:
    """Write a model directory; returns it. `half` stores the weights as float16 (they are read back as float32).

    card: what to tell its users (a Card, or any JSON-able dictionary); left away, the card the model was
    loaded with. derived_from: what it was made from, as `licences_of` says it, kept in the card and in the
    README that is written beside the weights. beside: the name of a model directory in the same folder that has some
    of the weights already: they are read from there and stored once. Raises UserError when it cannot be written, when
    weights are too large for `half`, or when one of the three files is there and not from an earlier call, unless
    `overwrite`.
    """
    out = Path(out)
    refuse_other_model(out, overwrite=overwrite)
    own = card_of(model)
    described = dataclasses.asdict(card) if isinstance(card, Card) else dict(card or own)
    before = own.get("derived_from", ())
    if made_from := merged(described.get("derived_from", ()), before, derived_from):
        described["derived_from"] = made_from
    config = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": family_of(model),
        "config": to_dict(model.config),
        "card": described,
    }
    state = {name: _stored(tensor, half) for name, tensor in model.state_dict().items()}
    if half and (large := [name for name in not_finite(state) if bool(model.state_dict()[name].isfinite().all())]):
        raise UserError(
            f"{len(large)} weights are too large for float16, first {large[0]}; save the model without half"
        )
    if beside:
        shared = _shared(out.parent, beside, None)
        config["base"] = {"name": beside, "sha256": sha256_of(out.parent / beside / WEIGHTS)}
        state = {n: tensor for n, tensor in state.items() if n not in shared or not torch.equal(shared[n], tensor)}
    state |= {f"{CARRIED}{name}": _stored(tensor, False) for name, tensor in model.carried.items()}
    with (
        writing(f"the model to {out}", mend="free some space or choose another folder"),
        fresh_directory(out, what=WHAT, names=FILES, overwrite=overwrite) as draft,
    ):
        save_file(state, draft / WEIGHTS, metadata={"format": "pt"})
        (draft / WEIGHTS).chmod(0o644)  # the library makes files that only their owner can read
        (draft / README).write_text(readme(config), encoding="utf-8")
        (draft / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return out


def refuse_other_model(out: Path, *, overwrite: bool = False) -> None:
    """Raise UserError when a model cannot be written to `out`, or would replace what `save_model` did not write."""
    refuse_other_files(out, WHAT, FILES, overwrite=overwrite)


def _shared(folder: Path, name: str, digest: str | None) -> dict[str, Tensor]:
    """The weights that the model directory `name` of a folder lends. Raises UserError where they are others."""
    mend = "install both again, or make this model anew on those weights"
    path = folder / name / WEIGHTS
    if Path(name).name != name or name in ("", "..") or not path.is_file():
        raise UserError(f"{path}, which lends its weights, is missing; {mend}")
    if digest is not None and sha256_of(path) != digest:
        raise UserError(f"{path} is no longer what the model beside it was made on; {mend}")
    return read_safetensors(path, mend=mend)


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor


def read_config(directory: Path) -> dict[str, Any]:
    """The checked config.json of a model directory. Raises UserError when it is none of ours."""
    settle(directory)
    path = directory / CONFIG
    config = read_json(path, mend=f"{directory} is then no model directory; make one with `manyview convert`")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{path} was not written by manyview; convert the original file with `manyview convert`")
    if not isinstance(config.get("version"), int) or config["version"] > VERSION:
        raise UserError(
            f"{path} is of version {config.get('version')!r} and this manyview reads up to {VERSION}; update it"
        )
    if config.get("architecture") not in FAMILIES.names():
        raise UserError(
            f"{path}: unknown architecture {config.get('architecture')!r}; "
            f"{did_you_mean(str(config.get('architecture')), FAMILIES.names())}"
        )
    return config


def load_model(directory: Path, *, dtype: torch.dtype = torch.float32) -> Model:
    """The network of a model directory, on the CPU, in eval mode. Raises UserError when files do not fit.

    Weights that are stored as `dtype` stay in the mapped file until they are used: nothing is copied.
    """
    description = read_config(directory)
    family = FAMILIES.get(description["architecture"])
    try:
        config = family.configured(family.config(), description.get("config", {}))
    except (TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{directory / CONFIG}: {error}") from error
    path = directory / WEIGHTS
    if not path.exists():
        raise UserError(f"{directory} has a {CONFIG} but no {WEIGHTS}; copy it there or convert again")
    model = unfilled(family, config)
    state = read_safetensors(path, mend="copy it again or convert again")
    if base := description.get("base"):
        state = _shared(directory.parent, str(base.get("name")), str(base.get("sha256"))) | state
    fill(model, state, where=str(path), dtype=dtype)
    model.card = description.get("card") or {}
    return model.eval()


class _Skipping(TorchFunctionMode):
    """Leaves out what would fill a tensor in place."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if func in (torch.arange, torch.tensor):  # tables made of them are as slow on the meta device
            return func(*args, **{**kwargs, "device": "cpu"})
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def unfilled(family: Family, config: Any) -> Model:
    """A network on the meta device, its initialisation left out: there is nothing to fill, and torch takes
    seconds to find that out.
    """
    with torch.device("meta"), _Skipping():
        model = family.network.fresh(config)
    model.architecture = names_of(family)
    return model


def fill(
    model: Model,
    state: Mapping[str, Tensor],
    *,
    where: str,
    may_miss: tuple[str, ...] = (),
    dtype: torch.dtype | None = torch.float32,
) -> None:
    """Give a network built on the meta device its weights: the tensors of the file themselves where they have
    `dtype` (None: whatever they have), converted ones otherwise.

    Computed buffers (of modules with `init_buffers`) are computed again whatever the file says or lacks; what
    `may_miss` names (prefixes) is zero when absent; carried tensors stay as they are in `model.carried`, a
    dictionary by official name. Raises UserError for any other key or shape that differs.
    """
    expected, computed = model.state_dict(), _computed(model)
    carried = {key.removeprefix(CARRIED): t for key, t in state.items() if key.startswith(CARRIED)}
    state = {key: tensor for key, tensor in state.items() if not key.startswith(CARRIED)}
    _check(expected, state, where, lambda key: key in computed or key.startswith(may_miss))
    if bad := not_finite({key: tensor for key, tensor in state.items() if key not in computed}):
        raise UserError(
            f"{where}: {len(bad)} weights hold NaN or infinite values, first {bad[0]}: its training had diverged, or "
            "the file is damaged; take an earlier checkpoint, or copy it again"
        )
    model.load_state_dict(
        {key: _as(tensor, expected[key], dtype) for key, tensor in state.items() if key not in computed},
        strict=False,
        assign=True,
    )
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
        for name, weight in module.named_parameters(recurse=False):
            if weight.is_meta:
                setattr(module, name, nn.Parameter(torch.zeros(weight.shape, dtype=dtype or weight.dtype)))
    init_buffers(model)
    if carried:
        model.carried = carried


def _computed(model: nn.Module) -> set[str]:
    """Names of the stored buffers that a module computes for itself."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if hasattr(module, "init_buffers")
        for name, _ in module.named_buffers(recurse=False)
    }


def _check(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str, tolerated: Callable[[str], bool]
) -> None:
    surplus = [key for key in state if key not in expected]
    absent = [key for key in expected if key not in state and not tolerated(key)]
    for problem, keys in (("are not part of this architecture", surplus), ("are missing", absent)):
        if keys:
            raise UserError(f"{where}: {len(keys)} weights {problem}, first {keys[:3]}; is it another architecture?")
    whole = [k for k, t in state.items() if expected[k].is_floating_point() and not t.is_floating_point()]
    if whole:
        kind = str(state[whole[0]].dtype).removeprefix("torch.")
        raise UserError(
            f"{where}: {len(whole)} weights are {kind} numbers, first {whole[0]}: they are quantised, and their scales "
            "are not known here; take the file before that"
        )
    wrong = [key for key, tensor in state.items() if tensor.shape != expected[key].shape]
    if wrong:
        key = wrong[0]
        raise UserError(
            f"{where}: {key} is {tuple(state[key].shape)}, the configuration says "
            f"{tuple(expected[key].shape)} ({len(wrong)} such weights); check the overrides"
        )


def _as(tensor: Tensor, expected: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Floating-point weights as `dtype`, counters as the network has them; the tensor itself when it fits."""
    if not expected.is_floating_point():
        return tensor.to(expected.dtype)
    return tensor if dtype is None and tensor.is_floating_point() else tensor.to(dtype or expected.dtype)
