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
from manyview.engine.feed import Feed, workers_for
from manyview.errors import UserError
from manyview.files import write_bytes
from manyview.images.exposure import Exposures, exposed
from manyview.images.fit import cover
from manyview.images.reading import ImageProblem, read_fitted
from manyview.models.vit import IMAGENET_MEAN, IMAGENET_STD
from manyview.progress import track
from manyview.types import Batches, Features, Views

Tokenise = Callable[[Tensor], Mapping[str, Tensor]]
"""Images (N, 3, H, W) in [0, 1] -> patch tokens (N, P, D) by the name of what they are."""
Read = Callable[[Sequence[int]], tuple[Tensor, dict[int, str]]]
"""Pictures (N, H, W, 3) uint8 by number, black where they cannot be read, and why those cannot."""
Scaling = Literal["channels", "whitened"]
RIDGE = 0.1
"""What whitening adds to every direction's variance, in units of their mean, so that noise is not blown up."""
CHUNK = 64
UNCHANGED = Exposures()
LABELS = {
    "model": "model",
    "projected": "model, through its projector",
    "untrained": "the same encoder, random weights",
    "pixels": "raw pixels",
    "colours": "mean colour and position of the patch",
    "balanced": "the same, colours balanced within the frame",
    "constant": "one answer for every pixel",
    "zero_flow": "zero flow",
}
"""What probes judge beside the model's own encoder, in words."""


def image_size(encoder: Any, wanted: int | tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) for this encoder. Raises UserError for sides that are no multiples of its patch."""
    patch = int(encoder.config.patch_size)
    asked = encoder.config.image_size if wanted is None else wanted
    height, width = (asked, asked) if isinstance(asked, int) else (int(asked[0]), int(asked[1]))
    if wanted is None:
        return height // patch * patch, width // patch * patch
    if any(side < 2 * patch or side % patch for side in (height, width)):
        raise UserError(f"size {height}x{width}: both sides must be multiples of the patch, {patch}")
    return height, width


def layers_of(encoder: Any, wanted: str | int | Sequence[int]) -> list[int] | None:
    """Block indices that `last`, `all`, one index or several mean; None is the last. Raises UserError."""
    if wanted == "last":
        return None
    depth = len(encoder.blocks)
    asked: Any = range(depth) if wanted == "all" else [wanted] if isinstance(wanted, (int, str)) else wanted
    for layer in asked:
        if not isinstance(layer, int) or not 0 <= layer < depth:
            raise UserError(f"layers {layer!r}: this encoder has blocks 0 to {depth - 1}; or say last or all")
    return list(asked)


def blocks_of(encoder: Any, images: Tensor, layers: Sequence[int], *, norm: bool) -> list[Features]:
    """What these blocks say. Raises UserError where they have maps of several sizes, as the stages of a pyramid do."""
    blocks: list[Features] = encoder.encode(images, norm=norm, layers=layers)
    patch = int(encoder.config.patch_size)
    cells = (images.shape[-2] // patch) * (images.shape[-1] // patch)
    if {features.patches.shape[1:] for features in blocks} != {(cells, blocks[0].patches.shape[-1])}:
        raise UserError(
            f"blocks {', '.join(map(str, layers))} of this encoder have maps of several sizes or widths; take its last "
            f"block, {len(encoder.blocks) - 1}, or an encoder whose blocks are alike"
        )
    return blocks


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
            else:
                answers = blocks_of(encoder, images, layers, norm=norm)
                named = zip(layers, answers, strict=True)
                tokens |= {f"{name}_layer_{layer:02d}{ending}": features.patches for layer, features in named}
        return tokens

    return tokenise


def from_pixels(patch: int) -> Tokenise:
    """The patches' own pixels, channels normalised: D = 3 * patch**2."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def tokenise(images: Tensor) -> dict[str, Tensor]:
        normalised = (images - mean.to(images)) / std.to(images)
        return {"pixels": F.pixel_unshuffle(normalised, patch).flatten(2).transpose(1, 2)}

    return tokenise


def from_colours(patch: int) -> Tokenise:
    """What is there before anything is learned: mean colour and position (x, y in [-1, 1]) of every patch, D = 5.

    `balanced`: each channel less its mean over the frame, divided by its spread, which undoes gains.
    """

    def tokenise(images: Tensor) -> dict[str, Tensor]:
        colours = F.avg_pool2d(images, patch)
        spread, mean = torch.std_mean(colours, (2, 3), keepdim=True)
        rows, columns = (torch.linspace(-1, 1, 2 * n + 1, device=images.device)[1::2] for n in colours.shape[2:])
        places = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).expand(len(images), -1, -1, -1)
        kinds = {"colours": colours, "balanced": (colours - mean) / spread.clamp(min=1e-3)}
        return {name: torch.cat([of, places], 1).flatten(2).transpose(1, 2) for name, of in kinds.items()}

    return tokenise


