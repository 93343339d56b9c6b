"""Asking any reconstructor about the views of a scene, and giving every answer the same maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.engine.memory import is_out_of_memory
from manyview.images.inputs import Photo
from manyview.models.model import ReconstructsPairs
from manyview.pipelines.at_once import LEAST, Plan, in_first_frame, plan, too_large, windows
from manyview.pipelines.opening import evaluating
from manyview.pipelines.options import PairGraph
from manyview.pipelines.own_matches import DescriptorMatches
from manyview.pipelines.pairs import feature_cells, feature_heads, in_one_frame
from manyview.progress import track

Answer = dict[str, Any]


@dataclass
class ViewMaps:
    """What the model says about one view, on the CPU. Fits convert to double precision one view at a time."""

    world: Tensor  # (H, W, 3) the global head, first view's frame
    confidence: Tensor  # (H, W)
    local: Tensor  # (H, W, 3) the local head, the view's own frame
    confidence_local: Tensor  # (H, W)
    valid: Tensor  # (H, W) finite, in front of the camera and not masked
    used: Tensor  # (H, W) valid and of the more confident half of the global head, for fitting poses
    cam2world: Tensor | None = None  # (4, 4) the model's own word, where it says one
    intrinsics: Tensor | None = None  # (3, 3) likewise, in pixels of its maps
    features: dict[str, np.ndarray] = field(default_factory=dict)  # space -> (h, w, D) float16, of feature heads

    @property
    def depth(self) -> Tensor:
        """(H, W) along the view's own optical axis, 0 where it is not valid."""
        return self.local[..., 0] if self.local.shape[-1] == 1 else torch.where(self.valid, self.local[..., 2], 0)

    def keep_depth(self) -> None:
        """Let go of all points but the depth: three quarters of the memory."""
        self.local = self.depth[..., None].clone()
        self.world, self.confidence, self.used = (
            self.world[:0].clone(),
            self.confidence[:0].clone(),
            self.used[:0].clone(),
        )


def ask(
    network: Any, photos: Sequence[Photo], masks: Sequence[np.ndarray | None], device: torch.device, **how: Any
) -> list[ViewMaps]:
    """What the model says of every view, as `told` asks it; masked pixels are never read.

    A many-view model is asked about as many views at once as memory allows (on a CPU also time), in windows that
    overlap and are brought into one frame. Raises UserError, with numbers that fit, where memory does not suffice.
    """
    used = [None if mask is None else torch.from_numpy(mask) for mask in masks]
    if isinstance(network, ReconstructsPairs):
        answers = told(network, [_picture(photo, device) for photo in photos], used, **how)
        return [_view_maps(answer, mask) for answer, mask in zip(answers, used, strict=True)]
    sizes = [photo.fit.size for photo in photos]
    asked = {name: number for name, number in how.items() if number is not None and name.endswith("_chunk")}
    planned = plan(network, sizes, device, asked)
    while True:
        try:
            return _in_windows(network, photos, used, device, planned)
        except (MemoryError, RuntimeError) as error:
            smaller = planned.halved()
            if not is_out_of_memory(error) or (smaller == planned):
                raise
            if smaller.views < min(LEAST, len(photos)):
                raise too_large(sizes, device) from None
            planned = smaller


def _picture(photo: Photo, device: torch.device) -> Tensor:
    return torch.from_numpy(photo.image).permute(2, 0, 1).to(device).float() / 255


def _in_windows(
    network: Any, photos: Sequence[Photo], masks: Sequence[Tensor | None], device: torch.device, planned: Plan
) -> list[ViewMaps]:
    maps: list[ViewMaps] = []
    before: list[dict[str, Tensor]] = []
    end = 0
    made = list(windows(len(photos), planned.views))
    for first, last in track(made, label="asking the model", unit="window"):
        answers = told(network, [_picture(photo, device) for photo in photos[first:last]], **planned.chunks)
        answers = in_first_frame(answers, before[len(before) - (end - first) :]) if first < end else answers
        maps += [_view_maps(answers[row - first], masks[row]) for row in range(end, last)]
        before, end = answers, last
    return maps


