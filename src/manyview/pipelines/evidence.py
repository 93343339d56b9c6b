"""Cameras of photos that rest on matches between them, and views that fit those cameras."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from manyview.cameras.cores import cores
from manyview.cameras.descriptors import OwnMatches
from manyview.cameras.fit import fitted
from manyview.cameras.keypoints import LONG_SIDE
from manyview.cameras.links import UNLINKED, Unlinked
from manyview.cameras.place import Camera, View
from manyview.cameras.solve import Solved, solve
from manyview.cameras.tracks import Tracks
from manyview.errors import UserError
from manyview.images.fit import Fit
from manyview.images.inputs import Photo, Picture, read_ahead
from manyview.images.reading import stated_focal
from manyview.images.video import read_frames
from manyview.pipelines.answers import ViewMaps
from manyview.pipelines.cameras import place_by_maps, source_intrinsics, unit_of_given_poses
from manyview.pipelines.given import Given
from manyview.pipelines.options import ReconstructOptions
from manyview.scene.agreement import compare
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView, Source

MOST_UNLINKED = 500
"""Pairs of photos of which a scene says why they are not linked: those with most matches."""


def scene_by_matches(
    photos: Sequence[Photo],
    maps: Sequence[ViewMaps],
    given: Given,
    options: ReconstructOptions,
    own: OwnMatches | None = None,
) -> Scene:
    """Views at the cameras that matches of the original pictures show, depth at the scale of the shared points.

    own: the model's own matches. Given cameras are checked against all matches. Of the maps only depth and confidence
    are left in the end. Raises UserError when the matches contradict most of the given cameras.
    """
    if options.cameras == "given" and given.poses is None:
        lacking = [photo.name for photo, pose in zip(photos, given.cam2world, strict=True) if pose is None]
        raise UserError(
            f"cameras=given needs a pose for every photo, and {len(lacking)} have none ({', '.join(lacking[:3])}): "
            "give cam2world or --cameras-from, or choose auto"
        )
    asked, notes = to_place(photos, maps, given, options), []
    if not given.any_pose:  # then the maps' points say in the end how long its unit is
        for one in maps:
            one.keep_depth()
        asked = [replace(view, depth=one.depth.numpy()) for view, one in zip(asked, maps, strict=True)]
    found = _solved(photos, asked, options, own)
    if found.denied:
        names = ", ".join(photos[index].name for index in found.denied[:5])
        notes.append(
            f"the matches contradict the given cameras of {len(found.denied)} photos ({names}): mend those, or leave "
            "them out and have the photos placed by their matches"
        )
    unit = None
    if given.any_pose:
        cameras, unit = _at_the_unit_of_given(found.cameras, photos, maps, given)
        found = replace(found, cameras=cameras)
    views = views_at(photos, maps, found)
    compare(views, found.tracks)
    scene = Scene(views, frame="world" if given.any_pose else "first_view", tracks=found.tracks)
    if unit is not None:
        scene.scale, scene.scale_source = "metric", "the unit of the given cameras"
    elif given.any_pose:
        notes.append(
            "the given cameras do not fix the unit of the points (no distance between them, or nothing seen from two); "
            "lengths are relative"
        )
    scene.info["warnings"] = notes + _complaints(views, found.unlinked)
    scene.info["unlinked"] = [
        {
            "views": [views[one.i].name, views[one.j].name],
            "matches": one.matches,
            "agreeing": one.agreeing,
            "why": UNLINKED[one.why],
        }
        for one in found.unlinked[:MOST_UNLINKED]
    ]
    return scene


def _at_the_unit_of_given(
    cameras: Sequence[Camera], photos: Sequence[Photo], maps: Sequence[ViewMaps], given: Given
) -> tuple[list[Camera], float | None]:
    """Cameras in the frame of the given poses whose depth the matches do not scale take the others' median scale.

    And that scale; None where nothing says how long the unit of the given poses is.
    """
    posed = [index for index, pose in enumerate(given.cam2world) if pose is not None]
    frame = cameras[posed[0]].component
    scaled = [camera.depth_scale for camera in cameras if camera.component == frame and camera.inliers]
    centres = np.stack([pose[:3, 3] for pose in given.cam2world if pose is not None])
    unit = float(np.median(scaled)) if scaled and np.ptp(centres, axis=0).max() > 1e-9 else None
    if unit is None and given.poses is not None:
        model_k = [photo.fit.affine @ torch.from_numpy(c.intrinsics) for photo, c in zip(photos, cameras, strict=True)]
        unit = unit_of_given_poses(maps, model_k, list(torch.from_numpy(given.poses)))
    found = [
        camera if camera.inliers or camera.component != frame else replace(camera, depth_scale=unit or 1.0)
        for camera in cameras
    ]
    return found, unit


def solved(
    photos: Sequence[Photo],
    maps: Sequence[ViewMaps],
    given: Given,
    options: ReconstructOptions,
    own: OwnMatches | None = None,
    *,
    adjust: bool = True,
) -> Solved:
    """The cameras by matches, with the model's depth unless they are to rest on matches alone."""
    return _solved(photos, to_place(photos, maps, given, options), options, own, adjust=adjust)