class Tokens:
    """Rows (P, D) of encoded frames, float16 in their files; `tokens[frames]` reads some as float32 (n, P, D)."""

    def __init__(self, rows: Sequence[np.ndarray], frames: Sequence[int]) -> None:
        self._rows = dict(zip(frames, rows, strict=True))
        self._scaled: tuple[Tensor, Tensor] | None = None

    @property
    def dim(self) -> int:
        return int(next(iter(self._rows.values())).shape[-1])

    def __getitem__(self, frames: Sequence[int]) -> Tensor:
        values = torch.from_numpy(np.stack([self._rows[frame] for frame in frames])).float()
        return values if self._scaled is None else (values - self._scaled[0]) @ self._scaled[1]

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
        other._scaled = mean, matrix
        return other


class _Chunks(Batches):
    """Chunks of pictures on their way to an encoder, read by other processes where a GPU waits for them."""

    def __init__(self, read: Read, chunks: Sequence[Sequence[int]]) -> None:
        self.read, self.chunks, self.problems = read, chunks, dict[int, str]()

    def load(self, index: int) -> tuple[Tensor, dict[int, str]]:
        return self.read(self.chunks[index])

    def finish(self, loaded: tuple[Tensor, dict[int, str]], device: torch.device) -> Views:
        pixels, self.problems = loaded
        return Views(pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)[:, None].float() / 255)

    def describe(self) -> dict[str, Any]:
        return {"chunks": len(self.chunks)}


@torch.inference_mode()
def encode_frames(
    methods: Sequence[Tokenise],
    read: Read,
    frames: Sequence[int],
    *,
    folder: Path,
    device: torch.device,
    workers: int | None = None,
    prepare: Callable[[Tensor], Tensor] = lambda images: images,
) -> tuple[dict[str, Tokens], dict[int, str]]:
    """Encode frames into `folder`, one archive per chunk of frames; chunks that are there and whole stay.

    Also says which frames could not be read, and why; their tokens are those of a black image. workers: processes
    that read, as `run.workers` of a training. prepare: what becomes of images (N, 3, H, W) before they are encoded.
    Raises UserError for a negative number of workers.
    """
    chunks = [frames[start : start + CHUNK] for start in range(0, len(frames), CHUNK)]
    paths = [folder / f"{number:05d}.zip" for number in range(len(chunks))]
    missing = [number for number, path in enumerate(paths) if not _whole(path)]
    batches = _Chunks(read, chunks)
    with Feed(batches, missing, device=device, workers=workers_for(device, workers)) as feed:
        for number in track(missing, label=f"frames, {folder.name}", unit="chunk"):
            parts = prepare(feed.next().images[:, 0]).split(16)
            answers = [{k: v for method in methods for k, v in method(images).items()} for images in parts]
            fields = {name: _half(name, torch.cat([of[name] for of in answers])) for name in answers[0]}
            content = encode_archive(fields, {"unreadable": batches.problems}, encodings=dict.fromkeys(fields, PLAIN))
            write_bytes(paths[number], content)
    rows: dict[str, list[np.ndarray]] = {}
    unreadable: dict[int, str] = {}
    for path in paths:
        header, mapped = map_archive(path)
        unreadable.update({int(frame): why for frame, why in header["unreadable"].items()})
        for name, tokens in mapped.items():
            rows.setdefault(name, []).extend(tokens)
    return {name: Tokens(tokens, frames) for name, tokens in rows.items()}, unreadable


def _whole(path: Path) -> bool:
    try:
        map_archive(path)
    except (FileNotFoundError, BrokenArchive):
        return False
    return True


def read_images(
    data: Manifest, size: tuple[int, int], frames: Sequence[int], *, exposures: Exposures = UNCHANGED, seed: int = 0
) -> tuple[Tensor, dict[int, str]]:
    """Pictures (N, H, W, 3) uint8 scaled to cover the size, black where unreadable, and why those are.

    exposures: how each is changed, always in the same way for a seed.
    """
    pixels, problems = torch.zeros(len(frames), *size, 3, dtype=torch.uint8), {}
    for row, frame in enumerate(frames):
        try:
            image, _ = read_fitted(data.path(data[frame].image), lambda source: cover(source, size))
            changed = exposed(image, exposures.of(data[frame].image, seed)) if exposures else image
            pixels[row] = torch.from_numpy(changed)
        except ImageProblem as problem:
            problems[frame] = problem.reason
    return pixels, problems


def _half(method: str, tokens: Tensor) -> np.ndarray:
    """As float16. Raises UserError for tokens that it cannot hold."""
    most = float(tokens.abs().max())
    if not most <= torch.finfo(torch.float16).max:  # NaN too
        raise UserError(f"the tokens of {method} reach {most:g}, which cannot be kept (float16); check its weights")
    return tokens.half().cpu().numpy()
