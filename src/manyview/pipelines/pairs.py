"""A pair model on many photos: which pairs it is asked about, one encoding per photo, one frame for all answers.

Memory grows with the photos, not with the pairs: of a pair only points on a coarse grid are kept, of a photo the sum of
what was said of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.cameras.align import Pairwise, align
from manyview.cameras.graph import connected
from manyview.geometry import alignment, cameras, pointmaps
from manyview.pipelines.options import PairGraph
from manyview.pipelines.own_matches import DescriptorMatches
from manyview.progress import track

COMPLETE = 12
"""Up to so many photos every pair is asked about unless something else is chosen."""
GRID = 24
"""Rows and columns of the places of a photo at which pairs are aligned."""
CELLS = 2
"""Cells of a feature map along the side of a patch: at every pixel a photo would take hundreds of megabytes."""
DEFAULT_FOCAL = 1.0
"""Focal length in long sides where a pointmap gives none."""


def pair_graph(kind: PairGraph, each: int, alike: Tensor) -> list[tuple[int, int]]:
    """Pairs i < j of photos that join them all; alike (V, V): how similar photos look."""
    count = len(alike)
    if kind == "complete" or (kind == "auto" and count <= COMPLETE):
        return list(combinations(range(count), 2))
    if kind == "star":
        return [(0, j) for j in range(1, count)]
    if kind == "window":
        return [(i, j) for i in range(count) for j in range(i + 1, min(count, i + 1 + each))]
    alike = alike.clone().fill_diagonal_(-torch.inf)
    nearest = alike.topk(min(each, count - 1), dim=1).indices.tolist()
    chosen = {(min(i, j), max(i, j)) for i, near in enumerate(nearest) for j in near}
    if kind == "auto":  # photos often come in the order in which they were taken
        chosen |= {(i, i + 1) for i in range(count - 1)}
    for i, j in sorted(combinations(range(count), 2), key=lambda pair: -float(alike[pair])):
        label = connected(count, chosen)
        if label.max() == 0:
            break
        if label[i] != label[j]:
            chosen.add((i, j))
    return sorted(chosen)


def encoded_once(network: Any, pictures: Sequence[Tensor]) -> list[Any]:
    """The tokens of each picture (3, H, W), two at a time, as the model takes them."""
    tokens: list[Any] = []
    for start in track(range(0, len(pictures), 2), label="encoding", unit="pair"):
        two = [picture[None] for picture in pictures[start : start + 2]]
        views = two if len(two) == 2 else [*two, *two]
        tokens += network.encode_views(torch.stack(views, 1) if views[0].shape == views[1].shape else views)[: len(two)]
    return tokens


def likeness(tokens: Sequence[Any]) -> Tensor:
    """(V, V) cosines of the photos' mean tokens, less what all photos have in common."""
    means = torch.stack([photo.patches.mean((0, 1)).float().cpu() for photo in tokens])
    apart = F.normalize(means - means.mean(0), dim=1)
    return apart @ apart.T


def in_one_frame(
    network: Any,
    pictures: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    *,
    kind: PairGraph = "auto",
    each: int = 4,
    seen: DescriptorMatches | None = None,
) -> dict[str, Any]:
    """Maps of every picture (3, H, W) in the first one's frame, as lists of (1, H, W, ...), and cameras.

    masks: (H, W) bool, True = use this pixel. `seen` is shown every answer as it comes, once per pair.
    """
    tokens = encoded_once(network, pictures)
    count = len(pictures)
    graph = pair_graph(kind, each, likeness(tokens) if kind in ("auto", "retrieval") else torch.zeros(count, count))
    sums = [_Sums(picture.shape[-2], picture.shape[-1], mask) for picture, mask in zip(pictures, masks, strict=True)]
    pairs, points, weights, meaning = [], [], [], feature_heads(network)
    for i, j in track(graph, label="pairs", unit="pair"):
        for first, second in ((i, j), (j, i)):
            heads = seen.heads if seen is not None and first == i else ("pointmap",)
            said = network.decode(tokens[first], tokens[second], heads=(*heads, *meaning))
            if seen is not None and first == i:
                seen(i, j, said)
            views = [(_one(said["pointmap"], side), _one(said["confidence"], side)) for side in (0, 1)]
            sums[first].add(*views[0], feature_cells(said, network.config.patch_size) if meaning else {})
            sampled = [sums[k].sampled(*maps) for k, maps in zip((first, second), views, strict=True)]
            pairs.append((first, second))
            points.append(torch.stack([one[0] for one in sampled]))
            weights.append(torch.stack([one[1] for one in sampled]))
    shapes = [tuple(picture.shape[-2:]) for picture in pictures]
    said_all = Pairwise(
        torch.tensor(pairs),
        torch.stack(points),
        torch.stack(weights),
        torch.stack([one.uv for one in sums]),
        torch.tensor([one.focal() for one in sums]),
        torch.tensor([shapes.index(shape) for shape in shapes]),
    )
    aligned = align(said_all)
    answer: dict[str, Any] = {
        name: [] for name in ("pointmap", "confidence", "pointmap_local", "confidence_local", "cam2world", "intrinsics")
    }
    for one, pose, focal, depth in zip(sums, aligned.cam2world, aligned.focal, aligned.depth, strict=True):
        matrix = cameras.intrinsics_matrix(float(focal), float(focal), one.width / 2, one.height / 2).double()
        local = pointmaps.unproject(one.fitted(depth), matrix)
        maps = {
            "pointmap": pointmaps.transform(pose, local).float(),
            "confidence": one.confidence(),
            "pointmap_local": local.float(),
            "confidence_local": one.confidence(),
            "cam2world": pose,
            "intrinsics": matrix,
        }
        for name, value in maps.items():
            answer[name].append(value[None])
    if meaning:
        answer["features"] = {name: [one.features[name][None] / one.answers for one in sums] for name in meaning}
    return answer


