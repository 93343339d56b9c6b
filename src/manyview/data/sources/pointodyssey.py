"""PointOdyssey: `[train|val|test|sample/]SCENE/{rgbs,depths}` and an annotation file of cameras and tracks.

Layout: utils/reprojection.py of github.com/y-zheng18/point_odyssey (rgbs/rgb_FFFFF.jpg, depths/depth_FFFFF.png
with 65535 = 1000 m, `annotations.npz` with intrinsics, extrinsics, trajs_2d, trajs_3d). Later releases name the
file `anno.npz`. That script projects with OpenGL axes, a mirrored picture and turned track coordinates, which
other loaders do not; so nothing is taken on trust: the axes are those under which the file's own 3D tracks fall
on its 2D tracks, and without such axes no camera is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, first_file, images_of, reader
from manyview.data.sources.poses import full, inverse
from manyview.data.sources.rows import Camera, Row, lens_of

_FILES = ("anno.npz", "annotations.npz")
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
_TURN = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
_PIXELS = 2.0  # median distance of the tracks that is still agreement


@SOURCES.add("pointodyssey")
@reader("SCENE/rgbs folder")
def scenes(src: Source) -> Scenes:
    """The folder with train, val, test, one of these, or one scene."""
    for folder in src.folders("rgbs", "*/rgbs", "*/*/rgbs"):
        scene = folder.parent
        cameras = src.read(first_file(scene / name for name in _FILES), read_cameras) or {}
        split = scene.parent.name if scene.parent.name in ("train", "val", "test") else ""
        rows = []
        for image in images_of(folder):
            frame = image.stem.rsplit("_", 1)[-1]
            camera = cameras.get(int(frame)) if frame.isdigit() else None
            depth = scene / "depths" / f"depth_{frame}.png"
            rows.append(Row(image=image, name=frame, camera=camera, depth=depth, depth_scale=1000 / 65535, split=split))
        yield src.name(scene), rows


def read_cameras(path: Path) -> dict[int, Camera]:
    """Frame -> camera. Raises ValueError when the tracks agree with no known axes."""
    with np.load(path, allow_pickle=False) as file:
        lenses, extrinsics = file["intrinsics"].astype(np.float64), file["extrinsics"].astype(np.float64)
        middle = len(extrinsics) // 2
        points, pixels = file["trajs_3d"][middle], file["trajs_2d"][middle]
        valid = file["visibs"][middle].astype(bool) if "visibs" in file else np.ones(len(points), bool)
    valid &= np.isfinite(points).all(-1) & np.isfinite(pixels).all(-1)
    axes = _axes(points[valid], pixels[valid], lenses[middle], full(extrinsics[middle]))
    return {
        frame: Camera(lens_of(lens), inverse(axes @ full(world2cam)))
        for frame, (lens, world2cam) in enumerate(zip(lenses, extrinsics, strict=True))
    }


def _axes(points: np.ndarray, pixels: np.ndarray, lens: np.ndarray, world2cam: np.ndarray) -> np.ndarray:
    """(4, 4): from the stored camera axes to OpenCV's, chosen by where the 3D tracks fall."""
    points = np.concatenate([points, np.ones((len(points), 1))], -1)
    errors: dict[str, float] = {}
    for name, axes in (("opencv", np.eye(4)), ("opengl", _FLIP)):
        for turn in (np.eye(4), _TURN):
            camera = points @ (axes @ world2cam @ turn).T
            with np.errstate(divide="ignore", invalid="ignore"):
                projected = (camera[:, :3] @ lens.T)[:, :2] / camera[:, 2:3]
            distances = np.linalg.norm(projected - pixels, axis=-1)
            errors[name] = min(errors.get(name, np.inf), float(np.median(distances)) if len(points) else np.inf)
    best = min(errors, key=lambda name: errors[name])
    if not errors[best] < _PIXELS:
        raise ValueError(f"its 3D tracks fall {errors[best]:.1f} pixels from its 2D tracks, axes unknown")
    return np.eye(4) if best == "opencv" else _FLIP
