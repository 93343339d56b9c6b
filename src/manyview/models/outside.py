"""Encoders of other libraries, in the manner of ours: `timm:NAME` and `hf:NAME|DIR`, for tables and as teachers.

Their weights come from those libraries' own caches and hubs; nothing of them is converted or kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.patches import image_grid
from manyview.models.model import EncodesImages, Model, device_of
from manyview.types import Features

TIMM, HF = "timm:", "hf:"
NORMS = ("layernorm", "post_layernorm", "norm")
"""What transformers calls the last norm."""
Blocks = list[tuple[Tensor, Tensor | None]]
"""Of every block that was asked for: maps (N, D, h, w) and class tokens (N, D)."""
Run = Callable[[Any, Tensor, Sequence[int], bool], Blocks]
"""A network, normalised images, block numbers, whether the last norm is applied -> what these blocks say."""


def is_outside(source: object) -> bool:
    return isinstance(source, str) and source.startswith((TIMM, HF))


@dataclass(frozen=True, kw_only=True)
class OutsideConfig:
    """What is asked of an encoder; of stages of several widths, what the last one has."""

    source: str
    dim: int
    depth: int
    patch_size: int
    """Pixels on a side of a cell of the last block's map."""
    cls_token: bool
    image_size: int


class Outside(Model, EncodesImages):
    """An encoder of timm or transformers. Its blocks cannot be masked."""

    def __init__(
        self, config: OutsideConfig, network: nn.Module, run: Run, colours: Any, afresh: Callable[[], nn.Module]
    ) -> None:
        """`colours`: mean and spread that images are normalised by. `afresh` makes the network with random weights."""
        super().__init__()
        self.config, self.network, self._run, self._colours, self._afresh = config, network, run, colours, afresh
        self.card = MappingProxyType({"name": config.source, "licence": f"as its publisher says of {config.source}"})
        self.blocks = range(config.depth)
        for name, values in zip(("mean", "std"), colours, strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)

    def untrained(self, seed: int) -> Outside:
        """The same network as its library makes it anew, on the same device, in eval mode; torch's generator stays."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            other = Outside(self.config, self._afresh(), self._run, self._colours, self._afresh)
        other.fixed_size = self.fixed_size
        return other.to(device_of(self)).eval()

    def encode_blocks(
        self, images: Tensor, layers: Sequence[int], *, mask: Tensor | None = None, norm: bool = True
    ) -> list[Features]:
        """As of any encoder; raises UserError for a mask, and for a size that the network does not take."""
        if mask is not None:
            raise UserError(f"{self.config.source} cannot be given masked images; choose a model of ours")
        height, width = image_grid(images, 1)
        patch = self.config.patch_size
        fits = height % patch == 0 == width % patch if self.fixed_size is None else self.fixed_size == (height, width)
        if not fits:
            takes = f"multiples of {patch}" if self.fixed_size is None else "{}x{} only".format(*self.fixed_size)
            raise UserError(f"{self.config.source} takes {takes}, the images are {height}x{width}; choose such a size")
        answers = self._run(self.network, (images - self.get_buffer("mean")) / self.get_buffer("std"), layers, norm)
        return [
            Features(maps.flatten(2).transpose(1, 2), cls, None, (maps.shape[-2], maps.shape[-1]))
            for maps, cls in answers
        ]


def outside(source: str) -> Outside:
    """The encoder of `timm:NAME` or `hf:NAME|DIR` in eval mode. Raises UserError with the reason for none."""
    library = "timm" if source.startswith(TIMM) else "transformers"
    make = _timm if library == "timm" else _hf
    try:
        return make(source).eval()
    except ImportError:
        install = "'manyview[timm]'" if library == "timm" else library
        raise UserError(f"{source} needs the package {library}: pip install {install}") from None
    except UserError:
        raise
    except Exception as error:  # whatever a library raises for a name, a network or a file
        reason = (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
        raise UserError(f"{library} cannot make {source.partition(':')[2]!r}: {reason}; check its name") from error


def _timm(source: str) -> Outside:
    import timm

    name = source.removeprefix(TIMM)
    create = partial(timm.create_model, name, num_classes=0, dynamic_img_size=True)
    try:
        network: Any = create(pretrained=True)
        any_size = True
    except TypeError:  # an argument of plain transformers only
        create = partial(timm.create_model, name, num_classes=0)
        network, any_size = create(pretrained=True), False
    stages, about = list(getattr(network, "feature_info", ())), network.pretrained_cfg
    if not hasattr(network, "forward_intermediates") or not stages:
        raise UserError(f"timm's {name!r} does not give the maps of its blocks; choose another network")
    height, width = (int(side) for side in about["input_size"][-2:])
    patch = int(stages[-1]["reduction"])
    prefix = int(getattr(network, "num_prefix_tokens", 0)) > 0 and getattr(network, "cls_token", None) is not None
    config = OutsideConfig(
        source=source,
        dim=int(stages[-1]["num_chs"]),
        depth=len(stages),
        patch_size=patch,
        cls_token=prefix and "return_prefix_tokens" in inspect.signature(network.forward_intermediates).parameters,
        image_size=width,
    )
    run = partial(_run_timm, has_cls=config.cls_token)
    encoder = Outside(config, network, run, (about["mean"], about["std"]), partial(create, pretrained=False))
    another = (height // patch * patch, width // patch * patch + patch)
    if any_size or _takes(encoder.eval(), another):
        return encoder
    encoder.fixed_size = (height, width)
    if not _takes(encoder, encoder.fixed_size):
        raise UserError(
            f"timm's {name!r} has no map with a cell for every {patch} pixels of its {height}x{width}; choose another "
            "network"
        )
    return encoder


def _run_timm(network: Any, images: Tensor, layers: Sequence[int], norm: bool, *, has_cls: bool) -> Blocks:
    arguments = {"indices": list(layers), "output_fmt": "NCHW", "intermediates_only": True}
    if has_cls:
        answers = network.forward_intermediates(images, norm=norm, return_prefix_tokens=True, **arguments)
        return [(maps, tokens[:, 0]) for maps, tokens in answers]
    try:
        return [(maps, None) for maps in network.forward_intermediates(images, norm=norm, **arguments)]
    except AssertionError:  # stages of several widths have no norm in common
        return [(maps, None) for maps in network.forward_intermediates(images, norm=False, **arguments)]


@torch.no_grad()
def _takes(encoder: Outside, size: tuple[int, int]) -> bool:
    """Whether the network answers images of this size, a cell for every patch."""
    try:
        grid = encoder.encode(torch.zeros(1, 3, *size)).grid
    except Exception:  # windows, tables of positions, pools: each says no in its own way
        return False
    return grid == (size[0] / encoder.config.patch_size, size[1] / encoder.config.patch_size)


def _hf(source: str) -> Outside:
    from transformers import AutoImageProcessor, AutoModel

    name = source.removeprefix(HF)
    whole: Any = AutoModel.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
    processor: Any = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    network = _tower(whole)
    about = network.config
    other = f"{source} is no vision transformer with a patch grid; choose one, such as hf:facebook/vit-mae-base"
    if not all(hasattr(about, key) for key in ("hidden_size", "num_hidden_layers", "patch_size", "image_size")):
        raise UserError(other)
    masks = hasattr(about, "mask_ratio")
    if masks:
        about.mask_ratio = 0.0  # MAE would hide three quarters of the patches and shuffle the others
    patch, registers = int(about.patch_size), int(getattr(about, "num_register_tokens", 0))
    embeddings = getattr(network, "embeddings", None)
    has_cls = any(hasattr(embeddings, key) for key in ("cls_token", "class_embedding"))
    prefix = int(has_cls) + registers

    def run(network: Any, images: Tensor, layers: Sequence[int], norm: bool) -> Blocks:
        last = next((getattr(network, n) for n in NORMS if hasattr(network, n)), None)
        grid, answers = (images.shape[-2] // patch, images.shape[-1] // patch), []
        asked = {"pixel_values": images, "output_hidden_states": True, "interpolate_pos_encoding": True}
        if masks:
            asked["noise"] = torch.arange(grid[0] * grid[1], device=images.device).expand(len(images), -1)
        states = network(**asked).hidden_states
        for layer in layers:
            tokens = states[layer + 1]
            tokens = last(tokens) if norm and last is not None else tokens
            maps = tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)
            answers.append((maps, tokens[:, 0] if has_cls else None))
        return answers

    size = about.image_size if isinstance(about.image_size, int) else about.image_size[0]
    config = OutsideConfig(
        source=source,
        dim=int(about.hidden_size),
        depth=int(about.num_hidden_layers),
        patch_size=patch,
        cls_token=has_cls,
        image_size=int(size),
    )
    colours = (processor.image_mean, processor.image_std)
    encoder = Outside(config, network, run, colours, lambda: _tower(AutoModel.from_config(whole.config)))
    if not _takes(encoder.eval(), (2 * patch, 3 * patch)):
        raise UserError(other)
    return encoder


def _tower(whole: Any) -> Any:
    """The part of a model of images and texts that sees, or a model of images itself."""
    return getattr(whole, "vision_model", whole)
