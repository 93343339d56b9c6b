"""COLMAP: a text model (PINHOLE cameras, world-to-camera poses, points with tracks) beside its images.

Layout: images/ and sparse/N/{cameras,images,points3D}.txt, a model per set of views that share a frame, the largest in
sparse/0. Pixel centres are at +0.5 there as here.
The points of a scene whose cameras rest on matches come first, with where the photos really show them; its dense
points follow, without observations and with error -1. In a scene without matches observations are the points'
projections, from which bundle adjustment learns nothing new and which measure no error: it is -1 everywhere.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TextIO

import numpy as np
import torch

from manyview.cameras.tracks import Tracks
from manyview.geometry import cameras, poses
from manyview.scene.exporters import EXPORTERS, PictureExporter
from manyview.scene.originals import Target, targets, write_pictures
from manyview.scene.scene import Cloud, Scene
from manyview.scene.visibility import look
from manyview.written import fresh_directory

MARK = "# written by manyview"
# A point is also observed in views whose own depth there differs by less than this share.
TRACK_TOLERANCE = 0.02
# At most this many observations per point: hundreds of views of one wall would make files of gigabytes.
LONGEST_TRACK = 16


@EXPORTERS.add("colmap")
@dataclass(frozen=True, kw_only=True)
class Colmap(PictureExporter):
    """Images and a sparse model, in the scene's frame and unit."""

    line: ClassVar[str] = "images and a sparse model, for Gaussian splatting"
    several: ClassVar[bool] = True

    max_points: int = 50_000
    """At most this many points, thinned evenly."""

    def write(self, scene: Scene, path: Path) -> Path:
        chosen = targets(scene, self.size)
        sizes = Counter(view.component for view in scene.views)
        with fresh_directory(path, overwrite=self.overwrite, what="COLMAP export") as fresh:
            write_pictures(scene, chosen, fresh / "images", self.size)
            for number, component in enumerate(sorted(sizes, key=lambda n: (-sizes[n], n))):
                rows = [row for row, view in enumerate(scene.views) if view.component == component]
                self._write_model(scene.part(component), [chosen[row] for row in rows], fresh / "sparse" / str(number))
        return path

    def _write_model(self, scene: Scene, chosen: list[Target], model: Path) -> None:
        """One text model, of views that share a frame."""
        cloud = scene.cloud(min_confidence=self.min_confidence, quantile=self.quantile, most=self.max_points)
        model.mkdir(parents=True)
        if scene.tracks is None:
            observations, errors = _observe(scene, cloud, chosen), np.full(len(cloud), -1.0)
        else:
            cloud, observations, errors = _shared(scene, scene.tracks, cloud, chosen)
        with open(model / "cameras.txt", "w", encoding="utf-8", errors="surrogateescape") as handle:
            numbers = _write_cameras(handle, chosen)
        with open(model / "images.txt", "w", encoding="utf-8", errors="surrogateescape") as handle:
            _write_images(handle, scene, chosen, numbers, observations)
        with open(model / "points3D.txt", "w", encoding="utf-8", errors="surrogateescape") as handle:
            _write_points(handle, cloud, observations, errors)

    def next_step(self, path: Path) -> str:
        quoted = shlex.quote(str(path))
        return f"colmap gui --import_path {quoted}/sparse/0 --image_path {quoted}/images; or a splat"


