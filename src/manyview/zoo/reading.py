"""Reading weight files of others without ever running code from them: weights, and what lies beside them."""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import pickle
import re
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from manyview.errors import UserError
from manyview.files import read_json

# Where containers keep their weights, outermost first; `module` is DeepSpeed's.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
# Containers in containers; a pickle may hold itself.
DEEPEST = 4
# Where training keeps one of several sets of weights, the one that is usually wanted first.
PARTS = ("teacher", "model_ema", "ema", "ema_model", "state_dict_ema", "target_encoder", "encoder", "student")
# Left by torch.compile and by data-parallel training.
WORKER_PREFIXES = ("_orig_mod.", "module.")
# Left inside names by wrappers of single blocks: torch.compile, checkpointing, FSDP.
_INSIDE = re.compile(r"\b(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
# How much better names must fit without a prefix for it to be taken off.
_BETTER = 0.2
Likeness = Callable[[Iterable[str]], float]
"""Names of weights -> how near they are to a layout, 0 to 1."""
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
    part: str = ""
    """The entry of the container that the weights are from; empty where there was no choice."""
    prefix: str = ""
    """What was taken off the names; weights without it were left out."""


def read_checkpoint(
    path: Path | str,
    prefixes: tuple[str, ...] = (),
    *,
    part: str | None = None,
    prefix: str | None = None,
    likeness: Likeness | None = None,
) -> Checkpoint:
    """A .safetensors file, a pickle, a TorchScript archive, or a directory that holds one model.

    prefixes: taken off the names that have them (a Lightning container's `student.`). part: the container's entry to
    read (`teacher`, `model.ema`); prefix: read the weights whose names begin so, without it. Where these are not given
    and `likeness` is, the ones that fit best. Raises UserError for a file that is damaged, holds no weights, or wants
    to run code.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give the weights file or its folder")
    container = _read_directory(path) if path.is_dir() else _read_file(path)
    about = _config_beside(path)
    taken: list[str] = []
    wanted = None if part is None else part.split(".")
    for _ in range(DEEPEST if wanted is None else len(wanted)):
        if wanted is not None:
            inner = wanted[len(taken)]
            if not _holds_weights(container.get(inner)):
                raise UserError(f"{path} has no part {part!r} with weights; its entries are {_entries(container)}")
        else:
            found = _part_of(container, prefixes, likeness)
            if found is None:
                break
            inner = found
        about |= {str(key): value for key, value in container.items() if key != inner}
        container = container[inner]
        taken.append(inner)
    weights = {str(key): value for key, value in container.items() if isinstance(value, Tensor)}
    about |= {str(key): value for key, value in container.items() if not isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"{path} holds no weights; its entries are {_entries(container)}; --part names the right one")
    weights = {bare(key, prefixes): tensor for key, tensor in weights.items()}
    if prefix is None:
        prefix = "" if likeness is None else _prefix_of(weights, likeness)[0]
    under = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
    if not under:
        raise UserError(f"{path}: no weight's name begins with {prefix!r}, the first is {next(iter(weights))!r}")
    return Checkpoint(under, about, "" if set(taken) <= set(WRAPPERS) else ".".join(taken), prefix)


def _entries(container: Mapping[Any, Any]) -> list[str]:
    return sorted(map(str, container))[:5]


def _part_of(container: Mapping[Any, Any], prefixes: tuple[str, ...], likeness: Likeness | None) -> str | None:
    """The entry to look into: a usual wrapper, else the one whose names fit best, of equal ones the usual one."""
    if usual := next((k for k in WRAPPERS if _holds_weights(container.get(k))), None):
        return usual
    if any(isinstance(value, Tensor) for value in container.values()):
        return None
    parts = [key for key in container if isinstance(key, str) and _holds_weights(container[key])]
    parts.sort(key=lambda key: PARTS.index(key) if key in PARTS else len(PARTS))
    if likeness is None or len(parts) < 2:
        return parts[0] if parts and (parts[0] in PARTS or likeness is not None) else None

    def fits(key: str) -> float:
        names = [bare(str(name), prefixes) for name in container[key]]
        return _prefix_of(dict.fromkeys(names), likeness)[1]

    return max(parts, key=fits)


def _prefix_of(names: Mapping[str, Any], likeness: Likeness) -> tuple[str, float]:
    """The prefix without which names fit clearly better than with it, and how well; empty for none."""
    heads = Counter(head for name in names for head in _heads(name))
    rated = [("", likeness(names))]
    for head, count in heads.most_common(12):
        if count > 2:
            rated.append((head, likeness([name.removeprefix(head) for name in names if name.startswith(head)])))
    best = max(rated, key=lambda pair: pair[1])
    return best if best[1] > rated[0][1] + _BETTER else rated[0]


def _heads(name: str) -> list[str]:
    """a., a.b., a.b.c. of a.b.c.weight."""
    words = name.split(".")[:-1][:3]
    return [".".join(words[: count + 1]) + "." for count in range(len(words))]


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def bare(key: str, prefixes: tuple[str, ...]) -> str:
    """A name without any of the prefixes and those of parallel training, in whatever order they are nested."""
    key, prefixes = _INSIDE.sub("", key), (*WORKER_PREFIXES, *prefixes)
    while (prefix := next((p for p in prefixes if key.startswith(p)), None)) is not None:
        key = key.removeprefix(prefix)
    return key


_INNER = (*WRAPPERS, *PARTS)


def _holds_weights(value: Any, deep: int = DEEPEST) -> bool:
    return (
        deep > 0
        and isinstance(value, Mapping)
        and any(isinstance(v, Tensor) or (k in _INNER and _holds_weights(v, deep - 1)) for k, v in value.items())
    )


def _read_file(path: Path) -> dict[str, Any]:
    _refuse_text(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return read_torchscript(path) if is_torchscript(path) else _read_pickle(path)


def _refuse_text(path: Path) -> None:
    """Say what a download is that brought no weights."""
    try:
        with path.open("rb") as file:
            head = file.read(200).lstrip().lower()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if head.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`, or download again"
        )
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(
            f"{path} is a web page, not weights: the download was refused or asks for a login; get it again"
        )


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
    content = read_json(path, mend="download it again")
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not an object; download it again")
    return content


def read_safetensors(path: Path, mend: str = "download it again") -> dict[str, Tensor]:
    """The tensors of a file, mapped. Raises UserError, with `mend` as advice, for a damaged one."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no readable safetensors file ({error}); {mend}") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    with _no_code(path, "weights file"), warnings.catch_warnings(), torch.serialization.safe_globals(list(HARMLESS)):
        warnings.simplefilter("ignore")  # about pickles of another protocol
        # The older, unzipped format cannot be mapped.
        container = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(container, Mapping):
        raise UserError(f"{path} holds a {type(container).__name__}, not weights by name")
    return dict(container)


@contextmanager
def _no_code(path: Path, what: str) -> Iterator[None]:
    """Turn what an unpickler raises into a UserError: it refuses code, and damaged files fail in any way."""
    try:
        yield
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
    with _no_code(path, "archive"), zipfile.ZipFile(path) as archive:
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
