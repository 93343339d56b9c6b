"""Model directories: config.json and model.safetensors, written whole or not at all, read strictly."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from manyview.config import from_dict, to_dict
from manyview.errors import UserError
from manyview.layers.init import init_buffers
from manyview.registry import did_you_mean
from manyview.zoo.cards import Card
from manyview.zoo.family import FAMILIES, family_of

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = "manyview-model"


def save_model(
    model: nn.Module, out: Path | str, card: Card | dict[str, Any] | None = None, *, half: bool = False
) -> Path:
    """Write a model directory; returns it. `half` stores the weights as float16 (they are read back as
    float32).

    card: what to tell its users (a Card, or any JSON-able dictionary). Raises UserError when it cannot be
    written.
    """
    out = Path(out)
    config = {
        "format": FORMAT,
        "version": 1,
        "architecture": family_of(model),
        "config": to_dict(model.config),
        "card": dataclasses.asdict(card) if isinstance(card, Card) else card or {},
    }
    state = {name: _stored(tensor, half) for name, tensor in model.state_dict().items()}
    draft = out / f".{WEIGHTS}.{os.getpid()}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_file(state, draft, metadata={"format": "pt"})
        draft.chmod(0o644)  # the library makes files that only their owner can read
        os.replace(draft, out / WEIGHTS)
        draft.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, out / CONFIG)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise UserError(
            f"cannot write the model to {out}: {error}; free some space or choose another folder"
        ) from error
    return out


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor


def read_config(directory: Path) -> dict[str, Any]:
    """The checked config.json of a model directory. Raises UserError when it is none of ours."""
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{directory} is no model directory: it has no {CONFIG}; make one with `manyview convert`"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(
            f"{path} was not written by manyview; convert the original file with `manyview convert`"
        )
    if config.get("architecture") not in FAMILIES.names():
        raise UserError(
            f"{path}: unknown architecture {config.get('architecture')!r}; "
            f"{did_you_mean(str(config.get('architecture')), FAMILIES.names())}"
        )
    return config


def load_model(directory: Path) -> nn.Module:
    """The network of a model directory, float32 on the CPU, in eval mode. Raises UserError when files do not
    fit.
    """
    description = read_config(directory)
    family = FAMILIES.get(description["architecture"])
    config: Any = from_dict(family.config, description.get("config", {}), f"{directory / CONFIG}: ")
    path = directory / WEIGHTS
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise UserError(
            f"{directory} has a {CONFIG} but no {WEIGHTS}; copy it there or convert again"
        ) from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}); copy it again or convert again") from error
    with torch.device("meta"):
        model = family.model(config)
    fill(model, state, where=str(path))
    return model.eval()


def fill(model: nn.Module, state: dict[str, Tensor], *, where: str, may_miss: tuple[str, ...] = ()) -> None:
    """Give a network built on the meta device its weights as float32. Raises UserError for any key or shape
    that differs.
    """
    expected = model.state_dict()
    surplus = [key for key in state if key not in expected]
    absent = [key for key in expected if key not in state and not key.startswith(may_miss)]
    wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    for problem, keys in (("are not part of this architecture", surplus), ("are missing", absent)):
        if keys:
            raise UserError(
                f"{where}: {len(keys)} weights {problem}, first {keys[:3]}; is it another architecture?"
            )
    if wrong:
        key = wrong[0]
        raise UserError(
            f"{where}: {key} is {tuple(state[key].shape)}, the configuration says "
            f"{tuple(expected[key].shape)} ({len(wrong)} such weights); check the overrides"
        )
    model.to_empty(device="cpu")
    init_buffers(model)
    model.load_state_dict(
        {key: t.float() if t.is_floating_point() else t for key, t in state.items()}, strict=False
    )