def _solved(
    photos: Sequence[Photo],
    views: Sequence[View],
    options: ReconstructOptions,
    own: OwnMatches | None,
    *,
    adjust: bool = True,
) -> Solved:
    by_sift, use_depth = options.matches != "model", options.cameras != "matches"
    return solve(views, _originals(photos), own=own, sift=by_sift, use_depth=use_depth, adjust=adjust)


def to_place(
    photos: Sequence[Photo], maps: Sequence[ViewMaps], given: Given, options: ReconstructOptions
) -> list[View]:
    """What is known of each photo before the matches: what is given, and what the model says."""
    guessed, _ = source_intrinsics(maps, [photo.fit for photo in photos], shared=options.shared_focal)
    each = zip(photos, maps, guessed, given.intrinsics, given.cam2world, strict=True)
    views = [_view(*one, keep=not options.refine) for one in each]
    if options.cameras == "matches":
        return views
    matrices = [
        p.fit.affine @ torch.from_numpy(v.intrinsics if v.intrinsics is not None else k)
        for p, v, k in zip(photos, views, guessed, strict=True)
    ]
    said = place_by_maps(maps, matrices, options.poses).choices
    return [
        replace(v, said=one.cam2world.numpy()) if one.method != "identity" else v
        for v, one in zip(views, said, strict=True)
    ]


def _view(
    photo: Photo,
    maps: ViewMaps,
    guess: np.ndarray,
    intrinsics: np.ndarray | None,
    cam2world: np.ndarray | None,
    *,
    keep: bool,
) -> View:
    picture = photo.picture
    stated = stated_focal(picture.path) if picture.path is not None and picture.frame is None else None
    return View(
        size=photo.fit.source,
        depth=maps.depth.numpy(),
        affine=photo.fit.affine.numpy(),
        focal=stated or float(guess[0, 0]) / max(photo.fit.source),
        focal_known=stated is not None,
        intrinsics=intrinsics,
        cam2world=cam2world,
        keep=keep,
    )


def _originals(photos: Sequence[Photo]) -> Callable[[], Iterable[np.ndarray]]:
    """A way to read the photos themselves, in order, as often as needed: as large as they are looked at, at most.

    Several are read at once, and large JPEGs are decoded at a part of their size.
    """
    frames = [photo.picture for photo in photos if photo.picture.frame is not None]

    def pictures() -> Iterator[Picture]:
        video = read_frames(str(frames[0].path), [int(f.frame or 0) for f in frames]) if frames else iter(())
        for picture in (photo.picture for photo in photos):
            yield picture if picture.frame is None else replace(picture, pixels=next(video))

    def read() -> Iterator[np.ndarray]:
        for photo in read_ahead(pictures(), _to_look_at, ahead=2 * cores(), threads=cores()):
            if isinstance(photo, UserError):
                raise photo
            yield photo.image

    return read


def _to_look_at(size: tuple[int, int]) -> Fit:
    """A picture (H, W) with a long side of LONG_SIDE at most, whole up to a pixel."""
    scale = min(1.0, LONG_SIDE / max(size))
    return Fit(size, (int(size[0] * scale + 1e-6), int(size[1] * scale + 1e-6)), scale, (0.0, 0.0))