def feature_heads(network: Any) -> tuple[str, ...]:
    """The names of a pair model's feature heads."""
    return tuple(name for name, _ in getattr(network.config, "feature_heads", ()))


def feature_cells(said: dict[str, Any], patch: int) -> dict[str, Tensor]:
    """What the feature heads say of the first of two views, a mean of every quarter of a patch: (h, w, C) on the CPU.

    As published, a view's features are those of an answer in which it comes first.
    """
    maps = {name: _one(value, 0) for name, value in said.get("features", {}).items()}
    side = max(1, patch // CELLS)
    return {name: F.avg_pool2d(values.permute(2, 0, 1), side).permute(1, 2, 0) for name, values in maps.items()}


def _one(maps: Any, side: int) -> Tensor:
    """One view's map of an answer with a batch of one, on the CPU."""
    values = maps[:, side] if isinstance(maps, Tensor) else maps[side]
    picked: Tensor = values[0].detach().float().cpu()
    return picked


@dataclass
class _Sums:
    """What was said of one photo so far: depths in logarithms, each answer less its median, weighted by confidence."""

    height: int
    width: int
    mask: Tensor | None
    logs: Tensor = field(init=False)
    mass: Tensor = field(init=False)
    sure: Tensor = field(init=False)
    answers: int = 0
    middles: list[float] = field(default_factory=list)
    focals: list[float] = field(default_factory=list)
    features: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.logs, self.mass, self.sure = (torch.zeros(self.height, self.width) for _ in range(3))
        centres = (torch.arange(GRID) + 0.5) / GRID
        rows, columns = torch.meshgrid((centres * self.height).long(), (centres * self.width).long(), indexing="ij")
        self.place = (rows.flatten(), columns.flatten())
        self.uv = torch.stack([self.place[1] + 0.5 - self.width / 2, self.place[0] + 0.5 - self.height / 2], 1)

    def add(self, points: Tensor, confidence: Tensor, features: dict[str, Tensor]) -> None:
        """An answer in which the photo comes first: points (H, W, 3) in its own frame, confidence, features."""
        self.features = {name: self.features.get(name, 0) + cells for name, cells in features.items()}
        known = torch.isfinite(points).all(-1) & (points[..., 2] > 1e-6)
        known = known if self.mask is None else known & self.mask
        self.sure += confidence.nan_to_num(0)
        self.answers += 1
        if not bool(known.any()):
            return
        logs = torch.where(known, points[..., 2], 1).log()
        middle = float(logs[known].median())
        weight = torch.where(known, _weight(confidence), 0)
        self.logs += weight * (logs - middle)
        self.mass += weight
        self.middles.append(middle)
        focal = alignment.focal_from_pointmap(points, known)
        if 0.2 < focal / max(self.height, self.width) < 5:
            self.focals.append(focal)

    def sampled(self, points: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
        """Points (P, 3) and weights (P,) of an answer at the photo's places."""
        points, confidence = points[self.place], confidence[self.place]
        known = torch.isfinite(points).all(-1)
        known = known if self.mask is None else known & self.mask[self.place]
        return torch.where(known[:, None], points, 0), torch.where(known, _weight(confidence), 0)

    def focal(self) -> float:
        """Median of what the answers show, in pixels."""
        usual = DEFAULT_FOCAL * max(self.height, self.width)
        return float(torch.tensor(self.focals).median()) if self.focals else usual

    def confidence(self) -> Tensor:
        """(H, W) mean over the answers in which the photo comes first."""
        return self.sure / max(self.answers, 1)

    def fitted(self, depth: Tensor) -> Tensor:
        """(H, W) float64: the mean answer, bent smoothly to the aligned depths (P,); 0 where none was given."""
        middle = sum(self.middles) / max(len(self.middles), 1)
        logs = self.logs.double() / self.mass.clamp(min=1e-12) + middle
        bend = (depth.log() - logs[self.place]).reshape(1, 1, GRID, GRID)
        bend = torch.where((self.mass[self.place] > 0).reshape(bend.shape), bend, 0)
        whole = F.interpolate(bend, (self.height, self.width), mode="bilinear", align_corners=False)[0, 0]
        return torch.where(self.mass > 0, (logs + whole).exp(), 0)


def _weight(confidence: Tensor) -> Tensor:
    """What a point counts: the logarithm of a confidence of 1 and more (DUSt3R's choice)."""
    return confidence.nan_to_num(0).clamp(min=1 + 1e-3).log()