def _observe(scene: Scene, cloud: Cloud, chosen: list[Target]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per view the points it sees (n,) and where, in the export's pixels (n, 2).

    In its own view a point is observed at the pixel it came from, in others where it projects.
    """
    observations: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, int), np.zeros((0, 2)))] * len(scene)
    lengths = np.ones(len(cloud), int)
    for index in np.random.default_rng(0).permutation(len(scene)):  # so that full tracks favour no view
        target, own = chosen[index], cloud.view == index
        seen, uv = look(scene.views[index], cloud.xyz, TRACK_TOLERANCE)
        seen &= own | (lengths < LONGEST_TRACK)
        lengths += seen & ~own
        uv[own] = cloud.uv[own]
        points = np.flatnonzero(seen | own)
        observations[index] = (points, target.pixels(uv[points]))
    return observations


def _shared(
    scene: Scene, tracks: Tracks, dense: Cloud, chosen: list[Target]
) -> tuple[Cloud, list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Shared points before the dense ones, where each view shows them, and their mean errors in the export's pixels."""
    count, observations = len(tracks.points), []
    total, colour = np.zeros(count), np.zeros((count, 3), np.uint8)
    for index, (view, target) in enumerate(zip(scene.views, chosen, strict=True)):
        own = tracks.view == index
        points = tracks.point[own]
        at_model = tracks.uv[own] @ view.source.affine[:2, :2].T + view.source.affine[:2, 2]
        uv = target.pixels(at_model)
        local = poses.apply(poses.invert(torch.from_numpy(view.pose)), torch.from_numpy(tracks.points[points]))
        projected, _ = cameras.project(local, torch.from_numpy(view.intrinsics))
        np.add.at(total, points, np.linalg.norm(target.pixels(projected.numpy()) - uv, axis=-1))
        row, column = (
            np.clip(at_model[:, axis].astype(int), 0, side - 1)
            for axis, side in ((1, view.image.shape[0]), (0, view.image.shape[1]))
        )
        colour[points] = view.image[row, column]
        observations.append((points, uv))
    seen = np.maximum(np.bincount(tracks.point, minlength=count), 1)
    cloud = Cloud(
        np.concatenate([tracks.points.astype(np.float32), dense.xyz]),
        np.concatenate([colour, dense.rgb]),
        np.concatenate([np.ones(count, np.float32), dense.confidence]),
        np.concatenate([np.full(count, -1), dense.view]),
        np.concatenate([np.zeros((count, 2)), dense.uv]),
    )
    return cloud, observations, np.concatenate([total / seen, np.full(len(dense), -1.0)])


def _write_cameras(handle: TextIO, chosen: list[Target]) -> list[int]:
    """Equal cameras are written once; returns each view's camera number."""
    number_of: dict[tuple[float, ...], int] = {}
    handle.write(f"{MARK}\n# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[] (fx, fy, cx, cy)\n")
    numbers = []
    for target in chosen:
        k = target.intrinsics
        key = (target.width, target.height, k[0, 0], k[1, 1], k[0, 2], k[1, 2])
        if key not in number_of:
            number_of[key] = len(number_of) + 1
            parameters = " ".join(f"{value:.17g}" for value in key[2:])
            handle.write(f"{number_of[key]} PINHOLE {target.width} {target.height} {parameters}\n")
        numbers.append(number_of[key])
    return numbers


def _write_images(
    handle: TextIO,
    scene: Scene,
    chosen: list[Target],
    numbers: list[int],
    observations: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    handle.write(f"{MARK}\n")
    handle.writelines(f"# {note}\n" for note in scene.info.get("left_out", []))
    handle.write("# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n# X, Y, POINT3D_ID, ...\n")
    for index, view in enumerate(scene.views):
        camera_from_world = poses.invert(torch.from_numpy(view.pose))
        rotation = poses.quaternion_from_matrix(camera_from_world[:3, :3])
        values = [*rotation.tolist(), *camera_from_world[:3, 3].tolist()]
        pose = " ".join(f"{value:.17g}" for value in values)
        handle.write(f"{index + 1} {pose} {numbers[index]} {chosen[index].name}\n")
        points, uv = observations[index]
        line = " ".join(f"{u:.3f} {v:.3f} {p + 1}" for p, (u, v) in zip(points.tolist(), uv.tolist(), strict=True))
        handle.write(f"{line}\n")


def _write_points(
    handle: TextIO, cloud: Cloud, observations: list[tuple[np.ndarray, np.ndarray]], errors: np.ndarray
) -> None:
    tracks: list[list[str]] = [[] for _ in range(len(cloud))]
    for image, (points, _) in enumerate(observations):
        for place, point in enumerate(points.tolist()):
            tracks[point].append(f"{image + 1} {place}")
    handle.write(f"{MARK}\n# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] (IMAGE_ID, POINT2D_IDX)\n")
    for index in range(len(cloud)):
        x, y, z = cloud.xyz[index].tolist()
        r, g, b = cloud.rgb[index].tolist()
        track = " ".join(tracks[index])
        handle.write(f"{index + 1} {x:.9g} {y:.9g} {z:.9g} {r} {g} {b} {errors[index]:.4f} {track}\n")
