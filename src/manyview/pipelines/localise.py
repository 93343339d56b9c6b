"""Where further photos were taken, in a scene that is already reconstructed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from manyview.cameras.keypoints import LONG_SIDE, Keypoints, detect, mirrored
from manyview.cameras.links import LEAST
from manyview.cameras.locate import Landmarks, Located, landmarks, locate
from manyview.errors import UserError
from manyview.files import write_json
from manyview.images.inputs import Picture, Take, pictures
from manyview.images.reading import list_images, read_image, stated_focal, upright_size
from manyview.pipelines.given import lens_problem, refuse_sizes
from manyview.progress import track
from manyview.scene.originals import original_pixels
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView

FEW_TRACKS = 30
"""A photo of the scene with fewer shared points lends its depth map's, too."""


@dataclass(frozen=True)
class Localised:
    """What was found of one photo."""

    name: str
    path: str | None
    size: tuple[int, int]
    """(H, W), upright."""
    camera: Located | None
    """None: not found."""
    component: int
    """Which set of the scene's views its frame is that of."""
    matched: int
    """Keypoints that match a point of the scene."""
    mirrored: bool = False
    """Whether it was refused because it fits better turned over, left to right, or as well."""

    @property
    def found(self) -> bool:
        return self.camera is not None


def localise(
    images: Any, scene: Scene | str | Path, *, intrinsics: Any = None, out: str | Path | None = None
) -> list[Localised]:
    """Find where photos were taken in a scene's frame, by their matches with its photos' points.

    images: as for `reconstruct`. intrinsics: (3, 3) of all of them, in their own pixels; else EXIF, the scene's own
    focal length for photos of its size, or whatever explains most. out: a cameras.json of those that were found. A
    photo is found when at least 15 points agree on a pose, more than chance would give, and more than on one of the
    photo turned over (a mirrored photo of a symmetric façade fits, but less well than its mirror image); what is not is
    None. Raises UserError for a scene without a single camera.
    """
    scene = scene if isinstance(scene, Scene) else Scene.load(scene)
    known = None if intrinsics is None else np.asarray(intrinsics, np.float64)
    queries = list(pictures(images, Take()).items)
    if known is not None:
        sizes = [(one.name, size) for one in queries if (size := _size(one)) is not None]
        refuse_sizes(sizes, "localise photos of one size at a time")
    sets = _landmarks(scene)
    answers = [_localised(one, scene, sets, known) for one in track(queries, label="localising", unit="photo")]
    if out is not None:
        _write(answers, Path(out))
    return answers


def _landmarks(scene: Scene) -> dict[int, list[Landmarks]]:
    """Per component, its photos' keypoints with the points they show."""
    sets: dict[int, list[Landmarks]] = {}
    placed = [index for index, view in enumerate(scene.views) if view.cam2world is not None]
    if not placed:
        raise UserError("no photo of this scene has a camera, so nothing can be localised in it; reconstruct it anew")
    for index in track(placed, label="reading the scene", unit="photo"):
        view = scene.views[index]
        keypoints = detect(original_pixels(view))
        uv, points = np.empty((0, 2)), np.empty((0, 3))
        if scene.tracks is not None:
            own = scene.tracks.view == index
            uv, points = scene.tracks.uv[own], scene.tracks.points[scene.tracks.point[own]]
        known = landmarks(keypoints, uv, points)
        if len(uv) < FEW_TRACKS:
            lacking = ~np.isfinite(known.points).all(1)
            known.points[lacking] = _by_depth(view, keypoints)[lacking]
        sets.setdefault(view.component, []).append(known)
    return sets


def _size(picture: Picture) -> tuple[int, int] | None:
    """(H, W) as the header says it; None for a file that no picture can be read from."""
    if picture.pixels is not None:
        return picture.pixels.shape[0], picture.pixels.shape[1]
    stated = upright_size(Path(str(picture.path)))
    return stated and (stated[1], stated[0])


def _by_depth(view: SceneView, keypoints: Keypoints) -> np.ndarray:
    """(N, 3) points of the depth map at keypoints, NaN where there is none."""
    place = keypoints.uv @ view.source.affine[:2, :2].T + view.source.affine[:2, 2]
    height, width = view.depth.shape
    inside = ((place >= 0) & (place < (width, height))).all(1)
    column, row = np.where(inside[:, None], place, 0).astype(int).T
    return np.where(inside[:, None], view.pointmap[row, column], np.nan).astype(np.float64)


