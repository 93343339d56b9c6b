"""Photos in, a Scene out: read, resize, ask the model, find the cameras, put the points where they say."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.config import to_dict
from manyview.geometry import pointmaps, poses
from manyview.images.fit import longest
from manyview.images.inputs import Photo, gather, read_masks
from manyview.models.model import Reconstructs
from manyview.pipelines.answers import ViewMaps, ask
from manyview.pipelines.cameras import (
    LEAST_INLIERS,
    Placing,
    place_as_given,
    place_by_maps,
    reprojection_errors,
    source_intrinsics,
)
from manyview.pipelines.given import given_intrinsics, given_poses, per_picture
from manyview.pipelines.opening import opened
from manyview.pipelines.options import ReconstructOptions
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView, Source
from manyview.scene.visibility import overlaps
from manyview.version import __version__

LEAST_OVERLAP = 0.1
"""Views of which a smaller share is seen by any other view hardly overlap."""


def reconstruct(
    images: Any,
    *,
    model: Any = "manyview-tiny",
    device: str = "auto",
    intrinsics: Any = None,
    cam2world: Any = None,
    masks: Any = None,
    options: ReconstructOptions | None = None,
) -> Scene:
    """Reconstruct 1 to 1,000 views.

    images: a folder, a file, a video, or a sequence of paths and arrays ((H, W, 3) or (3, H, W), uint8 or
    float in [0, 1]), of any sizes. model: a zoo name, a model directory, or a loaded reconstructor.
    intrinsics: (3, 3) or (V, 3, 3), in pixels of the original pictures. cam2world: (V, 4, 4), OpenCV axes;
    the scene is then in that world and unit. masks: per picture, at its own size, True = use. Warns when
    views hardly overlap.
    """
    options = options or ReconstructOptions()
    network: Any
    network, name, target = opened(model, Reconstructs, device)
    patch = int(network.config.patch_size)
    long_side = options.image_size or int(np.max(network.config.image_size))
    one_each = (
        per_picture(intrinsics)
        or cam2world is not None
        or not (masks is None or isinstance(masks, (str, Path)))
    )
    photos, skipped = gather(
        images,
        lambda size: longest(size, long_side=long_side, multiple=patch),
        options.take,
        strict=one_each,
    )
    given_k = given_intrinsics(intrinsics, len(photos))
    given_c2w = given_poses(cam2world, len(photos))
    chunks = {"encoder_chunk": options.encoder_chunk, "head_chunk": options.head_chunk}
    maps = ask(network, photos, read_masks(masks, photos), target, **chunks)
    scene = _scene(photos, maps, given_k, given_c2w, options)
    _describe(scene, name, network, options, skipped)
    return scene


def _scene(
    photos: Sequence[Photo],
    maps: Sequence[ViewMaps],
    given_k: np.ndarray | None,
    given_c2w: np.ndarray | None,
    options: ReconstructOptions,
) -> Scene:
    """The views at their places: cameras as given or as the maps say, points on their rays."""
    fits, notes = [photo.fit for photo in photos], []
    source_k = given_k
    if source_k is None:
        source_k, guessed = source_intrinsics(maps, fits, shared=options.shared_focal)
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
        for index, (photo, view, matrix, source_matrix) in enumerate(
            zip(photos, maps, model_k, source_k, strict=True)
        )
    ]
    scene = Scene(views, frame="first_view" if given_c2w is None else "world")
    if given_c2w is not None and placing.unit is not None:
        scene.scale, scene.scale_source = "metric", "the unit of the given cameras"
    scene.info["warnings"] = notes
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
    errors = reprojection_errors(world, choice.cam2world, intrinsics)[maps.used & kept]
    confidence = maps.confidence if raw else maps.confidence_local
    return SceneView(
        name=photo.name,
        image=photo.image,
        depth=torch.where(kept, depth, 0).float().numpy(),
        confidence=confidence.nan_to_num(0).float().numpy(),
        intrinsics=intrinsics.numpy(),
        cam2world=choice.cam2world.numpy(),
        source=Source(
            size=fit.source,
            affine=fit.affine.numpy(),
            intrinsics=np.array(source_intrinsics),
            path=picture.path,
            frame=picture.frame,
            pixels=picture.pixels,
        ),
        raw_pointmap=world.float().numpy() if raw else None,
        info={
            "pose": choice.method,
            "inliers": round(choice.inliers, 4),
            "pixel_error": float(errors.median()) if len(errors) else None,
            "pnp_against_similarity_degrees": choice.disagreement,
        },
    )


def _describe(scene: Scene, name: str, network: Any, options: ReconstructOptions, skipped: list[str]) -> None:
    """Measure the agreement, warn, and write both into the scene."""
    for view, share in zip(scene.views, overlaps(scene.views), strict=True):
        view.info["overlap"] = round(float(share), 4)
    notes = [*scene.info["warnings"], *_complaints(scene.views)]
    if (
        isinstance(network, Reconstructs)
        and network.metric
        and scene.scale == "relative"
        and scene.frame == "first_view"
    ):
        scene.scale, scene.scale_source = "metric", f"the model {name}"
    for note in notes:
        warnings.warn(note, stacklevel=3)
    errors = [view.info["pixel_error"] for view in scene.views if view.info["pixel_error"] is not None]
    scene.info = {
        "made_by": f"manyview {__version__}",
        "model": name,
        "options": to_dict(options),
        "agreement": {
            "pixel_error": float(np.median(errors)) if errors else None,
            "inliers": float(np.median([view.info["inliers"] for view in scene.views])),
            "overlap": float(np.median([view.info["overlap"] for view in scene.views])),
            "views_per_pose": {m: n for m in ("first", "model", "pnp", "similarity", "identity", "given")
                               if (n := sum(view.info["pose"] == m for view in scene.views))},
        },
        "skipped": skipped,
        "warnings": notes,
    }  # fmt: skip


def _complaints(views: Sequence[SceneView]) -> list[str]:
    """One line for each thing that makes the scene doubtful."""
    lines = []
    empty = [view.name for view in views if not view.valid.any()]
    if empty:
        lines.append(f"views without a single point: {_listed(empty)}")
    rest = [view for view in views if view.name not in empty]
    if len(rest) < 2:
        return lines
    lonely = [v.name for v in rest if v.info["overlap"] < LEAST_OVERLAP]
    loose = [v.name for v in rest if v.info["inliers"] < LEAST_INLIERS and v.name not in lonely]
    if lonely:
        lines.append(
            f"views {_listed(lonely)} hardly overlap with the others: less than {LEAST_OVERLAP:.0%} of what "
            "they show is seen from elsewhere; their place in the scene is a guess"
        )
    if loose:
        lines.append(
            f"views {_listed(loose)} hardly overlap or are not understood: under {LEAST_INLIERS:.0%} of "
            "their points agree with their camera; their pose is doubtful"
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    few = ", ".join(names[:5])
    return few if len(names) <= 5 else f"{few} and {len(names) - 5} more"
