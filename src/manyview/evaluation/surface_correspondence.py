"""Places of a surface found again by the nearest feature, nothing trained (Probe3D: NAVI, ScanNet; MuM, Table 13).

Every measured place of A is matched with the most similar place of B by cosine; the most distinct matches are judged by
how far apart their places lie in space, and in pixels of B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.data.depths import read_depth
from manyview.data.manifest import Manifest
from manyview.data.pairs import is_measured
from manyview.errors import UserError
from manyview.evaluation.base import (
    PROTOCOLS,
    Answer,
    Item,
    Method,
    Model,
    Number,
    Protocol,
    Row,
    Summary,
    Work,
    skipped,
)
from manyview.evaluation.feature_maps import FeatureMaps
from manyview.evaluation.pair_lists import digest_of, listed_pairs
from manyview.evaluation.published import wanted
from manyview.evaluation.tables import markdown_table
from manyview.evaluation.tokens import LABELS, image_size
from manyview.geometry.cameras import apply_affine
from manyview.geometry.pointmaps import unproject
from manyview.images.fit import Fit, cover, same_picture
from manyview.images.reading import ImageProblem, read_fitted, resample_nearest
from manyview.metrics.correspondence import binned_means, surface_matches
from manyview.metrics.pose import rotation_error
from manyview.models.family import encoder_of
from manyview.models.model import device_of
from manyview.pipelines.picture_table import places

METRES, PIXELS = (0.01, 0.02, 0.05), (5, 10, 20, 25, 50)
ANGLES = (0, 15, 30, 60, 90, 120, 180)
Maps = Callable[[Tensor], Tensor]
"""Pictures (N, 3, H, W) -> features (N, h, w, D)."""


@PROTOCOLS.add("surface-correspondence")
@dataclass(frozen=True, kw_only=True)
class SurfaceCorrespondence(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "surface-correspondence"
    line: ClassVar[str] = "recall of the nearest feature on surfaces, no training (MuM, Table 13; SAB3R, Table 5)"
    unit: ClassVar[str] = "pairs"
    title: ClassVar[str] = "correspondence on surfaces"
    labels: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "untrained": LABELS["untrained"],
        "noise": "features of noise",
    }
    numbers: ClassVar[tuple[Number, ...]] = (
        *(Number(f"within_{100 * m:.0f}cm", f"< {100 * m:.0f} cm", "higher", digits=1, percent=True) for m in METRES),
        *(Number(f"within_{p}px", f"< {p} px", "higher", digits=1, percent=True) for p in PIXELS),
    )

    pair_list: str = ""
    """A published list of pairs (ScanNet-1500: test.npz or SuperGlue's text); else partners are drawn at random."""
    most_angle: float = 120.0
    """Partners turned by more degrees are not drawn."""
    every: int = 4
    """Every so many-th frame with a partner is judged, as Probe3D does; with a list all pairs are."""
    pairs: int = 0
    """At most so many pairs, evenly spread; 0 for all."""
    matches: int = 1000
    """The most distinct matches of a pair that count."""
    crop: Literal["none", "object"] = "none"
    """object: the square around what has depth, as Probe3D crops NAVI."""
    reduce: int = 4
    """Places are those of every so many-th pixel of a row and a column."""
    head: str = ""
    """Features of this head of the model instead of the encoder's (clip, dino, …)."""
    norm: bool = True
    """Tokens after the encoder's final LayerNorm; Table 13 is the better of both."""
    size: int | tuple[int, int] | None = None
    """Resolution, (H, W) or a square; by default what the model was made for."""
    baselines: bool = True
    """Also the same model with random weights, and features of noise."""
    seed: int = 8
    """Seed of partners, random weights and noise."""

    def __post_init__(self) -> None:
        if min(self.every, self.matches, self.reduce) < 1:
            raise UserError(f"every={self.every}, matches={self.matches}, reduce={self.reduce}: give at least 1 each")

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "pair_list": digest_of(self.pair_list)}

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        FeatureMaps(model, self.head)
        size = image_size(encoder_of(model), self.size)
        if min(size) < 2 * self.reduce:
            raise UserError(f"reduce={self.reduce} leaves no place of {size[0]}x{size[1]} pixels; give less")
        chosen = self._drawn(data) if not self.pair_list else listed_pairs(self.pair_list, data)
        chosen = [chosen[place] for place in places(len(chosen), self.pairs or len(chosen))]
        kept: dict[int, str | None] = {}
        items = []
        for number, (a, b) in enumerate(chosen):
            for row in (a, b):
                if row not in kept:
                    kept[row] = self._keep(data, row, size, work)
            names = {"frame_a": data[a].image, "frame_b": data[b].image}
            why = kept[a] or kept[b]
            items.append(Item(f"{number:06d}", data[a].scene, names, {"a": a, "b": b, "size": list(size)}, skipped=why))
        if all(item.skipped for item in items):
            raise UserError(f"no pair can be judged: {items[0].names['frame_a']}: {items[0].skipped}")
        work.note(size=size)
        return items

    def _drawn(self, data: Manifest) -> list[tuple[int, int]]:
        """A random partner of the same scene for every frame, none turned by more than `most_angle` or not at all."""
        rng = np.random.default_rng(self.seed)
        pairs: list[tuple[int, int]] = []
        for rows in data.scenes().values():
            usable = [row for row in rows if is_measured(data[row])]
            usable = [row for row in usable if data[row].split == "test"] or usable
            turns = np.array([data[row].cam2world for row in usable], np.float64).reshape(-1, 4, 4)[:, :3, :3]
            for place, row in enumerate(usable):
                angles = rotation_error(turns, np.broadcast_to(turns[place], turns.shape))
                partners = np.flatnonzero((angles > 1e-3) & (angles <= self.most_angle))
                if len(partners):
                    pairs.append((row, usable[int(rng.choice(partners))]))
        if not pairs:
            raise UserError(
                "no frame has a partner: two frames of a scene with depth, pose and intrinsics, turned by at most "
                f"{self.most_angle:g} degrees; raise most_angle, or scan such data: {wanted('navi', 'scannet')}"
            )
        return pairs[:: self.every]

    def _keep(self, data: Manifest, row: int, size: tuple[int, int], work: Work) -> str | None:
        """Keep a frame's fit, points and camera; why it cannot be judged, else None."""
        frame = data[row]
        if not is_measured(frame) or frame.intrinsics is None or frame.pose is None:
            return "no measured depth, pose or intrinsics"
        try:
            depth = read_depth(data.path(str(frame.depth)), frame.depth_scale or 1.0, data.farthest)
        except ImageProblem as problem:
            return problem.reason
        if not same_picture(depth.shape, (frame.height, frame.width)):
            return f"its depth is {depth.shape[1]}x{depth.shape[0]}, of another aspect"
        fit = cover((frame.height, frame.width), size)
        if self.crop == "object":
            found = _around(depth, (frame.height, frame.width), size)
            if found is None:
                return "no measured depth"
            fit = found
        seen = torch.from_numpy(resample_nearest(depth, fit))
        lens = apply_affine(fit.affine, torch.from_numpy(frame.intrinsics))
        start = self.reduce // 2
        points = unproject(seen[None].double(), lens.double()[None])[0][start :: self.reduce, start :: self.reduce]
        if not bool((points[..., 2] > 0).any()):
            return "no measured place"
        work.keep_measured(
            f"frame_{row:06d}",
            points=points.float().numpy(),
            intrinsics=lens.double().numpy(),
            cam2world=frame.pose,
            fit=np.array([fit.scale, *fit.offset]),
        )
        return None

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        device = device_of(model)
        methods: dict[str, Maps] = {"model": FeatureMaps(model, self.head, self.norm)}
        if self.baselines:
            methods["untrained"] = FeatureMaps(model.untrained(self.seed), self.head, self.norm)
            methods["noise"] = partial(_noise, torch.Generator().manual_seed(self.seed))
        return {name: partial(self._answers, maps, data, work, device) for name, maps in methods.items()}

    @torch.no_grad()
    def _answers(
        self, maps: Maps, data: Manifest, work: Work, device: torch.device, items: Sequence[Item]
    ) -> Iterator[tuple[Item, Answer]]:
        for item in items:
            if item.skipped:
                continue
            views, known = [], [work.measured(f"frame_{item.about[side]:06d}") for side in "ab"]
            for side, of in zip("ab", known, strict=True):
                frame = data[item.about[side]]
                scale, top, left = of["fit"].tolist()
                fit = Fit((frame.height, frame.width), tuple(item.about["size"]), scale, (top, left))
                pixels, _ = read_fitted(data.path(frame.image), lambda _, fit=fit: fit)  # type: ignore[misc]
                image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device) / 255
                features = maps(image).permute(0, 3, 1, 2).float()
                points = of["points"].reshape(-1, 3)
                fine = F.interpolate(features, of["points"].shape[:2], mode="bicubic", align_corners=False)
                there = points[:, 2] > 0
                views.append((fine[0].flatten(1).T.cpu().numpy()[there], points[there]))
            motion = np.linalg.inv(known[1]["cam2world"]) @ known[0]["cam2world"]
            found = surface_matches(views[0], views[1], motion, known[1]["intrinsics"], self.matches)
            angle = rotation_error(motion[:3, :3], np.eye(3))
            yield item, {name: found[name] for name in ("error_3d", "error_2d")} | {"angle": np.array(angle)}

    def judge(self, item: Item, answer: Answer, truth: Any) -> Row:
        near = {f"within_{100 * m:.0f}cm": float((answer["error_3d"] < m).mean()) for m in METRES}
        return (
            near
            | {f"within_{p}px": float((answer["error_2d"] < p).mean()) for p in PIXELS}
            | {"angle": float(answer["angle"])}
        )

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        binned = {}
        for method, of in rows.items():
            angles = [row["angle"] for row in of]
            means = {
                key: binned_means([row[key] for row in of], angles, ANGLES) for key in ("within_2cm", "within_10px")
            }
            binned[method] = {key: [None if np.isnan(v) else float(v) for v in values] for key, values in means.items()}
        return {"size": work.about["size"], "pairs": len(work.items), "by_angle": binned, "skipped": skipped(work)}

    def sections(self, summary: Summary) -> list[str]:
        height, width = summary["size"]
        heads = [f"{low}–{high}°" for low, high in pairwise(ANGLES)]
        table = [
            [
                f"{self.label(method)}, {'< 2 cm' if key == 'within_2cm' else '< 10 px'}",
                *("–" if v is None else f"{100 * v:.1f} %" for v in values),
            ]
            for method, of in summary["by_angle"].items()
            for key, values in of.items()
        ]
        return [
            f"{summary['pairs']} pairs at {height}x{width} pixels, the {self.matches} most distinct matches of each. "
            "Centimetres mean something for data in metres only.",
            *super().sections(summary),
            "By the angle between the views:",
            markdown_table(["", *heads], table),
            *(f"Not judged: {image}: {why}." for image, why in list(summary["skipped"].items())[:20]),
        ]


def _noise(generator: torch.Generator, images: Tensor) -> Tensor:
    return torch.randn(len(images), 32, 32, 64, generator=generator)


def _around(depth: np.ndarray, source: tuple[int, int], size: tuple[int, int]) -> Fit | None:
    """The square around what has depth, inside the picture as far as it fits, at `size`."""
    rows, columns = (np.flatnonzero((depth > 0).any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    ratio = source[0] / depth.shape[0]
    ends = [(of[0] * ratio, (of[-1] + 1) * ratio) for of in (rows, columns)]
    side = min(max(high - low for low, high in ends), *source)
    scale = max(size) / side
    starts = [
        min(max(0.0, (low + high - side) / 2), length - side) for (low, high), length in zip(ends, source, strict=True)
    ]
    return Fit(source, size, scale, (starts[0] * scale, starts[1] * scale))
