"""Reading weight files of others without ever running code from them."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from manyview.errors import UserError

# What a pickle may build beside tensors and plain containers. A Namespace only holds values.
HARMLESS = (argparse.Namespace,)
# Where containers keep their weights, outermost first.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# Left by torch.compile and by data-parallel training.
WORKER_PREFIXES = ("_orig_mod.", "module.")


def read_weights(path: Path | str, prefixes: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Official state dict of a .safetensors file, a pickle, or a directory that holds one such file.

    prefixes: taken off the names that have them (a Lightning container's `student.`).
    Raises UserError for a file that is damaged, holds no weights, or wants to run code.
    """
    path = _only_file(Path(path))
    container = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    while (
        inner := next((container[k] for k in WRAPPERS if isinstance(container.get(k), Mapping)), None)
    ) is not None:
        container = inner
    state = {str(key): value for key, value in container.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{path} holds no weights; its entries are {sorted(map(str, container))[:5]}")
    return {_bare(key, (*WORKER_PREFIXES, *prefixes)): tensor for key, tensor in state.items()}


def _bare(key: str, prefixes: tuple[str, ...]) -> str:
    """A name without any of the prefixes, in whatever order they are nested."""
    while (prefix := next((p for p in prefixes if key.startswith(p)), None)) is not None:
        key = key.removeprefix(prefix)
    return key


def _only_file(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} does not exist; give the weights file or its folder")
    if not path.is_dir():
        return path
    found = sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".pth", ".pt", ".ckpt", ".bin"))
    if len(found) != 1:
        raise UserError(f"{path} holds {len(found)} weight files; name the one to read")
    return found[0]


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no readable safetensors file ({error}); download it again") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(list(HARMLESS)):
            container = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next(
            (line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line),
            "",
        )
        raise UserError(
            f"{path} is refused: it is damaged or wants more than weights ({reason[:160]})"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no readable weights file ({first[:160]}); download it again") from error
    if not isinstance(container, Mapping):
        raise UserError(f"{path} holds a {type(container).__name__}, not weights by name")
    return dict(container)
