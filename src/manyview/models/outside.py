"""Encoders of other libraries, in the manner of ours: `timm:NAME` and `hf:NAME|DIR`, for tables and as teachers.

Their weights come from those libraries' own caches and hubs; nothing of them is converted or kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.patches import image_grid
from manyview.models.model import EncodesImages, Model
from manyview.types import Features

TIMM, HF = "timm:", "hf:"
Blocks = Callable[[Tensor, Sequence[int], bool], list[tuple[Tensor, Tensor | None]]]
"""Normalised images, block numbers, whether the last norm is applied -> (N, D, h, w) maps and (N, D) class tokens."""


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

    def __init__(self, config: OutsideConfig, network: nn.Module, run: Blocks, mean: Any, std: Any) -> None:
        super().__init__()
        self.config, self.network, self._run = config, network, run
        self.card = MappingProxyType({"name": config.source, "licence": f"as its publisher says of {config.source}"})
        self.blocks = range(config.depth)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)

    def encode_blocks(
        self, images: Tensor, layers: Sequence[int], *, mask: Tensor | None = None, norm: bool = True
    ) -> list[Features]:
        """As of any encoder; raises UserError for a mask, and for a size that the network does not take."""
        if mask is not None:
            raise UserError(f"{self.config.source} cannot be given masked images; choose a model of ours")
        height, width = image_grid(images, 1)
        patch = self.config.patch_size
        if self.fixed_size not in (None, (height, width)) or height % patch or width % patch:
            takes = f"multiples of {patch}" if self.fixed_size is None else "{}x{} only".format(*self.fixed_size)
            raise UserError(f"{self.config.source} takes {takes}, the images are {height}x{width}; choose such a size")
        answers = self._run((images - self.get_buffer("mean")) / self.get_buffer("std"), layers, norm)
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
    wanted: dict[str, Any] = {"pretrained": True, "num_classes": 0}
    fixed = False
    try:
        network: Any = timm.create_model(name, dynamic_img_size=True, **wanted)
    except TypeError:  # an argument of plain transformers only
        network = timm.create_model(name, **wanted)
        fixed = getattr(getattr(network, "patch_embed", None), "strict_img_size", hasattr(network, "patch_embed"))
    if not hasattr(network, "forward_intermediates"):
        raise UserError(f"timm's {name!r} does not give the maps of its blocks; choose another network")
    stages, about = list(network.feature_info), network.pretrained_cfg
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    has_cls = prefix > 0 and getattr(network, "cls_token", None) is not None

    def run(images: Tensor, layers: Sequence[int], norm: bool) -> list[tuple[Tensor, Tensor | None]]:
        arguments = {"indices": list(layers), "output_fmt": "NCHW", "intermediates_only": True}
        if not has_cls:
            try:
                return [(maps, None) for maps in network.forward_intermediates(images, norm=norm, **arguments)]
            except AssertionError:  # stages of several widths have no norm in common
                return [(maps, None) for maps in network.forward_intermediates(images, norm=False, **arguments)]
        answers = network.forward_intermediates(images, norm=norm, return_prefix_tokens=True, **arguments)
        return [(maps, tokens[:, 0]) for maps, tokens in answers]

    config = OutsideConfig(
        source=source,
        dim=int(stages[-1]["num_chs"]),
        depth=len(stages),
        patch_size=int(stages[-1]["reduction"]),
        cls_token=has_cls,
        image_size=int(about["input_size"][-1]),
    )
    encoder = Outside(config, network, run, about["mean"], about["std"])
    encoder.fixed_size = (config.image_size, config.image_size) if fixed else None
    return encoder


def _hf(source: str) -> Outside:
    from transformers import AutoImageProcessor, AutoModel

    name = source.removeprefix(HF)
    whole: Any = AutoModel.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
    processor: Any = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    network = getattr(whole, "vision_model", whole)
    about = network.config
    if not all(hasattr(about, key) for key in ("hidden_size", "num_hidden_layers", "patch_size")):
        raise UserError(
            f"{source} is no vision transformer with a patch grid; choose one, such as hf:facebook/vit-mae-base"
        )
    patch, registers = int(about.patch_size), int(getattr(about, "num_register_tokens", 0))
    embeddings = getattr(network, "embeddings", None)
    has_cls = any(hasattr(embeddings, key) for key in ("cls_token", "class_embedding"))
    prefix = int(has_cls) + registers
    last = next((getattr(network, n) for n in ("layernorm", "post_layernorm", "norm") if hasattr(network, n)), None)

    def run(images: Tensor, layers: Sequence[int], norm: bool) -> list[tuple[Tensor, Tensor | None]]:
        states = network(pixel_values=images, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
        grid, answers = (images.shape[-2] // patch, images.shape[-1] // patch), []
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
    return Outside(config, network, run, processor.image_mean, processor.image_std)
