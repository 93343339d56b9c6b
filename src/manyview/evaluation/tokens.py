"""Patch tokens of a frozen encoder: every frame is encoded once, and read back as often as a probe wants.

Legend: N images, P patches, D channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.cache.archive import encode_archive, map_archive
from manyview.cache.codec import PLAIN, BrokenArchive
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.files import write_bytes
from manyview.images.fit import cover
from manyview.images.reading import ImageProblem, read_fitted
from manyview.models.vit import IMAGENET_MEAN, IMAGENET_STD
from manyview.progress import track

Tokenise = Callable[[Tensor], Mapping[str, Tensor]]
"""Images (N, 3, H, W) in [0, 1] -> patch tokens (N, P, D) by the name of what they are."""
Read = Callable[[Manifest, Sequence[int], tuple[int, int]], tuple[Tensor, dict[int, str]]]
"""Images (N, 3, H, W) by number at a size (H, W), and why some of them could not be read."""
Scaling = Literal["channels", "whitened"]
RIDGE = 0.1
"""What whitening adds to every direction's variance, in units of their mean, so that noise is not blown up."""
CHUNK = 64


def layers_of(encoder: Any, wanted: str | int | Sequence[int]) -> list[int] | None:
    """Block indices that `last`, `all`, one index or several mean; None is the last. Raises UserError."""
    if wanted == "last":
        return None
    depth = len(encoder.blocks)
    asked = [wanted] if isinstance(wanted, (int, str)) else list(wanted)
    layers: list[Any] = list(range(depth)) if wanted == "all" else list(asked)
    wrong = [layer for layer in layers if not isinstance(layer, int) or not 0 <= layer < depth]
    if wrong:
        raise UserError(f"layers {wrong[0]!r}: this encoder has blocks 0 to {depth - 1}; or say last or all")
    return layers


def from_encoder(
    encoder: Any, name: str, *, norms: Sequence[bool] = (True,), layers: Sequence[int] | None = None
) -> Tokenise:
    """Tokens of the last block under `name`, or of blocks under `name_layer_07`; unnormed ones end in `_raw`."""

    def tokenise(images: Tensor) -> dict[str, Tensor]:
        tokens = {}
        for norm in norms:
            ending = "" if norm else "_raw"
            if layers is None:
                tokens[name + ending] = encoder.encode(images, norm=norm).patches
                continue
            answers = encoder.encode(images, norm=norm, layers=layers)
            for layer, features in zip(layers, answers, strict=True):
                tokens[f"{name}_layer_{layer:02d}{ending}"] = features.patches
        return tokens

    return tokenise


def from_pixels(patch: int) -> Tokenise:
    """The patches' own pixels, channels normalised: D = 3 * patch**2."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def tokenise(images: Tensor) -> dict[str, Tensor]:
        normalised = (images - mean.to(images)) / std.to(images)
        return {"pixels": F.pixel_unshuffle(normalised, patch).flatten(2).transpose(1, 2)}

    return tokenise


class Tokens:
    """Rows (P, D) of encoded frames, float16 in their files; `tokens[frames]` reads some as float32 (n, P, D)."""

    def __init__(self, rows: Sequence[np.ndarray], frames: Sequence[int]) -> None:
        self._rows = dict(zip(frames, rows, strict=True))
        self._mean: Tensor | None = None
        self._matrix: Tensor | None = None

    @property
    def dim(self) -> int:
        return int(next(iter(self._rows.values())).shape[-1])

    def __getitem__(self, frames: Sequence[int]) -> Tensor:
        values = torch.from_numpy(np.stack([self._rows[frame] for frame in frames])).float()
        if self._mean is None or self._matrix is None:
            return values
        return (values - self._mean) @ self._matrix

    def scaling(self, kind: Scaling, most: int = 512) -> tuple[Tensor, Tensor]:
        """Mean (D,) and matrix (D, D) that make the channels alike, from at most `most` frames, evenly taken.

        `channels` gives each the spread 1; `whitened` also undoes how they vary together, as far as RIDGE allows.
        """
        frames = list(self._rows)
        values = self[frames[:: -(-len(frames) // most)]].flatten(0, 1)
        mean = values.mean(0)
        if kind == "channels":
            return mean, torch.diag(1 / values.std(0).clamp(min=1e-6))
        strength, axes = torch.linalg.eigh(torch.atleast_2d(torch.cov((values - mean).double().T)))
        strength = strength.clamp(min=0)
        scale = (strength + RIDGE * strength.mean()).clamp(min=1e-12).rsqrt()
        return mean, ((axes * scale) @ axes.T).float()

    def scaled(self, mean: Tensor, matrix: Tensor) -> Tokens:
        """The same rows less the mean, times the matrix."""
        other = copy.copy(self)
        other._mean, other._matrix = mean, matrix
        return other


def encode_frames(
    tokenise: Tokenise,
    data: Manifest,
    frames: Sequence[int],
    size: tuple[int, int],
    *,
    folder: Path,
    device: torch.device,
    read: Read | None = None,
) -> tuple[dict[str, Tokens], dict[int, str]]:
    """Encode frames into `folder`, one archive per chunk of frames; chunks that are there and whole stay.

    Also says which frames could not be read, and why; their tokens are those of a black image. `read` gives the
    images of numbers that mean something else than frames scaled to cover the size.
    """
    rows: dict[str, list[np.ndarray]] = {}
    unreadable: dict[int, str] = {}
    chunks = [frames[start : start + CHUNK] for start in range(0, len(frames), CHUNK)]
    for number, chunk in enumerate(track(chunks, label=f"frames, {folder.name}", unit="chunk")):
        path = folder / f"{number:05d}.zip"
        try:
            header, fields = map_archive(path)
        except (FileNotFoundError, BrokenArchive):
            images, problems = (read or read_images)(data, chunk, size)
            write_bytes(path, _encoded(tokenise, images.split(16), device, {"unreadable": problems}))
            header, fields = map_archive(path)
        unreadable.update({int(frame): why for frame, why in header["unreadable"].items()})
        for name, tokens in fields.items():
            rows.setdefault(name, []).extend(tokens)
    return {name: Tokens(tokens, frames) for name, tokens in rows.items()}, unreadable


@torch.inference_mode()
def _encoded(tokenise: Tokenise, batches: Sequence[Tensor], device: torch.device, header: Mapping[str, Any]) -> bytes:
    """A chunk's tokens as an archive whose fields can be mapped into memory."""
    answers = [tokenise(images.to(device)) for images in batches]
    fields = {name: torch.cat([answer[name] for answer in answers]).half().cpu().numpy() for name in answers[0]}
    return encode_archive(fields, header, encodings=dict.fromkeys(fields, PLAIN))


def read_images(data: Manifest, frames: Sequence[int], size: tuple[int, int]) -> tuple[Tensor, dict[int, str]]:
    """Images (N, 3, H, W), black where unreadable, and why those are."""
    images, problems = torch.zeros(len(frames), 3, *size), {}
    for row, frame in enumerate(frames):
        try:
            image, _ = read_fitted(data.path(data[frame].image), lambda source: cover(source, size))
        except ImageProblem as problem:
            problems[frame] = problem.reason
            continue
        images[row] = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    return images, problems


def together(methods: Sequence[Tokenise]) -> Tokenise:
    """Several ways of making tokens as one, so that every image is read once."""
    return lambda images: {name: value for method in methods for name, value in method(images).items()}
