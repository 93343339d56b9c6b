"""Scene: the views of one scene, their cameras, depths, points and confidences, in one frame and one unit.

Everything here is numpy. OpenCV axes (x right, y down, z forward), 4x4 `cam2world`, 3x3 `intrinsics` in
pixels with pixel centres at +0.5. The directory layout is described in docs/scene-format.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from manyview.cameras.tracks import Tracks
from manyview.config import from_dict
from manyview.errors import UserError
from manyview.scene import store
from manyview.scene.exporters import export
from manyview.scene.locate import Located, locate
from manyview.scene.options import LocateOptions
from manyview.scene.views import SceneView, same

# The share of least confident pixels that `Scene.points` leaves out when it is told nothing else.
DEFAULT_QUANTILE = 0.1


@dataclass(repr=False, eq=False)
class Scene:
    """Views in one frame: "first_view" (its camera frame) or "world" (the frame of the given cameras)."""

    views: list[SceneView]
    frame: Literal["first_view", "world"] = "first_view"
    scale: Literal["metric", "relative"] = "relative"
    scale_source: str = "the model's own unit"
    info: dict[str, Any] = field(default_factory=dict)
    """The model, the options, what was left out, the warnings."""
    tracks: Tracks | None = None
    """Points that views share by verified matches, each in the frame of its component; None without matches."""

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[SceneView]:
        return iter(self.views)

    def __getitem__(self, which: int | str) -> SceneView:
        """A view by its number or by its name. Raises IndexError, and KeyError for a name that no view has."""
        if not isinstance(which, str):
            return self.views[which]
        for view in self.views:
            if view.name == which:
                return view
        raise KeyError(f"no view is named {which!r}; the first is {self.views[0].name!r}")

    def __eq__(self, other: object) -> bool:
        """Whether everything is the same to the digit: views, frame, scale, tracks and what is said of them."""
        return same(self, other)

    def __repr__(self) -> str:
        together = f"{sum(view.registered for view in self.views)} of {len(self)} views registered"
        return f"Scene({together}, {self.components} components, frame {self.frame}, scale {self.scale})"

    @property
    def components(self) -> int:
        """How many sets of views have a frame of their own."""
        return len({view.component for view in self.views})

    def part(self, component: int = 0) -> Scene:
        """The views of one component and their tracks as a scene. Raises UserError for an unknown one."""
        chosen = [index for index, view in enumerate(self.views) if view.component == component]
        if not chosen:
            raise UserError(f"component {component} is not in this scene; it has {self.components}, from 0 on")
        alone = self.of(chosen)
        tracks = None if alone.tracks is None else replace(alone.tracks, component=0 * alone.tracks.component)
        return replace(alone, views=[replace(view, component=0) for view in alone.views], tracks=tracks)

    def of(self, chosen: Sequence[int]) -> Scene:
        """The views of these numbers and their tracks."""
        tracks = None if self.tracks is None else self.tracks.of(chosen)
        return replace(self, views=[self.views[index] for index in chosen], tracks=tracks)

    def points(
        self,
        *,
        min_confidence: float | None = None,
        quantile: float | None = None,
        most: int | None = None,
        component: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Points of the views of one component, which share a frame: xyz (N, 3) float32 and rgb (N, 3) uint8.

        Views without a camera give none.

        `min_confidence` keeps confidences of at least that value; `quantile` leaves out that share of the scene's
        least confident pixels. With neither given a tenth is left out. `most` thins evenly to at most that many.
        """
        cloud = self.cloud(min_confidence=min_confidence, quantile=quantile, most=most, component=component)
        return cloud.xyz, cloud.rgb

    def cloud(
        self,
        *,
        min_confidence: float | None = None,
        quantile: float | None = None,
        most: int | None = None,
        component: int = 0,
    ) -> Cloud:
        """As `points`, with each point's confidence, view and pixel. Pixels that other views contradict give none."""
        threshold = self._threshold(min_confidence, quantile)
        keep = [view.valid & ~view.denied & (view.confidence >= threshold) for view in self.views]
        keep = [
            mask & (view.component == component and view.cam2world is not None)
            for mask, view in zip(keep, self.views, strict=True)
        ]
        total = sum(int(mask.sum()) for mask in keep)
        chosen = _evenly(total, most)
        parts, start = [], 0
        for index, (view, mask) in enumerate(zip(self.views, keep, strict=True)):
            count = int(mask.sum())
            first, last = np.searchsorted(chosen, [start, start + count])
            here = chosen[first:last] - start
            row, column = (axis[here] for axis in np.nonzero(mask))
            start += count
            uv = np.stack([column + 0.5, row + 0.5], -1)
            parts.append(
                (
                    view.pointmap[row, column],
                    view.image[row, column],
                    view.confidence[row, column],
                    np.full(len(here), index),
                    uv,
                )
            )
        return Cloud(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def locate(self, queries: Sequence[str | Sequence[str]], *, encoder: Any = None, **options: Any) -> Located:
        """Where things are that words name: `scene.locate(["a chair", "sofa | couch"])["a chair"].places`.

        queries: texts, "|" or a sequence of texts between phrases that mean the same. options: threshold, background,
        space, quantile (`manyview.scene.options.LocateOptions`). encoder: texts -> (N, D) in the space of the features,
        instead of the one that speaks for it. Every query is asked by itself; one that is nowhere has `there` False.
        Raises UserError for an empty query, a scene without features, and features of another space.
        """
        return locate(self, queries, options=from_dict(LocateOptions, options), encoder=encoder)

    def _threshold(self, min_confidence: float | None, quantile: float | None) -> float:
        threshold = -np.inf if min_confidence is None else float(min_confidence)
        if np.isnan(threshold):
            raise UserError("min_confidence is no number; give the least confidence of a point that is kept")
        if quantile is None:
            quantile = DEFAULT_QUANTILE if min_confidence is None else 0.0
        if not 0 <= quantile < 1:
            raise UserError(f"quantile is {quantile}; it is the share of points to leave out, from 0 to below 1")
        if quantile == 0:
            return threshold
        confidences = [view.confidence[view.valid] for view in self.views]
        pooled = np.concatenate(confidences) if confidences else np.zeros(0)
        return max(threshold, float(np.quantile(pooled, quantile))) if len(pooled) else threshold

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write the scene directory, all or nothing. An earlier scene there is replaced, as far as it is as it was
        written; files of the user's only with `overwrite`, otherwise they are refused (UserError).
        """
        return store.save(self, Path(directory), overwrite=overwrite)

    @staticmethod
    def load(directory: str | Path, *, verify: bool = False) -> Scene:
        """Read a scene directory. Raises UserError when it is none or is damaged; verify: also when a file is not,
        by its digest, as it was written.
        """
        views, fields = store.load(Path(directory), verify=verify)
        return Scene(views, **fields)

    def export(self, path: str | Path, *, to: str | None = None, **options: Any) -> Path:
        """Write the scene in a format of `manyview export --to`, or in the one that the path says: .ply, .glb, a folder
        called colmap or nerfstudio, or with a name that ends so (scene-colmap).

        options: the format's own, such as min_confidence and quantile (see `points`). Raises UserError for an unknown
        format or option, and where something else lies at `path`.
        """
        return export(self, Path(path), to, options)

    def export_colmap(self, directory: str | Path, *, most: int = 50_000, **options: Any) -> Path:
        """Write images/ and a COLMAP text model of at most `most` points in sparse/0; options as for `export`."""
        return export(self, Path(directory), "colmap", {"max_points": most, **options})

    def export_nerfstudio(self, directory: str | Path, **options: Any) -> Path:
        """Write images/, transforms.json and points.ply for nerfstudio; options as for `export`."""
        return export(self, Path(directory), "nerfstudio", options)


@dataclass(frozen=True, repr=False, eq=False)
class Cloud:
    """N points with where they come from."""

    xyz: np.ndarray  # (N, 3) float32
    rgb: np.ndarray  # (N, 3) uint8
    confidence: np.ndarray  # (N,) float32
    view: np.ndarray  # (N,) index of the view
    uv: np.ndarray  # (N, 2) pixel centre at the model's resolution

    def __repr__(self) -> str:
        return f"Cloud({len(self):,} points)"

    def __len__(self) -> int:
        return len(self.xyz)


def _evenly(total: int, most: int | None) -> np.ndarray:
    """At most `most` of range(total), evenly spread."""
    if most is None or total <= most:
        return np.arange(total)
    return (np.arange(most) * (total / most)).astype(np.int64)
