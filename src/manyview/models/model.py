"""What a model is and what it can do: the base of all networks, and the roles that they declare.

A network inherits from `Model` and from the role of everything that it can do. Commands ask for a role with
`family.require`, which names the models that have it when the one at hand has not. Networks of other packages
declare the same.

Legend: N images, B scenes, V views, H x W pixels, h x w patch grid, D channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self, overload

import torch
from torch import Tensor, nn

from manyview.layers.attention import Attention
from manyview.types import Features

Maps = dict[str, Any]
"""What a reconstructor says, by name: (B, V, H, W, ...), or a list of V where sizes differ; `features` is a table."""


class Model(nn.Module):
    """Base of the networks: made from one configuration, which it keeps."""

    config: Any
    architecture: str = ""
    """Name of its family; the zoo sets it where families share a class."""
    card: Mapping[str, Any] = MappingProxyType({})
    """What is known of its weights: name, licence, what they were made from."""
    carried: Mapping[str, Tensor] = MappingProxyType({})
    """Official name -> tensor of the parts of the published file that the network has no use for."""

    @classmethod
    def fresh(cls, config: Any) -> Self:
        """A network with fresh weights."""
        return cls(config)

    def untrained(self, seed: int) -> Self:
        """The same architecture with fresh weights, on the same device, in eval mode; torch's generator stays."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.fresh(self.config)
        model.architecture = self.architecture
        return model.to(device_of(self)).eval()


class Role:
    """Something that a model can do."""

    can: ClassVar[str]
    """In words: "this model can …"."""


class EncodesImages(Role):
    """Features of single images."""

    can = "encode images"
    fixed_size: tuple[int, int] | None = None
    """(H, W) of the images where it takes one size only."""

    @property
    def trunk(self) -> Any:
        """The encoder whose tokens probes read and whose weights others start from: this one, or the one inside."""
        return self

    @overload
    def encode(
        self, images: Tensor, mask: Tensor | None = None, norm: bool = True, layers: None = None
    ) -> Features: ...

    @overload
    def encode(
        self, images: Tensor, mask: Tensor | None = None, norm: bool = True, *, layers: Sequence[int]
    ) -> list[Features]: ...

    def encode(
        self, images: Tensor, mask: Tensor | None = None, norm: bool = True, layers: Sequence[int] | None = None
    ) -> Features | list[Features]:
        """(N, 3, H, W) in [0, 1] -> Features of the last block, or a list of those of the 0-based block indices.

        mask (N, h*w): True is hidden; an encoder without a mask token then gives the visible patches only, in
        row-major order. `norm=False` leaves the final LayerNorm away. Raises UserError when a side is no multiple
        of the patch, or when masks that are left out hide different numbers of patches.
        """
        if layers is None:
            return self.encode_blocks(images, [len(self.trunk.blocks) - 1], mask=mask, norm=norm)[0]
        return self.encode_blocks(images, layers, mask=mask, norm=norm)

    def encode_blocks(
        self, images: Tensor, layers: Sequence[int], *, mask: Tensor | None = None, norm: bool = True
    ) -> list[Features]:
        """What encode answers for `layers`; an encoder brings this, or an encode of its own."""
        return self.trunk.encode_blocks(images, layers, mask=mask, norm=norm)


class AroundEncoder(EncodesImages):
    """A network with an image encoder inside, which encodes as that does."""

    @property
    def trunk(self) -> Any:
        return self.encoder  # type: ignore[attr-defined]


class Reconstructs(Role):
    """Views to points in the first view's camera frame. Its configuration says patch_size and image_size."""

    can = "reconstruct views"

    @property
    def metric(self) -> bool:
        """Whether its points are in metres."""
        return False


class ReconstructsViews(Reconstructs):
    """Any number of views at once: `model(images (B, V, 3, H, W), view_ids=None)` -> Maps."""

    can = "reconstruct many views"


class ReconstructsPairs(Reconstructs):
    """Two views at a time: `model(images)`, or encode_views once per picture and decode once per ordered pair."""

    can = "reconstruct pairs of views"

    def encode_views(self, images: Tensor | Sequence[Tensor]) -> tuple[Features, Features]:
        """(B, 2, 3, H, W), or two (B, 3, H, W) -> both views' tokens."""
        raise NotImplementedError

    def decode(self, first: Features, second: Features, *, heads: Collection[str] | None = None) -> Maps:
        """Tokens of two views -> both views' maps in the first one's frame; `heads`: names of those to run."""
        raise NotImplementedError


@dataclass
class Completion:
    """What a model says of every patch, and which were hidden from it.

    reconstruction (..., L, p*p*3): a patch's pixels row by row, channels last; mask (..., L) bool, True = hidden.
    """

    reconstruction: Tensor
    mask: Tensor


class CompletesViews(Role):
    """Hidden patches of many views: `model(images (B, V, 3, H, W), mask (B, V, L))` -> Completion."""

    can = "complete hidden patches of views"

    def normalised(self, images: Tensor) -> Tensor:
        """[0, 1] images (..., 3, H, W) as they are predicted."""
        raise NotImplementedError

    def global_attention(self) -> list[Attention]:
        """The attention layers in which views look at each other, first to last; none where they never do."""
        return []


class CompletesPairs(Role):
    """A masked view, completed from another: `model(images (B, 2, 3, H, W), mask (B, L))` -> Completion."""

    can = "complete one view from another"


class UpsamplesFeatures(Role):
    """Features at 16 times their resolution: `model(features (N, C, h, w), images (N, 3, H, W))`."""

    can = "upsample features"


class EncodesTexts(Role):
    """Texts to vectors in the space of its image features."""

    can = "encode texts"

    def encode_text(self, texts: str | Sequence[str | Sequence[int]] | Tensor) -> Tensor:
        """N texts or their token ids -> (N, D)."""
        raise NotImplementedError


class ProjectsFeatures(AroundEncoder):
    """Its features in the feature spaces of teachers."""

    can = "project features into its teachers' spaces"

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers that it has a projector for."""
        raise NotImplementedError

    @property
    def projected_layers(self) -> list[int]:
        """Encoder blocks whose tokens the projectors read."""
        raise NotImplementedError

    def project(self, features: Features | Sequence[Features], teacher: str) -> Features:
        """encode(norm=False, layers=projected_layers) -> Features in a teacher's (standardised) space."""
        raise NotImplementedError


ROLES: tuple[type[Role], ...] = (
    EncodesImages,
    ReconstructsViews,
    ReconstructsPairs,
    CompletesViews,
    CompletesPairs,
    UpsamplesFeatures,
    EncodesTexts,
    ProjectsFeatures,
)


def abilities(network: type) -> list[str]:
    """What a class of networks declares that it can do, in words."""
    return [role.can for role in ROLES if issubclass(network, role)]


def device_of(model: object) -> torch.device:
    """Where a network's weights are; the CPU for something without weights."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all weights and buffers, by name: equal for equal weights, whatever device they are on."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's configuration and weights: models with equal fingerprints give equal answers."""
    settings = repr(model.config) if isinstance(model, Model) else type(model).__qualname__
    return hashlib.sha256(f"{settings} {weights_digest(model)}".encode()).hexdigest()