def _localised(picture: Picture, scene: Scene, sets: dict[int, list[Landmarks]], known: np.ndarray | None) -> Localised:
    pixels = picture.pixels if picture.pixels is not None else read_image(str(picture.path))
    size = (pixels.shape[0], pixels.shape[1])
    if known is not None and (problem := lens_problem(known, size)):
        raise UserError(f"the intrinsics of {picture.name} {problem}")
    focals = _focals(picture, size, scene, known)
    keypoints = detect(pixels)
    centre = np.array(size[::-1]) / 2 if known is None else known[:2, 2]
    aspect = 1.0 if known is None else float(known[1, 1] / known[0, 0])
    asked: dict[str, Any] = {"focals": focals, "known": known is not None, "aspect": aspect}
    best = Localised(picture.name, picture.path, size, None, 0, 0)
    for component, members in sorted(sets.items()):
        camera, matched = locate(keypoints, size, members, centre, **asked)
        if camera is not None and known is not None:
            camera = replace(camera, intrinsics=known)
        better = camera is not None and (best.camera is None or camera.inliers > best.camera.inliers)
        if better or (best.camera is None and matched > best.matched):
            best = Localised(picture.name, picture.path, size, camera, component, matched)
    return _unless_mirrored(best, keypoints, sets, centre, asked)


def _unless_mirrored(
    one: Localised, keypoints: Keypoints, sets: dict[int, list[Landmarks]], centre: np.ndarray, asked: dict[str, Any]
) -> Localised:
    """A photo that was found, or refused where it fits better turned over: symmetric things fit both ways, one less."""
    if one.camera is None:
        return one
    width, focal = one.size[1], float(one.camera.intrinsics[0, 0])
    asked = {**asked, "focals": [*asked["focals"], focal], "known": True}
    middle = np.array([width - centre[0], centre[1]])
    other, _ = locate(mirrored(keypoints, width), one.size, sets[one.component], middle, **asked)
    better = other is not None and other.inliers >= one.camera.inliers
    return replace(one, camera=None, mirrored=True) if better else one


def _focals(picture: Picture, size: tuple[int, int], scene: Scene, known: np.ndarray | None) -> list[float]:
    """The focal length in pixels that is given, stated by EXIF, or that of the scene's photos."""
    if known is not None:
        return [float(known[0, 0])]
    stated = stated_focal(picture.path) if picture.path is not None and picture.frame is None else None
    if stated is not None:
        return [stated * max(size)]
    ratios = [v.source.intrinsics[0, 0] / max(v.source.size) for v in scene.views if v.cam2world is not None]
    return [float(np.median(ratios)) * max(size)]


def _write(answers: Sequence[Localised], path: Path) -> None:
    """A cameras.json, as `reconstruct --cameras-from` and `data scan` read it."""
    frames = [
        {
            "file": one.path or one.name,
            "size": list(one.size[::-1]),
            "K": one.camera.intrinsics,
            "cam2world": one.camera.cam2world,
            "inliers": one.camera.inliers,
            "error_px": one.camera.error_px,
            "component": one.component,
        }
        for one in answers
        if one.camera is not None
    ]
    write_json(path, {"pixel_centres": 0.5, "frames": frames})


def lost(answers: Sequence[Localised]) -> str:
    """One line about the photos that were not found; empty when all were."""
    missing = [one for one in answers if not one.found]
    if not missing:
        return ""
    shown = ", ".join(
        f"{one.name} ({'mirrored: turn it over' if one.mirrored else f'{one.matched} matches with its points'})"
        for one in missing[:5]
    )
    return (
        f"{len(missing)} of {len(answers)} photos were not found in the scene: {shown}; at least {LEAST} points must "
        f"agree on one pose (photos are looked at {LONG_SIDE} pixels wide)"
    )


def joined(scene: Scene, images: Any) -> tuple[list[str], list[np.ndarray | None], list[np.ndarray | None]]:
    """The photos of a scene and further ones, and what the scene knows of each: intrinsics and cam2world, else None.

    Only the frame of the largest component is kept. Raises UserError for scenes of videos or arrays.
    """
    paths = [view.source.path for view in scene.views if view.source.frame is None and view.source.path is not None]
    if len(paths) < len(scene):
        raise UserError("photos are added to scenes of photo files; this one is made of a video or of arrays")
    new = [str(path.resolve()) for item in images for path in list_images(item)]
    twice = sorted(set(new) & set(paths))
    if twice:
        raise UserError(f"{twice[0]} is in the scene already; leave it out")
    placed = [view.cam2world is not None and view.component == 0 for view in scene.views]
    known = [view.source.intrinsics if there else None for view, there in zip(scene.views, placed, strict=True)]
    poses = [view.cam2world if there else None for view, there in zip(scene.views, placed, strict=True)]
    if not any(placed):
        raise UserError(
            "no photo of this scene has a camera, so nothing can be added to it; reconstruct all photos anew"
        )
    return [*paths, *new], [*known, *([None] * len(new))], [*poses, *([None] * len(new))]
