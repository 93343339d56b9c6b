"""Reading weight files of others without ever running code from them: weights, and what lies beside them."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from manyview.errors import UserError
from manyview.zoo.harmless import HARMLESS
from manyview.zoo.torchscript import is_torchscript, read_torchscript

# Where containers keep their weights, outermost first; `module` is DeepSpeed's.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
# Containers in containers; a pickle may hold itself.
DEEPEST = 4
# Left by torch.compile and by data-parallel training.
WORKER_PREFIXES = ("_orig_mod.", "module.")
# Weights of a Hugging Face directory in the order of preference; an index names the files of a split one.
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class Checkpoint:
    """What a file of others holds."""

    weights: dict[str, Tensor]
    """Official name -> tensor, mapped from the file where the format allows it."""
    about: dict[str, Any] = field(default_factory=dict)
    """Everything beside the weights, by the container's names (`args`, `hyper_parameters` …); the parsed
    config.json of a Hugging Face directory is under `config`."""


def read_checkpoint(path: Path | str, prefixes: tuple[str, ...] = ()) -> Checkpoint:
    """A .safetensors file, a pickle, a TorchScript archive, or a directory that holds one model.

    prefixes: taken off the names that have them (a Lightning container's `student.`).
    Raises UserError for a file that is damaged, holds no weights, or wants to run code.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give the weights file or its folder")
    container = _read_directory(path) if path.is_dir() else _read_file(path)
    about = _config_beside(path)
    for _ in range(DEEPEST):
        inner = next((k for k in WRAPPERS if _holds_weights(container.get(k))), None)
        if inner is None:
            break
        about |= {str(key): value for key, value in container.items() if key != inner}
        container = container[inner]
    weights = {str(key): value for key, value in container.items() if isinstance(value, Tensor)}
    about |= {str(key): value for key, value in container.items() if not isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"{path} holds no weights; its entries are {sorted(map(str, container))[:5]}")
    return Checkpoint({bare(key, prefixes): tensor for key, tensor in weights.items()}, about)


def bare(key: str, prefixes: tuple[str, ...]) -> str:
    """A name without any of the prefixes and those of parallel training, in whatever order they are nested."""
    prefixes = (*WORKER_PREFIXES, *prefixes)
    while (prefix := next((p for p in prefixes if key.startswith(p)), None)) is not None:
        key = key.removeprefix(prefix)
    return key


def _holds_weights(value: Any, deep: int = DEEPEST) -> bool:
    return (
        deep > 0
        and isinstance(value, Mapping)
        and any(isinstance(v, Tensor) or (k in WRAPPERS and _holds_weights(v, deep - 1)) for k, v in value.items())
    )


def _read_file(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return read_torchscript(path) if is_torchscript(path) else _read_pickle(path)


def _read_directory(path: Path) -> dict[str, Any]:
    """All the weights of a Hugging Face directory, or the only weights file of another one."""
    if (index := next((path / name for name in INDICES if (path / name).is_file()), None)) is not None:
        return _read_shards(index)
    if (whole := next((path / name for name in WHOLE if (path / name).is_file()), None)) is not None:
        return _read_file(whole)
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if len(files) != 1:
        names = f" ({', '.join(p.name for p in files[:3])} …)" if files else ""
        raise UserError(f"{path} holds {len(files)} weight files{names}; name the one to read")
    return _read_file(files[0])


def _read_shards(index: Path) -> dict[str, Any]:
    placed = _read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise UserError(f"{index} says not which file holds which weight; download it again")
    state: dict[str, Any] = {}
    for name in sorted(set(placed.values())):
        shard = index.parent / name
        if shard.parent != index.parent or not shard.is_file():
            raise UserError(f"{index} names {name!r}, which is not beside it; download that file too")
        state |= _read_file(shard)
    if absent := [key for key in placed if key not in state]:
        raise UserError(f"{index}: {len(absent)} weights are in no file, first {absent[:3]}; download again")
    return state


def _config_beside(path: Path) -> dict[str, Any]:
    """{"config": …} of a directory, or of the directory that a safetensors file lies in."""
    folder = path if path.is_dir() else path.parent
    config = folder / "config.json"
    if not config.is_file() or (path != folder and path.name not in WHOLE):
        return {}
    return {"config": _read_json(config)}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not an object; download it again")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no readable safetensors file ({error}); download it again") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(HARMLESS)):
            warnings.simplefilter("ignore")  # about pickles of another protocol
            # The older, unzipped format cannot be mapped.
            container = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        lines = str(error).splitlines()
        reason = next((line.strip() for line in lines if "GLOBAL" in line or "Unsupported" in line), "")
        raise UserError(f"{path} is refused: it is damaged or wants more than weights ({reason[:160]})") from error
    except Exception as error:  # a damaged pickle can fail in any way
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no readable weights file ({first[:160]}); download it again") from error
    if not isinstance(container, Mapping):
        raise UserError(f"{path} holds a {type(container).__name__}, not weights by name")
    return dict(container)
