"""Photos in, a Scene out: read, resize, ask the model, find the cameras, put the points where they say."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.cameras.tracks import RestsOn
from manyview.config import to_dict
from manyview.engine.device import autocast, precision_on
from manyview.engine.memory import spare_memory
from manyview.errors import UserError
from manyview.geometry import pointmaps, poses
from manyview.images.fit import longest
from manyview.images.inputs import Photo, gather, oddities, read_masks
from manyview.models.model import Reconstructs, ReconstructsViews
from manyview.pipelines.answers import ViewMaps, ask
from manyview.pipelines.cameras import Placing, place_as_given, place_by_maps, source_intrinsics
from manyview.pipelines.evidence import scene_by_matches, without_points
from manyview.pipelines.given import Given, given_cameras, per_picture
from manyview.pipelines.opening import opened
from manyview.pipelines.options import RECONSTRUCTOR, ReconstructOptions
from manyview.pipelines.own_matches import DescriptorMatches, describes, token_matches
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView, Source
from manyview.version import __version__
from manyview.zoo.texts import SPACES

RESTS_ON: dict[str, RestsOn] = {"given": "given", "identity": "nothing"}
"""What a pose of these methods is worth; any other is the model's word."""


def reconstruct(
    images: Any,
    *,
    model: Any = RECONSTRUCTOR,
    device: str = "auto",
    intrinsics: Any = None,
    cam2world: Any = None,
    cameras_from: str | Path | None = None,
    masks: Any = None,
    options: ReconstructOptions | None = None,
) -> Scene:
    """Reconstruct 1 to 1,000 views.

    images: a folder, a file, a video, or a sequence of paths and arrays ((H, W, 3) or (3, H, W), uint8 or
    float in [0, 1]), of any sizes. model: a zoo name, a model directory, or a loaded reconstructor.
    intrinsics: (3, 3) or (V, 3, 3), in pixels of the original pictures. cam2world: (V, 4, 4), OpenCV axes;
    the scene is then in that world and unit. Lists may hold None for pictures of which nothing is known. cameras_from:
    a cameras.json, a transforms.json or a COLMAP model, its cameras matched to the pictures by file name. What is given
    is kept to the digit unless `options.refine`. masks: per picture, at its own size, True = use. What each camera
    rests on is in the views (`rests_on`); those that nothing ties to another view are warned about.

    Raises UserError for given cameras that cannot be right, or that the matches between the pictures contradict.
    """
    options = options or ReconstructOptions()
    spare_memory()
    network: Any
    network, name, target = opened(model, Reconstructs, device)
    patch = int(network.config.patch_size)
    long_side = options.image_size or int(np.max(network.config.image_size))
    one_each = per_picture(intrinsics) or cam2world is not None or not (masks is None or isinstance(masks, (str, Path)))
    photos, skipped = gather(
        images, lambda size: longest(size, long_side=long_side, multiple=patch), options.take, strict=one_each
    )
    given = given_cameras(photos, intrinsics, cam2world, cameras_from)
    asked: dict[str, Any] = {
        name: getattr(options, name) for name in ("pairs", "pairs_each", "encoder_chunk", "head_chunk")
    }
    wanted = "fp32" if options.precision == "auto" and not isinstance(network, ReconstructsViews) else options.precision
    precision = precision_on(target, wanted)
    described = DescriptorMatches() if describes(network) and options.matches != "sift" else None
    kept, said = read_masks(masks, photos)
    said = [*oddities(photos), *said]
    with autocast(target, precision):
        maps = ask(network, photos, kept, target, seen=described, **asked)
    own = None if described is None else described.of(photos)
    if own is None and options.matches in ("model", "both"):
        own = token_matches(network, photos, target)
    if options.cameras == "model":
        scene = _scene(photos, maps, given, options)
    else:
        scene = scene_by_matches(photos, maps, given, options, own)
    scene.info["warnings"] = [*given.notes, *said, *scene.info["warnings"]]
    _describe(scene, name, network, options, skipped, precision)
    _add_features(scene, maps)
    return scene


