"""What a training recipe is: a student, one `step` that reads beside its paper, a frozen config and presets.

A recipe knows nothing of optimisers, files, ranks or devices; the engine knows nothing of recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from manyview.config import RunConfig
from manyview.errors import UserError
from manyview.registry import Registry, did_you_mean
from manyview.types import Batches, StepResult, Views


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything a run needs besides its data: the recipe's own numbers and how they are optimised."""

    method: Any
    """The recipe's frozen config."""
    run: RunConfig
    """Steps, batch, learning rate and the like."""


class Recipe(nn.Module):
    """Base of all recipes. What is registered on the module as parameters is trained and saved."""

    Config: ClassVar[type]
    """The recipe's frozen config dataclass."""
    next_steps: ClassVar[tuple[str, ...]] = (
        "manyview reconstruct IMAGES --model {model} -o scene",
        "manyview eval recon-per-view --model {model} --data {data}",
    )
    """What to type after training; {model} and {data} are filled in."""
    student: nn.Module
    """What is trained, and what `manyview train` writes as a model directory at the end."""

    @classmethod
    def build(cls, config: Any) -> Recipe:
        """A freshly initialised recipe for `config`."""
        return cls(config)

    @staticmethod
    def presets() -> dict[str, Preset]:
        """Named settings; the first one is the default, and one is called `debug`."""
        raise NotImplementedError

    @staticmethod
    def batches(
        config: Any, run: RunConfig, *, cache: Path | None, data: Sequence[Path]
    ) -> Batches | Callable[[int], Views]:
        """A pure function from the index of a forward pass to its views: the same index, the same bits.

        Batches are loaded by several processes; a plain function is called in the one that trains.
        """
        raise NotImplementedError

    @staticmethod
    def images_of(config: Any, run: RunConfig) -> int:
        """Images of one forward pass on one rank: what rates and budgets are counted in."""
        return run.batch

    def step(self, views: Views, *, progress: float, generator: torch.Generator) -> StepResult:
        """One forward pass. `progress` is the share of the run done, in [0, 1); `generator` is on the CPU."""
        raise NotImplementedError


def only_manifests(what: str, data: Sequence[Path], cache: Path | None) -> None:
    """Raise UserError when a recipe that learns from manifests alone got none, or a cache; `what` says from what."""
    if not data:
        make = "make one: manyview data synth OUT, or manyview data scan"
        raise UserError(f"{what}: give --data M.parquet [...] ({make})")
    if cache is not None:
        raise UserError(f"{what}: leave --cache away")


RECIPES: Registry[type[Recipe]] = Registry(
    "recipe", package="manyview.recipes", group="manyview.recipes", subclass_of=Recipe
)


def preset(recipe: type[Recipe], name: str | None) -> tuple[str, Preset]:
    """The preset called `name`, or the first one. Raises UserError when there is none of that name."""
    presets = recipe.presets()
    name = name or next(iter(presets))
    if name not in presets:
        raise UserError(f"no preset {name!r}; {did_you_mean(name, presets)}")
    return name, presets[name]
