"""A protocol is an evaluation in two loops: `export` asks the model once and keeps its answers, `score` reads
files.

Scores can so be recomputed, compared item by item and looked at without the model. A folder belongs to one
set of settings (model, data, options): the same settings go on where they stopped, others are refused.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from manyview.config import to_dict
from manyview.data.manifest import Manifest
from manyview.evaluation import store
from manyview.registry import Registry

Model = Callable[[Tensor], dict[str, Tensor]]
Summary = dict[str, Any]


class Protocol(abc.ABC):
    """Options are the fields of a frozen dataclass; `name` and `line` are what `manyview eval --list` prints."""

    name: ClassVar[str]
    line: ClassVar[str]
    next_step: ClassVar[str] = "features IMAGES -o features --pca"
    """A command that uses the judged model, without `manyview` and `--model`."""

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """The options that decide what is exported, as JSON-able values."""

    @abc.abstractmethod
    def export(self, model: Model, data: Manifest, out: Path) -> None:
        """Write measurements and predictions into `out`, one file per view; files that are there stay."""

    @abc.abstractmethod
    def score(self, out: Path) -> Summary:
        """Judge what `export` wrote: results.jsonl (a line per item), summary.json; returns the summary."""

    @abc.abstractmethod
    def markdown(self, summary: Summary) -> str:
        """The summary as tables for people."""


PROTOCOLS: Registry[type[Protocol]] = Registry(
    "protocol", package="manyview.evaluation", group="manyview.protocols", subclass_of=Protocol
)


def evaluate(
    protocol: Protocol,
    model: Model,
    data: Manifest,
    out: Path,
    *,
    overwrite: bool = False,
    names: dict[str, str] | None = None,
) -> Summary:
    """Export into `out`, then score. Goes on where an interrupted export with the same settings stopped.

    names: what to call the model and the data in reports. Raises UserError when `out` holds an evaluation
    with other settings, unless `overwrite`.
    """
    settings = all_settings(protocol, model, data)
    store.claim(out, settings, names or {}, overwrite=overwrite)
    protocol.export(model, data, out)
    return protocol.score(out)


def all_settings(protocol: Protocol, model: Model, data: Manifest) -> dict[str, Any]:
    """What decides the exported predictions: protocol, options, model weights, data."""
    fixed = {"protocol": protocol.name, "model": fingerprint(model), "data": data.digest()}
    return {**fixed, **protocol.settings()}


def fingerprint(model: Model) -> str:
    """SHA-256 over a model's configuration, weights and buffers; of any other callable its `fingerprint` or
    class.
    """
    digest = hashlib.sha256(repr(to_dict(getattr(model, "config", None))).encode())
    if isinstance(model, torch.nn.Module):
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    else:
        digest.update(str(getattr(model, "fingerprint", type(model).__qualname__)).encode())
    return digest.hexdigest()
