"""Photos in, a Scene out: read, resize, ask the model, find the cameras, put the points where they say."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
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
from manyview.pipelines.agreement import complaints
from manyview.pipelines.answers import ask
from manyview.pipelines.cameras import (
    LEAST_INLIERS,
    Maps,
    PoseChoice,
    choose_pose,
    judge,
    reprojection_errors,
    scale_to_global,
    similarity_to_global,
    source_focals,
    unit_of_given_poses,
    view_maps,
)
from manyview.pipelines.given import known_intrinsics, known_poses, per_picture
from manyview.pipelines.opening import evaluating, opened
from manyview.pipelines.options import PosePreference, ReconstructOptions
from manyview.scene.scene import Scene, SceneView, Source
from manyview.scene.visibility import overlaps
from manyview.version import __version__


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
    known_k = known_intrinsics(intrinsics, len(photos))
    known_c2w = known_poses(cam2world, len(photos))
    use = read_masks(masks, photos)
    maps = _ask(network, photos, use, target, options)
    scene = _assemble(photos, maps, known_k, known_c2w, options)
    _describe(scene, name, network, options, skipped)
    return scene


def _ask(
    network: Any, photos: Sequence[Photo], masks: Sequence[np.ndarray | None], device: torch.device,
    options: ReconstructOptions,
) -> list[Maps]:  # fmt: skip
    """What the model says of every view, without a gradient and in eval mode."""
    pictures = [torch.from_numpy(photo.image).permute(2, 0, 1).to(device).float() / 255 for photo in photos]
    chunks = {
        key: value for key in ("encoder_chunk", "head_chunk") if (value := getattr(options, key)) is not None
    }
    with evaluating(network), torch.inference_mode():
        answers = ask(network, pictures, **chunks)
    return [
        view_maps(answer, None if mask is None else torch.from_numpy(mask))
        for answer, mask in zip(answers, masks, strict=True)
    ]


def _assemble(
    photos: Sequence[Photo], maps: Sequence[Maps], known_k: np.ndarray | None, known_c2w: np.ndarray | None,
    options: ReconstructOptions,
) -> Scene:  # fmt: skip
    affines = [np.asarray(photo.fit.affine, np.float64) for photo in photos]
    notes: list[str] = []
    source_k = (
        known_k if known_k is not None else _estimated(photos, maps, affines, options.shared_focal, notes)
    )
    model_k = [torch.from_numpy(affine @ matrix) for affine, matrix in zip(affines, source_k, strict=True)]
    unit, choices, scales = _place(maps, model_k, known_c2w, options.poses)
    if unit is None:
        notes.append(
            "the given cameras do not fix the unit of the points (no distance between them, or the model "
            "does not agree with them); lengths are relative"
        )
    world_from_first = (
        torch.eye(4, dtype=torch.float64) if known_c2w is None else torch.from_numpy(known_c2w[0])
    )
    views = []
    for i, (photo, view) in enumerate(zip(photos, maps, strict=True)):
        picture = photo.picture
        source = Source(
            size=photo.fit.source, affine=affines[i], intrinsics=np.array(source_k[i]), path=picture.path,
            frame=picture.frame, pixels=picture.pixels,
        )  # fmt: skip
        world = pointmaps.transform(world_from_first, (unit or 1.0) * view.world.double())
        depth = scales[i] * view.local[..., 2] if options.points == "local" else None
        views.append(_view(photo, source, view, world, depth, choices[i], model_k[i]))
    scene = Scene(views, frame="first_view" if known_c2w is None else "world")
    if known_c2w is not None and unit is not None:
        scene.scale, scene.scale_source = "metric", "the unit of the given cameras"
    scene.info["warnings"] = notes
    return scene


def _view(
    photo: Photo, source: Source, view: Maps, world: Tensor, depth: Tensor | None, choice: PoseChoice,
    intrinsics: Tensor,
) -> SceneView:  # fmt: skip
    """`world`: the global head's points (H, W, 3) in the scene's frame, taken when `depth` is None."""
    raw = depth is None
    if depth is None:
        depth = pointmaps.transform(poses.invert(choice.cam2world), world)[..., 2]
    kept = view.valid & (depth > 0)
    errors = reprojection_errors(world, choice.cam2world, intrinsics)[view.used & kept]
    confidence = view.confidence if raw else view.confidence_local
    return SceneView(
        name=photo.name,
        image=photo.image,
        depth=torch.where(kept, depth, 0).float().numpy(),
        confidence=confidence.nan_to_num(0).float().numpy(),
        intrinsics=intrinsics.numpy(),
        cam2world=choice.cam2world.numpy(),
        source=source,
        raw_pointmap=world.float().numpy() if raw else None,
        info={
            "pose": choice.method,
            "inliers": round(choice.inliers, 4),
            "pixel_error": float(errors.median()) if len(errors) else None,
            "pnp_against_similarity_degrees": choice.disagreement,
        },
    )


def _estimated(
    photos: Sequence[Photo],
    maps: Sequence[Maps],
    affines: Sequence[np.ndarray],
    shared: bool,
    notes: list[str],
) -> np.ndarray:
    """(V, 3, 3) at the original resolution: fitted focal lengths, principal points at the centres."""
    sizes = [photo.fit.source for photo in photos]
    focals, guessed = source_focals(maps, affines, sizes, shared=shared)
    if guessed:
        names = ", ".join(photos[i].name for i in guessed[:5])
        notes.append(f"no believable focal length in {len(guessed)} of {len(photos)} views ({names})")
    return np.array(
        [[[f, 0, w / 2], [0, f, h / 2], [0, 0, 1]] for f, (h, w) in zip(focals, sizes, strict=True)]
    )


def _place(
    maps: Sequence[Maps], intrinsics: Sequence[Tensor], known: np.ndarray | None,
    prefer: PosePreference,
) -> tuple[float | None, list[PoseChoice], list[float]]:  # fmt: skip
    """Scene units per model unit (None: unknown), each view's pose in the scene's frame, its map's scale."""
    if known is None:
        identity = torch.eye(4, dtype=torch.float64)
        choices = [judge(maps[0], identity, intrinsics[0], "first")]
        choices += [choose_pose(m, k, prefer=prefer) for m, k in zip(maps[1:], intrinsics[1:], strict=True)]
        found = [
            scale_to_global(m, c.cam2world) if c.stands else None for m, c in zip(maps, choices, strict=True)
        ]
        return 1.0, choices, _filled(found)
    given = list(torch.from_numpy(known))
    unit = unit_of_given_poses(maps, intrinsics, given)
    factor = unit or 1.0
    choices, found = [], []
    for view, matrix, pose in zip(maps, intrinsics, given, strict=True):
        placed = replace(view, world=pointmaps.transform(given[0], factor * view.world.double()))
        choices.append(judge(placed, pose, matrix, "given"))
        fit = similarity_to_global(view)
        found.append(factor * float(fit.scale) if fit is not None and choices[-1].stands else None)
    if sum(choice.stands for choice in choices) * 2 <= len(choices):
        unit = None  # a factor that most views contradict is none
    return unit, choices, _filled(found)


def _filled(scales: Sequence[float | None]) -> list[float]:
    """Views whose global points cannot be trusted take the median scale of the others, or their own unit."""
    known = [scale for scale in scales if scale is not None]
    usual = float(np.median(known)) if known else 1.0
    return [usual if scale is None else scale for scale in scales]


def _describe(scene: Scene, name: str, network: Any, options: ReconstructOptions, skipped: list[str]) -> None:
    """Measure the agreement, warn, and write both into the scene."""
    for view, share in zip(scene.views, overlaps(scene.views), strict=True):
        view.info["overlap"] = round(float(share), 4)
    notes = [*scene.info["warnings"], *complaints(scene.views, LEAST_INLIERS)]
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
