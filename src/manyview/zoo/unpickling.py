"""Unpickling without running code: what a pickle of weights may build, and TorchScript archives without their code."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.errors import UserError


@contextmanager
def no_code(path: Path, what: str) -> Iterator[None]:
    """Turn what an unpickler raises into a UserError: it refuses code, and damaged files fail in any way."""
    try:
        yield
    except (MemoryError, UserError):
        raise
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        if not isinstance(error, pickle.UnpicklingError):
            raise UserError(f"{path} is no readable {what} ({lines[0][:160]}); download it again") from error
        reason = next((line.strip() for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0])
        if asked := re.search(r"GLOBAL (\S+)", reason):  # the unpickler goes on with how to let it run
            reason = f"it asks for {asked[1]}"
        raise UserError(
            f"{path} is refused: it is damaged or wants more than weights ({reason[:160]}), and no code of a file is "
            "run here; save its state_dict alone, or take a file of safetensors"
        ) from error


class Kept:
    """Stands for a numpy array or generator: takes whatever it is given and does nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def plain_dict(*_: Any) -> OrderedDict[Any, Any]:
    """Stands for a defaultdict, whose default nobody needs."""
    return OrderedDict()


class NumberKind:
    """Stands for numpy.dtype: remembers the letter and the byte order."""

    def __init__(self, letter: str, *_: Any) -> None:
        self.letter, self.order = str(letter), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if isinstance(state, tuple) and ">" in state[1:2] else "<"


def number(kind: NumberKind, raw: bytes | str) -> int | float | bool:
    """Stands for numpy's scalar: the Python number. Raises ValueError for anything else."""
    if not isinstance(kind, NumberKind) or not re.fullmatch(r"b1|[iu][1248]|f[248]", kind.letter):
        raise ValueError("a numpy value that is no plain number")
    return np.frombuffer(raw.encode("latin-1") if isinstance(raw, str) else raw, kind.order + kind.letter).item()


# What a pickle may build beside tensors and plain containers, for torch.serialization.safe_globals: things that only
# hold values, some in the place of classes that do more: paths never look at the disk, numpy numbers become Python's.
HARMLESS: tuple[Any, ...] = (
    argparse.Namespace,
    *((pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((pathlib.PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    *((number, f"{module}.scalar") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    (NumberKind, "numpy.dtype"),
    *((Kept, f"{module}._reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    (Kept, "numpy.ndarray"),
    *((kind, f"{module}.{kind.__name__}") for kind in (dict, list, set) for module in ("builtins", "__builtin__")),
    (plain_dict, "collections.defaultdict"),
)


def is_torchscript(path: Path) -> bool:
    """Whether a file is a zip with the table of constants that only script archives have."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_torchscript(path: Path) -> dict[str, Any]:
    """A TorchScript archive (CLIP's official weights are one) without its code: dotted attribute name -> value.

    An archive is a zip of plain storages and one pickle that says how modules hold them. Raises UserError when it is
    damaged or its pickle wants anything but tensors, lists and empty bags in the place of script classes.
    """
    with no_code(path, "archive"), zipfile.ZipFile(path) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(entry) as stream:
            return dict(_values(_ScriptUnpickler(stream, archive, entry.removesuffix("data.pkl")).load()))


class Bag:
    """Stands for any script class: holds attributes, does nothing."""


def _values(bag: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in vars(bag).items() if isinstance(bag, Bag) else ():
        if isinstance(value, Bag):
            yield from _values(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor) or not prefix:
            yield f"{prefix}{name}", value


STORAGES = {
    f"{name.title()}Storage": getattr(torch, name)
    for name in ["double", "float", "half", "long", "int", "short", "bool"]
}
STORAGES |= {"BFloat16Storage": torch.bfloat16, "CharStorage": torch.int8, "ByteStorage": torch.uint8}
# What the pickle of a script may ask for beside script classes and storages.
BUILDERS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): lambda flat, start, size, stride, *_: flat.as_strided(size, stride, start),
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
    **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
}


class _ScriptUnpickler(pickle.Unpickler):
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
