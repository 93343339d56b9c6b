"""Small networks of timm's of every kind, with random weights in place of published ones, which need a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

NARROW = {"depth": 2, "embed_dim": 48, "num_heads": 2}


@dataclass(frozen=True)
class Kind:
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (64, 96)
    """Images that it takes."""
    patch: int = 16
    cls: bool = False
    """Whether it says a class token."""
    fixed: bool = False
    """Whether it takes images of its own size only."""


KINDS = (
    Kind("vit_tiny_patch16_224", {"depth": 2}, cls=True),
    Kind("vit_small_patch14_dinov2", {**NARROW, "img_size": 56}, (56, 84), 14, cls=True),
    Kind("vit_small_patch14_reg4_dinov2", {**NARROW, "img_size": 56}, (56, 84), 14, cls=True),
    Kind("vit_small_patch16_dinov3", NARROW, cls=True),
    Kind("vit_base_patch16_clip_224", NARROW, cls=True),
    Kind("vit_base_patch16_siglip_224", NARROW),
    Kind("eva02_tiny_patch14_224", NARROW, (56, 84), 14, cls=True),
    Kind("deit_tiny_distilled_patch16_224", {"depth": 2}, cls=True),
    Kind("naflexvit_base_patch16_gap", NARROW),
    Kind("convnext_atto", {"depths": (1, 1, 1, 1)}, patch=32),
    Kind("resnet18", patch=32),
    Kind("cait_xxs24_224", {"depth": 2}, (224, 224), fixed=True),
    Kind("beit_base_patch16_224", NARROW, (224, 224), cls=True, fixed=True),
    Kind("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}, patch=32),
    Kind("swinv2_tiny_window8_256", {"depths": (1, 1, 1, 1)}, patch=32),
    Kind("hiera_tiny_224", {"stages": (1, 1, 1, 1)}, (224, 224), 32, fixed=True),
    Kind("mixer_s16_224", {}, (224, 224), fixed=True),
)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def stand_in(monkeypatch: pytest.MonkeyPatch, *kinds: Kind) -> None:
    """timm.create_model makes these, and seeded weights are the pretrained ones."""
    timm = pytest.importorskip("timm", reason="needs the extra `timm`")
    real, known = timm.create_model, {kind.name: kind for kind in kinds}

    def create(name: str, *, pretrained: bool, **arguments: Any) -> Any:
        with torch.random.fork_rng(enabled=pretrained):
            if pretrained:
                torch.manual_seed(0)
            return real(name, pretrained=False, **{**known[name].options, **arguments})

    monkeypatch.setattr(timm, "create_model", create)


def images(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def tokens_of(network: Any, pictures: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What timm itself answers to pictures in [0, 1]: the last `cells` tokens (N, cells, D), and the first one."""
    about = network.pretrained_cfg
    mean, std = (torch.tensor(about[key])[:, None, None] for key in ("mean", "std"))
    tokens = network.forward_features((pictures - mean) / std)
    if tokens.ndim == 4 and tokens.shape[1] * tokens.shape[2] == cells:  # channels last
        tokens = tokens.flatten(1, 2)
    elif tokens.ndim == 4:
        tokens = tokens.flatten(2).transpose(1, 2)
    return tokens[:, -cells:], tokens[:, 0]
