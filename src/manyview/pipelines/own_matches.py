"""What a model itself says is the same in two photos: matches of its descriptor maps, or of its encoder's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.cameras.descriptors import OwnMatches, Pairs, reciprocal
from manyview.cameras.keypoints import Keypoints
from manyview.images.inputs import Photo
from manyview.models.model import EncodesImages, ReconstructsPairs
from manyview.pipelines.opening import evaluating

PRECISE = 0.3
"""How precise a token's place is, in patches."""
MOST = 2000
"""Matches of descriptors that are kept of a pair, the surest first."""


class DescriptorMatches:
    """Collects matches of a pair model's descriptors while it is asked: of each answer it keeps pixels only."""

    heads = ("pointmap", "descriptors")

    def __init__(self) -> None:
        self.places: dict[tuple[int, int], np.ndarray] = {}
        """(M, 2) flat indices of pixels of both pictures by pair."""

    def __call__(self, i: int, j: int, said: dict[str, Any]) -> None:
        """Maps of photos i and j: descriptors (1, 2, H, W, D) or two (1, Hi, Wi, D), and their confidence."""
        maps, sure = (
            [
                view.flatten(0, 2).float().cpu() if view.ndim == 4 else view.flatten().cpu()
                for view in _sides(said[name])
            ]
            for name in ("descriptors", "descriptor_confidence")
        )
        found = reciprocal(*maps)
        trust = sure[0][found[:, 0]] * sure[1][found[:, 1]]
        self.places[i, j] = found[trust.argsort(descending=True, stable=True)[:MOST].numpy()]

    def of(self, photos: Sequence[Photo]) -> OwnMatches:
        """What was collected, with the pixels that matches use as keypoints of the photos."""
        used: list[list[np.ndarray]] = [[] for _ in photos]
        for pair, found in self.places.items():
            for index, pixels in zip(pair, found.T, strict=True):
                used[index].append(pixels)
        pixels = [np.unique(np.concatenate(every)) if every else np.empty(0, int) for every in used]
        keypoints = []
        for photo, own in zip(photos, pixels, strict=True):
            width = photo.image.shape[1]
            keypoints.append(_at(photo, np.stack([own % width, own // width], 1) + 0.5, 1.0))
        known = {
            (i, j): np.stack([np.searchsorted(pixels[i], found[:, 0]), np.searchsorted(pixels[j], found[:, 1])], 1)
            for (i, j), found in self.places.items()
        }
        return OwnMatches(keypoints, lambda pairs: {pair: known[pair] for pair in pairs if pair in known})


def _sides(maps: Any) -> list[Tensor]:
    return list(maps.unbind(1)) if isinstance(maps, Tensor) else list(maps)


def describes(network: Any) -> bool:
    """Whether a model has descriptors that were made to be matched."""
    config = getattr(network, "config", None)
    return isinstance(network, ReconstructsPairs) and int(getattr(config, "descriptor_dim", 0)) > 0


def token_matches(network: Any, photos: Sequence[Photo], device: torch.device) -> OwnMatches | None:
    """Matches of the tokens of an image encoder; None for a model without one. Photos are encoded when first asked."""
    patch, tokens = int(network.config.patch_size), list[Tensor]()
    if not isinstance(network, EncodesImages):
        return None

    def match(pairs: Pairs) -> dict[tuple[int, int], np.ndarray]:
        pairs = list(pairs)
        if pairs and not tokens:
            tokens.extend(_tokens(network, photos, device))
        return {(i, j): reciprocal(tokens[i], tokens[j]) for i, j in pairs}

    return OwnMatches([_centres(photo, patch) for photo in photos], match)


def _tokens(network: EncodesImages, photos: Sequence[Photo], device: torch.device) -> list[Tensor]:
    """Unit tokens (n, D) of each photo, less what all have in common."""
    with evaluating(network), torch.inference_mode():
        pictures = (torch.from_numpy(photo.image).permute(2, 0, 1)[None].to(device).float() / 255 for photo in photos)
        tokens = [network.encode(picture).patches[0].float().cpu() for picture in pictures]
    mean = torch.cat(tokens).mean(0)
    return [F.normalize(one - mean, dim=1) for one in tokens]


def _centres(photo: Photo, patch: int) -> Keypoints:
    """The middles of the patches in pixels of the original."""
    height, width = photo.image.shape[:2]
    rows, columns = np.mgrid[: height // patch, : width // patch].reshape(2, -1) * patch + patch / 2
    return _at(photo, np.stack([columns, rows], 1), PRECISE * patch)


def _at(photo: Photo, uv: np.ndarray, pixel: float) -> Keypoints:
    """Keypoints at pixels (N, 2) of the model's picture, known to `pixel` of them."""
    source = (uv - photo.fit.affine[:2, 2].numpy()) @ np.linalg.inv(photo.fit.affine[:2, :2].numpy()).T
    return Keypoints(source, torch.empty(len(uv), 0), pixel / float(photo.fit.scale))
