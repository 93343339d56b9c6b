"""Reading weight files of others without ever running code from them: weights, and what lies beside them."""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from manyview.errors import UserError
from manyview.files import read_object, stand_in
from manyview.zoo.unpickling import HARMLESS, is_torchscript, no_code, read_torchscript

# Where containers keep their weights, outermost first; `module` is DeepSpeed's.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
# Containers in containers; a pickle may hold itself.
DEEPEST = 4
# Where training keeps one of several sets of weights, the one that is usually wanted first.
PARTS = (
    "teacher",
    "model_ema",
    "ema",
    "ema_model",
    "state_dict_ema",
    "ema_state_dict",
    "params_ema",
    "target_encoder",
    "encoder",
    "student",
)
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
AGAIN = "download it again"
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
    beside: tuple[str, ...] = ()
    """Other entries of the container that hold weights too."""
    without: int = 0
    """How many weights were left out for the prefix."""


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
    beside: list[str] = []
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
        beside += [str(key) for key, value in container.items() if key != inner and _holds_weights(value)]
        container = container[inner]
        taken.append(inner)
    weights = {str(key): value for key, value in container.items() if isinstance(value, Tensor)}
    about |= {str(key): value for key, value in container.items() if not isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"{path} holds no weights; its entries are {_entries(container)}; --part names the right one")
    if any(str(key).endswith("_flat_param") for key in weights):
        raise UserError(
            f"{path} holds what FSDP made of the weights of one process (_flat_param); save them whole: "
            "StateDictType.FULL_STATE_DICT"
        )
    weights.pop("n_averaged", None)  # a counter of torch.optim.swa_utils
    weights = _bared(path, weights, prefixes)
    if prefix is None:
        prefix = "" if likeness is None else _prefix_of(weights, likeness)[0]
    under = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
    if not under:
        raise UserError(f"{path}: no weight's name begins with {prefix!r}, the first is {next(iter(weights))!r}")
    usual = set(taken) <= set(WRAPPERS) and not beside
    return Checkpoint(under, about, "" if usual else ".".join(taken), prefix, tuple(beside), len(weights) - len(under))


