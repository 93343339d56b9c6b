"""Batches for the feed's tests, importable by the processes that load them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from manyview.errors import UserError
from manyview.images.reading import ImageProblem
from manyview.types import Batches, Views


@dataclass
class Numbers(Batches):
    """Batch i holds i, and who loaded it; index `broken` is a user's mistake, `dead` the end of its process."""

    broken: int = -1
    dead: int = -1
    folder: Path | None = None

    def load(self, index: int) -> Any:
        if index == self.broken:
            raise ImageProblem("frame7.png", "truncated")
        if index == self.dead:
            os._exit(3)
        if self.folder is not None:
            (self.folder / str(index)).touch()
        noise = torch.rand(2, generator=torch.Generator().manual_seed(index))
        return torch.full((1, 1, 3, 2, 2), float(index)), noise, os.getpid()

    def finish(self, loaded: Any, device: torch.device) -> Views:
        images, noise, loader = loaded
        return Views(images.to(device) + noise.sum(), names=[[str(loader)]])

    def describe(self) -> dict[str, Any]:
        return {"broken": self.broken}


class BadConfigurationError(UserError):
    """A mistake of a kind of its own."""