def _scene_view(photo: Photo, maps: ViewMaps, camera: Camera) -> SceneView:
    """A view with a camera of its own, its depth brought to the scale of the points that it shares."""
    picture, fit = photo.picture, photo.fit
    affine = fit.affine.numpy()
    return SceneView(
        name=photo.name,
        image=photo.image,
        depth=(camera.depth_scale * maps.depth).float().numpy(),
        confidence=maps.confidence_local.nan_to_num(0).float().numpy(),
        intrinsics=affine @ camera.intrinsics,
        cam2world=camera.cam2world,
        source=Source(fit.source, affine, camera.intrinsics, picture.path, picture.frame, picture.pixels),
        rests_on=camera.rests_on,
        component=camera.component,
        inliers=camera.inliers,
        error_px=camera.error_px,
        info={"pose": camera.rests_on},
    )


def views_at(photos: Sequence[Photo], maps: Sequence[ViewMaps], found: Solved, *, bent: bool = True) -> list[SceneView]:
    """Views at their cameras, depth tied to the points that they share; `bent`: by more than a scale."""
    views = [_scene_view(*one) for one in zip(photos, maps, found.cameras, strict=True)]
    for index, view in enumerate(views):
        if bent:
            _fit_to_points(view, found.tracks, index)
    return views


def _fit_to_points(view: SceneView, tracks: Tracks, index: int) -> None:
    """Tie the depth of a registered view to the points that it shares with others."""
    if not view.registered or view.cam2world is None:
        return
    own, affine = tracks.view == index, view.source.affine
    away = tracks.points[tracks.point[own]] - view.cam2world[:3, 3]
    uv = tracks.uv[own] @ affine[:2, :2].T + affine[:2, 2]
    view.depth = fitted(view.depth, uv, away @ view.cam2world[:3, 2]).astype(np.float32)


def without_points(views: Sequence[SceneView]) -> list[str]:
    """A line that names the views without a point, if there are any."""
    empty = [view.name for view in views if not view.valid.any()]
    return [f"views without a single point: {', '.join(empty[:5])}"] if empty else []


def _complaints(views: Sequence[SceneView], unlinked: Sequence[Unlinked]) -> list[str]:
    """One line each for photos that no evidence places, for lack of parallax, and for a scene that falls apart."""
    lone = [index for index, view in enumerate(views) if not view.registered]
    turning = {end for one in unlinked if one.why == "turn" for end in (one.i, one.j)}
    over = {end for one in unlinked if one.why == "mirrored" for end in (one.i, one.j)}
    notes = without_points(views)
    for those, what in (
        (
            [index for index in lone if index in over],
            "fit other ones better turned over, left to right, and are placed nowhere {}: turn over those "
            "that are mirrored",
        ),
        (
            [index for index in lone if index in turning - over],
            "match others without parallax, and nothing says how far away things are: they are placed nowhere {}: take "
            "photos a step aside from each other, or let a model's depth place them (--cameras auto)",
        ),
        (
            [index for index in lone if index not in turning | over],
            "match no other one and are placed nowhere {}: take photos that overlap more, from nearer viewpoints",
        ),
    ):
        if those and len(views) > 1:
            shown = ", ".join(views[index].name for index in those[:5]) + (" …" if len(those) > 5 else "")
            notes.append(f"{len(those)} of {len(views)} photos " + what.format(f"({shown})"))
    worth = {view.rests_on for view in views}
    if "depth" in worth and "matches" not in worth:
        notes.append(
            "no photo is seen under parallax: the photos were taken from about one place, so distances between them "
            "are only as good as the predicted depth"
        )
    if lone and len(views) == 1:
        notes.append(
            "one photo alone: its depth and focal length are the network's guess, which no second photo checks"
        )
    sizes = Counter(view.component for view in views if view.registered)
    if len(sizes) > 1:
        parts = " + ".join(str(count) for _, count in sorted(sizes.items()))
        notes.append(
            f"the photos form {len(sizes)} scenes of {parts} photos that nothing joins, each in a frame of its own; "
            "points and exports are those of the largest one unless told (--component N; COLMAP takes all)"
        )
    return notes