def told(
    network: Any,
    pictures: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None = None,
    *,
    pairs: PairGraph = "auto",
    pairs_each: int = 4,
    seen: DescriptorMatches | None = None,
    **chunks: int | None,
) -> list[Answer]:
    """Maps (H, W, ...) of every picture (3, H, W) by name, without a gradient and in eval mode.

    Pictures of one size go as one tensor, mixed sizes as a list. A pair model is asked about two in both orders from
    one encoding, the second answer being the second view's own frame; one picture is paired with itself, and of more
    those pairs are asked that `pairs` names, and brought into one frame, where masked pixels (H, W) False do not
    count. `seen` is shown what a pair model says of each pair. `chunks` that are None are the model's own.
    """
    pair, count = isinstance(network, ReconstructsPairs), len(pictures)
    asked = {name: number for name, number in chunks.items() if number is not None}
    with evaluating(network), torch.inference_mode():
        if pair and count > 2:
            answer = in_one_frame(network, pictures, masks or [None] * count, kind=pairs, each=pairs_each, seen=seen)
            return [_of_view(answer, index) for index in range(count)]
        pictures = [*pictures, *pictures] if pair and count == 1 else pictures
        alike = len({picture.shape for picture in pictures}) == 1
        views: Any = torch.stack([*pictures])[None] if alike else [picture[None] for picture in pictures]
        answer = _both_orders(network, views, seen if count == 2 else None) if pair else network(views, **asked)
    return [_of_view(answer, index) for index in range(count)]


def _both_orders(network: Any, views: Any, seen: DescriptorMatches | None) -> Answer:
    """A pair model's maps in the first view's frame, and each view's map when it comes first."""
    first, second = network.encode_views(views)
    meaning = feature_heads(network)
    forward = network.decode(first, second, heads=(*(seen.heads if seen else ("pointmap",)), *meaning))
    backward = network.decode(second, first, heads=("pointmap", *meaning))
    if seen is not None:
        seen(0, 1, forward)
    own = [_of_view(forward, 0, batch=None), _of_view(backward, 0, batch=None)]
    answer = {
        "pointmap": forward["pointmap"],
        "confidence": forward["confidence"],
        "pointmap_local": [view["pointmap"] for view in own],
        "confidence_local": [view["confidence"] for view in own],
    }
    if meaning:
        cells = [feature_cells(said, network.config.patch_size) for said in (forward, backward)]
        answer["features"] = {name: [view[name][None] for view in cells] for name in meaning}
    return answer


def _of_view(answer: Answer, index: int, batch: int | None = 0) -> Answer:
    """The maps of one view, of one scene of the batch or of all."""
    maps: Answer = {}
    for name, value in answer.items():
        if isinstance(value, dict):
            if name == "features" and "encoder" not in value:  # of heads, and not the tokens they read
                maps[name] = _of_view(value, index, batch)
            continue
        view = value[:, index] if isinstance(value, Tensor) else value[index]
        maps[name] = view if batch is None else view[batch]
    return maps


def _view_maps(answer: Answer, mask: Tensor | None, quantile: float = 0.5) -> ViewMaps:
    """One view's maps (each (H, W, ...)) with the pixels that may be used.

    Masked pixels are never read.
    """
    maps = {  # copies: a view of the answer would keep its whole window
        name: answer[name].detach().to("cpu", torch.float32, copy=True)
        for name in ("pointmap", "confidence", "pointmap_local", "confidence_local")
    }
    world, local = maps["pointmap"], maps["pointmap_local"]
    valid = torch.isfinite(world).all(-1) & torch.isfinite(local).all(-1) & (local[..., 2] > 1e-6)
    if mask is not None:
        valid &= mask
    used = valid
    if bool(valid.any()):
        threshold = float(np.quantile(maps["confidence"][valid].numpy(), quantile, method="lower"))
        used = valid & (maps["confidence"] >= threshold)
    own = {name: answer[name].detach().double().cpu() for name in ("cam2world", "intrinsics") if name in answer}
    most = torch.finfo(torch.float16).max
    features = answer.get("features", {})
    spaces = {space: value.clamp(-most, most).half().cpu().numpy() for space, value in features.items()}
    return ViewMaps(world, maps["confidence"], local, maps["confidence_local"], valid, used, features=spaces, **own)
