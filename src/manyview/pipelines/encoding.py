"""A network and everything that decides its features: which blocks, normed or not, which size, whose space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyview import zoo
from manyview.config import to_dict
from manyview.engine.device import autocast, pick_device
from manyview.errors import UserError
from manyview.images.fit import Fit, longest
from manyview.pipelines.feature_set import Tokens
from manyview.pipelines.options import FeatureOptions
from manyview.types import Features
from manyview.zoo.encoders import image_encoder

LAST = -1
"""Key of the last block's tokens, which are always there."""

Levels = dict[int, Tokens]


class Encoding:
    """A network and everything that decides its features."""

    def __init__(
        self, model: Any, *, layers: Any, norm: bool, size: int | None, device: str, options: FeatureOptions
    ) -> None:
        self.network, self.name, self.device = _network(model, device)
        self.dtype = next((p.dtype for p in self.network.parameters()), torch.float32)
        self.card = _card(model)
        self.encode, owner = image_encoder(self.network, self.name)
        config = getattr(owner, "config", None) or getattr(self.network, "config", None)
        self.patch = int(getattr(owner, "patch_size", 0) or getattr(config, "patch_size", 14))
        self.depth = int(getattr(config, "depth", 0))
        self.size = size or int(np.max(getattr(config, "image_size", 16 * self.patch)))
        if self.size < self.patch:
            raise UserError(f"size {self.size} is less than a patch of {self.name} ({self.patch} pixels)")
        self.norm, self.options = norm, options
        self.layers = self._blocks(layers)
        if options.project is not None:
            self._check_projector(options.project)

    def _blocks(self, layers: Any) -> list[int]:
        if layers is None:
            return []
        if isinstance(layers, str) and layers != "all":
            raise UserError(f"layers are {layers!r}; give block numbers, or 'all'")
        asked = range(self.depth) if isinstance(layers, str) else [int(i) for i in layers]
        wrong = [i for i in asked if not -self.depth <= i < self.depth]
        if wrong:
            raise UserError(
                f"{self.name} has no block {wrong[0]}; its {self.depth} blocks are 0 to {self.depth - 1}"
            )
        return sorted({i % self.depth for i in asked})

    def _check_projector(self, teacher: str) -> None:
        if not hasattr(self.network, "project"):
            raise UserError(f"model {self.name!r} has no projectors; they are part of the dune models")
        known = tuple(getattr(self.network.config, "teachers", ()))
        if teacher not in known:
            raise UserError(f"{self.name} has no projector {teacher!r}; it has {', '.join(known) or 'none'}")
        if self.layers:
            raise UserError(
                "a projector reads fixed blocks; ask for projected features or for layers, not both"
            )

    def settings(self) -> dict[str, Any]:
        """What decides the numbers in the files, JSON-able."""
        config = getattr(self.network, "config", None)
        return {
            "weights": fingerprint(self.network, config),
            "size": self.size,
            "patch": self.patch,
            "layers": self.layers,
            "norm": self.norm,
            "project": self.options.project,
            "half": self.options.half,
            "precision": self.options.precision,
        }

    def fit(self, source: tuple[int, int]) -> Fit:
        return longest(source, long_side=self.size, multiple=self.patch)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[np.ndarray]) -> list[Levels]:
        """Pictures of one size -> per picture {LAST: the last block's tokens, block: its tokens}."""
        images = torch.from_numpy(np.stack(pictures)).to(self.device).permute(0, 3, 1, 2)
        images = images.to(self.dtype) / 255
        try:
            with evaluating(self.network), autocast(self.device, self.options.precision):
                levels = self._levels(images)
        except torch.OutOfMemoryError:
            if len(pictures) == 1:
                raise UserError(
                    f"no memory on {self.device} for one picture of {images.shape[-1]}x{images.shape[-2]}; "
                    "choose a smaller size, or another device"
                ) from None
            del images
            half = len(pictures) // 2
            return self(pictures[:half]) + self(pictures[half:])
        stored = {key: self._stored(level) for key, level in levels.items()}
        return [{key: level[i] for key, level in stored.items()} for i in range(len(pictures))]

    def _levels(self, images: Tensor) -> dict[int, Features]:
        if self.options.project is not None:
            blocks = getattr(self.network, "projected_layers", None)
            raw = self.encode(images, norm=False, layers=blocks)
            return {LAST: self.network.project(raw, self.options.project)}
        if not self.layers:
            return {LAST: self.encode(images, norm=self.norm)}
        wanted = sorted({*self.layers, self.depth - 1})
        levels = dict(zip(wanted, self.encode(images, layers=wanted, norm=self.norm), strict=True))
        return {LAST: levels[self.depth - 1], **{i: levels[i] for i in self.layers}}

    def _stored(self, level: Features) -> list[Tokens]:
        patches, cls, registers = (
            None if value is None else self._numbers(value)
            for value in (level.patches, level.cls, level.registers)
        )
        if patches is None:
            raise RuntimeError(f"{self.name} gave no patches")
        maps = patches.reshape(len(patches), *level.grid, -1)
        return [
            Tokens(maps[i], None if cls is None else cls[i], None if registers is None else registers[i])
            for i in range(len(maps))
        ]

    def _numbers(self, values: Tensor) -> np.ndarray:
        if self.options.half:
            most = torch.finfo(torch.float16).max
            return values.clamp(-most, most).half().cpu().numpy()
        return values.float().cpu().numpy()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in eval mode, and in train mode again afterwards if it was."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _network(model: Any, device: str) -> tuple[Any, str, torch.device]:
    """The network, its name, where it runs. A loaded one stays where it is unless told otherwise."""
    if isinstance(model, nn.Module):
        home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        target = home if device == "auto" else pick_device(device)
        return model.to(target), type(model).__name__, target
    target = pick_device(device)
    return zoo.load(str(model), device=target), str(model), target


def _card(model: Any) -> dict[str, Any]:
    """What is known of a model by name or directory: licence and the like."""
    if isinstance(model, nn.Module):
        return {}
    path = Path(str(model)).expanduser()
    if path.is_dir():
        from manyview.zoo.directory import read_config

        return dict(read_config(path).get("card") or {})
    card = zoo.CARDS.get(str(model))
    return {} if card is None else to_dict(card)


def fingerprint(network: nn.Module, config: Any) -> str:
    """Tells two sets of weights apart: a hash of the configuration and of some numbers of every tensor."""
    content = hashlib.sha256(json.dumps(to_dict(config), sort_keys=True, default=str).encode())
    for key, tensor in sorted(network.state_dict().items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, len(flat) // 64)][:64].double().cpu().numpy()
        content.update(f"{key} {tuple(tensor.shape)}".encode() + some.tobytes())
    return content.hexdigest()[:32]
