"""A view of a scene: one picture with its camera, its depth, its points and their confidences, all numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch

from manyview.cameras.tracks import REGISTERED, RestsOn
from manyview.errors import UserError
from manyview.geometry import pointmaps


@dataclass(eq=False, repr=False)
class Source:
    """Where a view came from: enough to speak about the pixels of the original picture."""

    size: tuple[int, int]
    """(H, W) of the original picture, upright (EXIF rotation applied)."""
    affine: np.ndarray
    """(3, 3) map from source pixels to the model's pixels."""
    intrinsics: np.ndarray
    """(3, 3) at the original resolution."""
    path: str | None = None
    """The image or video file; None for an array."""
    frame: int | None = None
    """The frame number when `path` is a video."""
    pixels: np.ndarray | None = None
    """(H, W, 3) uint8, kept only for pictures that are in no file."""

    def __eq__(self, other: object) -> bool:
        return same(self, other)

    def __repr__(self) -> str:
        height, width = self.size
        frame = "" if self.frame is None else f", frame {self.frame}"
        return f"Source({self.path or 'an array'!r}{frame}, {width}x{height})"


@dataclass(repr=False, eq=False)
class SceneView:
    """One picture at the model's resolution, with its camera and its maps."""

    name: str
    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    depth: np.ndarray
    """(H, W) float32 along the optical axis, in the scene's unit; 0 = none."""
    confidence: np.ndarray
    """(H, W) float32: one over the expected relative error of depth where `info["confidence"]` says calibrated, else
    raw, as the model defines it."""
    intrinsics: np.ndarray
    """(3, 3) float64 at this resolution."""
    cam2world: np.ndarray | None
    """(4, 4) float64; the world is the frame of its component. None where the pose rests on nothing."""
    source: Source
    raw_pointmap: np.ndarray | None = None
    """(H, W, 3) when the points are a model's own and not the depth along the camera's rays."""
    rests_on: RestsOn = "model"
    """What the pose is worth: matches, depth, given; model (its word, unchecked); nothing."""
    component: int = 0
    """Views of one component share a frame; 0 is the one with most views."""
    inliers: int = 0
    """Observations of shared points that agree with the final cameras."""
    error_px: float | None = None
    """Their median reprojection error, in pixels of the original picture."""
    contradicted: np.ndarray | None = None
    """(H, W) bool: pixels whose depth no other view that looks there agrees with; None where none was compared."""
    info: dict[str, Any] = field(default_factory=dict)
    """How the pose was found."""
    features: dict[str, np.ndarray] = field(default_factory=dict)
    """Space ("clip", "dino", "minilm") -> (h, w, D) float16 over the whole picture; empty without feature heads."""
    labels: np.ndarray | None = None
    """(H, W) int16: which of the scene's `info["labels"]` a pixel shows, -1 for none; None where nothing was asked."""
    scores: np.ndarray | None = None
    """(H, W) float16: how probable its label is."""

    def __eq__(self, other: object) -> bool:
        """Whether pictures, maps, cameras and everything else are the same to the digit."""
        return same(self, other)

    def __repr__(self) -> str:
        height, width = self.depth.shape
        return f"SceneView({self.name!r}, {width}x{height}, rests on {self.rests_on}, component {self.component})"

    @property
    def registered(self) -> bool:
        """Whether evidence, or the user, ties its pose to another view's."""
        return self.rests_on in REGISTERED

    @property
    def pose(self) -> np.ndarray:
        """(4, 4) cam2world of a view that has one. Raises UserError for one that nothing places."""
        if self.cam2world is None:
            raise UserError(f"{self.name} has no camera: its pose rests on nothing; leave it out")
        return self.cam2world

    @property
    def valid(self) -> np.ndarray:
        """(H, W) bool: pixels that have a point (masked pixels have none)."""
        return self.depth > 0

    @property
    def denied(self) -> np.ndarray:
        """(H, W) bool: as `contradicted`, nowhere where none was compared."""
        return np.zeros(self.depth.shape, bool) if self.contradicted is None else self.contradicted

    @property
    def pointmap(self) -> np.ndarray:
        """(H, W, 3) float32 in the scene's frame; NaN where there is no point, all of it without a camera."""
        if self.cam2world is None:
            return np.full((*self.depth.shape, 3), np.nan, np.float32)
        if self.raw_pointmap is not None:
            points = self.raw_pointmap
        else:
            local = pointmaps.unproject(torch.from_numpy(np.asarray(self.depth, np.float64)), _tensor(self.intrinsics))
            points = pointmaps.transform(_tensor(self.cam2world), local).numpy()
        return np.where(self.valid[..., None], points, np.nan).astype(np.float32)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal to the digit: arrays, NaN at the same places, and what holds them."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)):
            return False
        exact = one.dtype.kind not in "fc" or other.dtype.kind not in "fc"
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=not exact)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if is_dataclass(one) or is_dataclass(other):
        return type(one) is type(other) and all(
            same(getattr(one, part.name), getattr(other, part.name)) for part in fields(one)
        )  # type: ignore[arg-type]
    return bool(one == other) or (one != one and other != other)  # NaN


def level_from_scene(views: Sequence[SceneView]) -> np.ndarray:
    """(3, 3) rotation to axes x right, y down, z forward of how the photos were held on average."""
    mean = np.mean([view.pose[:3, :3] for view in views], axis=0)
    down = mean[:, 1] / max(float(np.linalg.norm(mean[:, 1])), 1e-9)
    forward = mean[:, 2] - down * (down @ mean[:, 2])
    if np.linalg.norm(mean[:, 1]) < 0.1 or np.linalg.norm(forward) < 0.1:  # photos of every direction: as the first
        return np.asarray(views[0].pose[:3, :3]).T
    forward /= np.linalg.norm(forward)
    return np.stack([np.cross(down, forward), down, forward])


def _tensor(matrix: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(matrix, np.float64))