def _scene(photos: Sequence[Photo], maps: Sequence[ViewMaps], given: Given, options: ReconstructOptions) -> Scene:
    """The views at their places: cameras as given or as the maps say, points on their rays."""
    fits, notes = [photo.fit for photo in photos], []
    given_c2w = given.poses
    if given_c2w is None and given.any_pose:
        raise UserError("cameras=model takes poses for all photos or for none; with cameras=auto the others are found")
    source_k = [matrix for matrix in given.intrinsics if matrix is not None]
    if len(source_k) < len(photos):
        found, guessed = source_intrinsics(maps, fits, shared=options.shared_focal)
        source_k = [one if k is None else k for one, k in zip(found, given.intrinsics, strict=True)]
        guessed = [index for index in guessed if given.intrinsics[index] is None]
        if guessed:
            names = ", ".join(photos[i].name for i in guessed[:5])
            notes.append(f"no believable focal length in {len(guessed)} of {len(photos)} views ({names})")
    model_k = [fit.affine @ torch.from_numpy(matrix) for fit, matrix in zip(fits, source_k, strict=True)]
    if given_c2w is None:
        placing = place_by_maps(maps, model_k, options.poses)
    else:
        placing = place_as_given(maps, model_k, torch.from_numpy(given_c2w))
        if placing.unit is None:
            notes.append(
                "the given cameras do not fix the unit of the points (no distance between them, or the model "
                "does not agree with them); lengths are relative"
            )
    views = [
        _view(photo, view, matrix, source_matrix, placing, index, raw=options.points == "global")
        for index, (photo, view, matrix, source_matrix) in enumerate(zip(photos, maps, model_k, source_k, strict=True))
    ]
    scene = Scene(views, frame="first_view" if given_c2w is None else "world")
    if given_c2w is not None and placing.unit is not None:
        scene.scale, scene.scale_source = "metric", "the unit of the given cameras"
    lost = [view.name for view in views if view.cam2world is None and view.valid.any()]
    for number, view in enumerate((view for view in views if view.cam2world is None), start=1):
        view.component = number
    if lost:
        notes.append(f"the model does not say where these views are, they have no camera: {', '.join(lost[:5])}")
    scene.info["warnings"] = notes + without_points(views)
    return scene


def _view(
    photo: Photo,
    maps: ViewMaps,
    intrinsics: Tensor,
    source_intrinsics: np.ndarray,
    placing: Placing,
    index: int,
    *,
    raw: bool,
) -> SceneView:
    """One view of the scene. raw: its points are those of the global head, not the local depth on its rays."""
    choice, fit, picture = placing.choices[index], photo.fit, photo.picture
    world = placing.in_scene(maps)
    if raw:
        depth = pointmaps.transform(poses.invert(choice.cam2world), world)[..., 2]
    else:
        depth = placing.scales[index] * maps.local[..., 2]
    kept = maps.valid & (depth > 0)
    confidence = maps.confidence if raw else maps.confidence_local
    return SceneView(
        name=photo.name,
        image=photo.image,
        depth=torch.where(kept, depth, 0).float().numpy(),
        confidence=confidence.nan_to_num(0).float().numpy(),
        intrinsics=intrinsics.numpy(),
        cam2world=None if choice.method == "identity" else choice.cam2world.numpy(),
        source=Source(
            size=fit.source,
            affine=fit.affine.numpy(),
            intrinsics=np.array(source_intrinsics),
            path=picture.path,
            frame=picture.frame,
            pixels=picture.pixels,
        ),
        raw_pointmap=world.float().numpy() if raw else None,
        rests_on=RESTS_ON.get(choice.method, "model"),
        info={"pose": choice.method, "pnp_against_similarity_degrees": choice.disagreement},
    )


def _add_features(scene: Scene, maps: Sequence[ViewMaps]) -> None:
    """Put the features of a model's heads into the views, and into the scene who speaks for their spaces."""
    for view, answer in zip(scene.views, maps, strict=True):
        view.features = answer.features
    if maps and maps[0].features:
        spaces = {space: values.shape[-1] for space, values in maps[0].features.items()}
        scene.info["features"] = {s: {"channels": d, "text_encoder": SPACES.get(s)} for s, d in spaces.items()}


def _describe(
    scene: Scene, name: str, network: Any, options: ReconstructOptions, skipped: list[str], precision: str
) -> None:
    """Warn, and write into the scene how it was made."""
    notes = scene.info["warnings"]
    relative = scene.scale == "relative" and scene.frame == "first_view"
    if relative and isinstance(network, Reconstructs) and network.metric:
        scene.scale, scene.scale_source = "metric", f"the model {name}"
    for note in notes:
        warnings.warn(note, stacklevel=3)
    scene.info |= {
        "made_by": f"manyview {__version__}",
        "model": name,
        "precision": precision,
        "options": to_dict(options),
        "skipped": skipped,
        "warnings": notes,
    }
