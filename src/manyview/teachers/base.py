"""Where teachers are registered, and the terms of those that are models."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from manyview import zoo
from manyview.registry import Registry
from manyview.types import Teacher

TEACHERS: Registry[type[Teacher]] = Registry(
    "teacher", package="manyview.teachers", group="manyview.teachers", subclass_of=Teacher
)


def licence_of(source: str | Path | nn.Module) -> str:
    """The terms of a model's weights and of all they were made from, as its card says."""
    licences = [f"{entry['name']}: {entry['licence']}" for entry in zoo.licences_of(source)]
    return "; ".join(licences) or "not stated by the model"