def _bared(path: Path, weights: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Bare names. Raises UserError where two weights would have the same."""
    bared: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if (name := bare(key, prefixes)) in bared:
            raise UserError(
                f"{path}: two weights are called {name!r} once wrappers are taken off; save one set of them"
            )
        bared[name] = tensor
    return bared


def _entries(container: Mapping[Any, Any]) -> list[str]:
    return sorted(map(str, container))[:5]


def _part_of(container: Mapping[Any, Any], prefixes: tuple[str, ...], likeness: Likeness | None) -> str | None:
    """The entry to look into: a usual wrapper, else the one whose names fit best, of equal ones the usual one."""
    if usual := next((k for k in WRAPPERS if _holds_weights(container.get(k))), None):
        return usual
    if any(isinstance(value, Tensor) for value in container.values()):
        return None
    parts = [key for key in container if isinstance(key, str) and _holds_weights(container[key])]
    parts.sort(key=_place)
    if likeness is None or len(parts) < 2:
        return parts[0] if parts and (parts[0] in PARTS or likeness is not None) else None

    def fits(key: str) -> float:
        names = [bare(str(name), prefixes) for name in container[key]]
        return _prefix_of(dict.fromkeys(names), likeness)[1]

    return max(parts, key=fits)


def _place(*words: str) -> int:
    """How far up the parts that are usually wanted the first of these is."""
    return min((PARTS.index(word) for word in words if word in PARTS), default=len(PARTS))


def _prefix_of(names: Mapping[str, Any], likeness: Likeness) -> tuple[str, float]:
    """The prefix without which names fit clearly better than with it, and how well; empty for none."""
    heads = Counter(head for name in names for head in _heads(name))
    rated = [("", likeness(names))]
    for head, count in sorted(heads.most_common(12), key=lambda pair: _place(*pair[0].split("."))):
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
    """By what the file holds, whatever its name says."""
    if is_safetensors(path):
        return read_safetensors(path)
    refuse_other_kinds(path)
    return read_torchscript(path) if is_torchscript(path) else _read_pickle(path)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a header of JSON that it is long enough for."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
        return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8
    except OSError:
        return False


# How files begin that people take for weights; what they are, and what to do.
_OTHERS = (
    (b"GGUF", "a GGUF file of another library, which is not read here; take the published file of PyTorch"),
    (b"\x89HDF", "an HDF5 file (Keras), which is not read here; take the published file of PyTorch"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first (gunzip)"),
    (b"BZh", "compressed by bzip2; unpack it first (bunzip2)"),
    (b"\xfd7zXZ", "compressed by xz; unpack it first (unxz)"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first (unzstd)"),
)


def refuse_other_kinds(path: Path, mend: str = "download it again") -> None:
    """Say what a file is that holds no weights, by its content. Raises UserError, with `mend` for one that is cut."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    what = stand_in(path, "weights")
    what = what or next((sentence for start, sentence in _OTHERS if head.startswith(start)), None)
    if what is None and head[257:262] == b"ustar":
        what = "a tar archive; unpack it and name the weights file inside"
    if what is None and head.startswith(b"PK\x03\x04"):
        what = _of_zip(path, mend)
    if what is None and not head:
        what = f"empty (0 bytes); {mend}"
    elif what is None and (words := _words(head)):
        what = f"text, not the weights ({words!r}): the download was refused; get it again"
    elif what is None and head[:1] not in (b"\x80", b"P") and path.suffix != ".safetensors":
        what = f"no file of weights that is known here (it begins with {head[:12]!r}); {mend}"
    if what:
        raise UserError(f"{path} is {what}")


def _words(head: bytes) -> str:
    """The first words of text; empty for anything else."""
    text = head[:60].decode("utf-8", "replace")
    return " ".join(text.split()) if all(letter.isprintable() or letter.isspace() for letter in text) else ""


def _of_zip(path: Path, mend: str) -> str | None:
    """What a zip file is that is none of PyTorch's."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return f"cut off or damaged (a zip file without its end); {mend}"
    if any(name.endswith("/data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "a file of numpy arrays (npz), which is not read here; save a dictionary of tensors by torch.save"
    return f"a zip archive of other files ({', '.join(names[:3])} …); unpack it and name the weights file inside"


def _read_directory(path: Path) -> dict[str, Any]:
    """All the weights of a Hugging Face directory, or the only weights file of another one."""
    if (index := next((path / name for name in INDICES if (path / name).is_file()), None)) is not None:
        return _read_shards(index)
    if (whole := next((path / name for name in WHOLE if (path / name).is_file()), None)) is not None:
        return _read_file(whole)
    if (path / ".metadata").is_file() and any(path.glob("*.distcp")):
        raise UserError(
            f"{path} is a checkpoint in shards (torch.distributed.checkpoint); make one file of it first: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pth"
        )
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if not files:
        raise UserError(f"{path} holds no file of weights ({', '.join(SUFFIXES)}); name the file, or its folder")
    if len(files) > 1:
        names = ", ".join(p.name for p in files[:3])
        raise UserError(f"{path} holds {len(files)} weight files ({names} …); name the one to read")
    return _read_file(files[0])


def _read_shards(index: Path) -> dict[str, Any]:
    placed = read_object(index, mend=AGAIN).get("weight_map")
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
    return {"config": read_object(config, mend=AGAIN)}


def read_safetensors(path: Path, mend: str = "download it again") -> dict[str, Tensor]:
    """The tensors of a file, mapped. Raises UserError, with `mend` as advice, for a damaged one."""
    if not is_safetensors(path):
        refuse_other_kinds(path, mend)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no readable safetensors file ({error}); {mend}") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    with no_code(path, "weights file"), warnings.catch_warnings(), torch.serialization.safe_globals(list(HARMLESS)):
        warnings.simplefilter("ignore")  # about pickles of another protocol
        if path.suffix == ".safetensors":  # which torch.load would take for one
            with path.open("rb") as file:
                container = torch.load(file, map_location="cpu", weights_only=True)
        else:  # the older, unzipped format cannot be mapped
            container = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(container, Mapping):
        raise UserError(f"{path} holds a {type(container).__name__}, not weights by name")
    return dict(container)
