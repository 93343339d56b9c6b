"""The tensors of a TorchScript archive, read without its code: CLIP's official weights are such a file.

An archive is a zip of plain storages and one pickle that says how modules hold them. The pickle is read by an
unpickler that knows three things: rebuild a tensor, make an empty bag for a script class, keep a list.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.errors import UserError

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Bag:
    """Stands for any script class: holds attributes, does nothing."""


def is_torchscript(path: Path) -> bool:
    """Whether a file is a zip with the table of constants that only script archives have."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_torchscript(path: Path) -> dict[str, Any]:
    """Dotted attribute name -> tensor or plain value, as `state_dict()` would name them.

    Raises UserError when the archive is damaged or its pickle wants anything but tensors and bags.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(entry) as stream:
                root = _Unpickler(stream, archive, entry.removesuffix("data.pkl")).load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is refused: its archive is damaged or wants more than weights ({error})") from error
    except Exception as error:  # a damaged archive can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no readable archive ({reason[:160]}); download it again") from error
    return dict(_values(root))


def _values(bag: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in vars(bag).items() if isinstance(bag, Bag) else ():
        if isinstance(value, Bag):
            yield from _values(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor) or not prefix:
            yield f"{prefix}{name}", value


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _untagged(value: Any, _: str) -> Any:
    return value


# What the pickle may ask for beside script classes and storages.
BUILDERS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.jit._pickle", "restore_type_tag"): _untagged,
    **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return Bag
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) not in BUILDERS:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}"[:160])
        return BUILDERS[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("an unknown kind of storage")
        if key not in self._storages:
            raw = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            self._storages[key] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        if len(self._storages[key]) != count:
            raise ValueError(f"storage {key} is {len(self._storages[key])} numbers long, not {count}")
        return self._storages[key]
