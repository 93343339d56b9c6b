"""Checkpoints of a run: `checkpoints/00000100/{model.safetensors, state.pt, meta.json}`, whole or not there.

A checkpoint is written into a hidden folder, flushed to the disk and renamed; older ones are deleted only
after that. `meta.json` names the size and digest of the other files and its own, so that a damaged checkpoint is
noticed and the one before it is used. Nothing is read that could run code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from manyview.errors import UserError, mismatch
from manyview.files import parse_json, sync_folder, writing
from manyview.types import not_finite

LOG = logging.getLogger(__name__)

FORMAT = 1
WEIGHTS, STATE, META = "model.safetensors", "state.pt", "meta.json"


@dataclass(frozen=True)
class Checkpoint:
    """One intact checkpoint on the disk."""

    path: Path
    step: int
    meta: dict[str, Any]
    """What `save` was given: counters, running means, the recipe's name."""

    def weights(self) -> dict[str, Tensor]:
        return load_file(self.path / WEIGHTS)

    def moments(self) -> dict[int, dict[str, Tensor]]:
        """The optimiser's state per parameter index."""
        state = torch.load(self.path / STATE, map_location="cpu", weights_only=True)
        return state["optimizer"]


def folder(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def save(
    run_dir: Path,
    step: int,
    weights: dict[str, Tensor],
    moments: dict[int, dict[str, Tensor]],
    *,
    meta: dict[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of `step`, then delete all but the `keep` newest. UserError when the disk is full.

    One of the same step is replaced; the good ones before it stay until this one is whole.
    """
    parent = folder(run_dir)
    final = parent / f"{step:08d}"
    temporary = parent / f".{step:08d}.{os.getpid()}.tmp"
    older = steps(run_dir)
    kept = f"the checkpoint of step {older[-1]} is kept" if older else ""
    try:
        with writing(f"the checkpoint {final}", kept=kept):
            temporary.mkdir(parents=True)
            _write(temporary, step, weights, moments, meta)
            if final.exists():
                aside = parent / f".{step:08d}.{os.getpid()}.old"
                os.rename(final, aside)
                os.rename(temporary, final)
                shutil.rmtree(aside)
            else:
                os.rename(temporary, final)
            sync_folder(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    # Only what is older than the one just written: a damaged newer one must not push a good one out.
    for old in [s for s in steps(run_dir) if s < step][: -(keep - 1) or None]:
        shutil.rmtree(parent / f"{old:08d}", ignore_errors=True)
    return final


def _write(
    temporary: Path, step: int, weights: dict[str, Tensor], moments: dict[int, dict[str, Tensor]], meta: dict[str, Any]
) -> None:
    save_file(_separate(weights), temporary / WEIGHTS, metadata={"format": "pt"})
    with open(temporary / STATE, "wb") as file:
        torch.save({"optimizer": moments}, file)
    files = {name: _describe(temporary / name) for name in (WEIGHTS, STATE)}
    content = {"format": FORMAT, "step": step, "files": files, "meta": meta}
    (temporary / META).write_text(_checked(content), encoding="utf-8")
    for name in (WEIGHTS, STATE, META):
        handle = os.open(temporary / name, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(temporary)


def _checked(content: dict[str, Any]) -> str:
    """The text of meta.json, with a digest of all that it says."""
    check = hashlib.sha256(json.dumps(content, indent=2).encode()).hexdigest()
    return json.dumps({**content, "check": check}, indent=2) + "\n"


def _separate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, as safetensors wants: tied weights are written twice."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        if storage in seen:
            tensor = tensor.clone()
        seen.add(storage)
        separate[name] = tensor
    return separate


def _describe(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def steps(run_dir: Path) -> list[int]:
    """The steps that have a checkpoint folder, ascending; whether they are intact is for `latest` to say."""
    if not folder(run_dir).is_dir():
        return []
    return sorted(int(p.name) for p in folder(run_dir).iterdir() if p.name.isdigit() and p.is_dir())


def clean(run_dir: Path) -> None:
    """Delete half-written checkpoints of a run that was killed."""
    if folder(run_dir).is_dir():
        for path in folder(run_dir).iterdir():
            if path.name.startswith(".") and path.name.endswith((".tmp", ".old")):
                shutil.rmtree(path, ignore_errors=True)


def latest(run_dir: Path) -> Checkpoint | None:
    """The newest intact checkpoint, or None. Damaged ones are skipped with a warning that names them."""
    for step in reversed(steps(run_dir)):
        path = folder(run_dir) / f"{step:08d}"
        try:
            return _open(path, step)
        except (OSError, ValueError, KeyError, TypeError) as error:
            LOG.warning("skipping the damaged checkpoint %s: %s", path, error)
    return None


def at(run_dir: Path, step: int) -> Checkpoint:
    """The checkpoint of a step. Raises what makes it unreadable."""
    return _open(folder(run_dir) / f"{step:08d}", step)


def set_aside(run_dir: Path, newer_than: int) -> None:
    """Rename the damaged checkpoints past the one resumed from, so that they are never taken for good."""
    for step in steps(run_dir):
        if step > newer_than:
            path = folder(run_dir) / f"{step:08d}"
            shutil.rmtree(path.with_name(f"damaged-{path.name}"), ignore_errors=True)
            path.rename(path.with_name(f"damaged-{path.name}"))


def _open(path: Path, step: int) -> Checkpoint:
    text = (path / META).read_text(encoding="utf-8")
    content = parse_json(text)
    known = {key: content[key] for key in ("format", "step", "files", "meta")}
    if content.keys() != known.keys() and text != _checked(known):  # without a digest: of an earlier version
        raise ValueError(f"{META} is not the file that was written")
    if content["format"] != FORMAT or content["step"] != step:
        raise ValueError(f"{META} says format {content['format']}, step {content['step']}")
    for name in (WEIGHTS, STATE):
        if _describe(path / name) != content["files"][name]:
            raise ValueError(f"{name} is not the file that was written (size or digest differ)")
    return Checkpoint(path, step, content["meta"])


def load_weights(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into `module`. UserError, before anything is changed, when it is of another one."""
    with safe_open(checkpoint.path / WEIGHTS, framework="pt") as file:
        theirs = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    if problem := mismatch({name: tensor.shape for name, tensor in module.state_dict().items()}, theirs):
        raise UserError(
            f"{checkpoint.path / WEIGHTS} is of another architecture: {problem}; "
            "resume with the recipe and the options the run was started with"
        )
    try:
        weights = checkpoint.weights()
        if bad := not_finite(weights):
            raise UserError(
                f"{checkpoint.path} is poisoned: {bad[0]} holds NaN or infinite values; delete that folder, then "
                "resume from the checkpoint before it, or start anew"
            )
        module.load_state_dict(weights)
    except SafetensorError as error:
        raise UserError(f"{checkpoint.path / WEIGHTS} cannot be read: {error}; delete that checkpoint") from error
