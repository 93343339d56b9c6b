"""What protocols of reconstruction ask and measure: every view of a manifest at the model's resolution.

A scene's size is that of its first frame brought to the model's long side without squashing and cropped to whole
patches; every frame of the scene is scaled to cover it and centre-cropped, depth by nearest neighbour with the same
fit, intrinsics moved along.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation.base import Answer, Item, Model, Work
from manyview.evaluation.baselines import MeasuredView, thumbnail
from manyview.geometry.cameras import rays
from manyview.images.fit import longest
from manyview.images.reading import ImageProblem
from manyview.metrics.reconstruction import FEWEST_PIXELS
from manyview.models.model import device_of
from manyview.pipelines.answers import told
from manyview.pipelines.picture_table import places
from manyview.progress import track

LOCAL: dict[str, type[np.floating[Any]]] = {"pointmap_local": np.float32, "confidence_local": np.float16}
GLOBAL: dict[str, type[np.floating[Any]]] = {**LOCAL, "pointmap": np.float32, "confidence": np.float16}


def scene_sizes(model: Model, data: Manifest) -> dict[str, tuple[int, int]]:
    """(H, W) per scene for this model: `config.image_size` is a long side, or (H, W) itself."""
    try:
        wanted, patch = model.config.image_size, model.config.patch_size
    except AttributeError:
        raise UserError(
            "this model says no image_size and patch_size; reconstruction protocols need a reconstructor"
        ) from None
    if not isinstance(wanted, int):
        return {scene: (int(wanted[0]), int(wanted[1])) for scene in data.scenes()}
    sizes = {}
    for scene, indices in data.scenes().items():
        first = data[indices[0]]
        sizes[scene] = longest((first.height, first.width), long_side=wanted, multiple=patch).size
    return sizes


def measured_items(data: Manifest, sizes: dict[str, tuple[int, int]], work: Work) -> list[Item]:
    """An item per frame, scene by scene; depth, intrinsics, pose and a thumbnail of those that can be judged are kept.

    Raises UserError when no frame can be judged.
    """
    order = [(scene, index) for scene, indices in data.scenes().items() for index in indices]
    items = []
    for scene, index in track(order, label="measurements", unit="frame"):
        frame, key, size = data[index], f"{index:06d}", sizes[scene]
        reason, readable = None, True
        try:
            views = load_views(data, [index], size)
        except ImageProblem as problem:
            reason, readable = problem.reason, frame.depth is not None and problem.path == data.path(frame.depth)
        else:
            if views.depth is None:
                reason = "no measured depth"
            elif views.intrinsics is None:
                reason = "no intrinsics"
            elif int((views.depth > 0).sum()) < FEWEST_PIXELS:
                reason = f"fewer than {FEWEST_PIXELS} measured pixels"
            else:
                arrays = {"depth": views.depth[0, 0].numpy(), "intrinsics": views.intrinsics[0, 0].double().numpy()}
                if views.cam2world is not None:
                    arrays["cam2world"] = views.cam2world[0, 0].double().numpy()
                work.keep_measured(key, **arrays, thumbnail=thumbnail(views.images[0, 0].numpy()))
        about = {"index": index, "size": list(size), "readable": readable}
        items.append(Item(key, scene, {"frame": frame.image}, about, skipped=reason))
    if all(item.skipped for item in items):
        raise UserError(f"no frame of the manifest can be judged: {items[0].names['frame']}: {items[0].skipped}")
    return items


def measured_view(item: Item, work: Work) -> MeasuredView:
    """What is known of a view, from files."""
    arrays = work.measured(item.key)
    depth, intrinsics = arrays["depth"], torch.from_numpy(arrays["intrinsics"])
    return MeasuredView(depth, rays(intrinsics, *depth.shape).numpy(), arrays.get("cam2world"), arrays["thumbnail"])


def ask_views(
    model: Model, data: Manifest, items: Sequence[Item], views: int, missing: Sequence[Item]
) -> Iterator[tuple[Item, Answer]]:
    """The missing frames' maps, the model seeing `views` readable frames of a scene at a time, in order; a rest at the
    end is filled up from before it. `first` is the index of the group's first frame.

    Raises UserError when the model gives no local pointmap.
    """
    kept, left, device = GLOBAL if views > 1 else LOCAL, {item.key for item in missing}, device_of(model)
    groups: list[list[Item]] = []
    for scene in dict.fromkeys(item.scene for item in items):
        frames = [item for item in items if item.scene == scene and item.about["readable"]]
        starts = range(0, len(frames), views)
        groups += [frames[max(0, min(start, len(frames) - views)) : start + views] for start in starts]
    for group in groups:
        if not left & {item.key for item in group}:
            continue
        indices = [item.about["index"] for item in group]
        images = load_views(data, indices, tuple(group[0].about["size"]), depth=False).images.to(device)
        answers = told(model, list(images[0]))
        if "pointmap_local" not in answers[0]:
            raise UserError(
                f"this model answers {', '.join(sorted(answers[0]))}, but no pointmap_local; use another protocol"
            )
        for item, answer in zip(group, answers, strict=True):
            if item.key in left:
                left.remove(item.key)
                maps = {name: _as(answer[name].float().cpu().numpy(), kept[name]) for name in kept if name in answer}
                yield item, {"first": np.array(indices[0]), **maps}


def _as(values: np.ndarray, kind: type[np.floating[Any]]) -> np.ndarray:
    """Values of another type; what is too large for it becomes its largest."""
    most = float(np.finfo(kind).max)
    return np.where(np.isfinite(values), values.clip(-most, most), values).astype(kind)


def training_stack(train: Manifest, size: tuple[int, int], most: int) -> dict[str, np.ndarray]:
    """`depth` (T, H, W), `thumbnails` (T, D) and `names` of at most `most` evenly spread training frames with depth.

    Raises UserError when no training frame has depth.
    """
    depths, thumbnails, names = [], [], []
    frames = [i for indices in train.scenes().values() for i in indices if train[i].depth is not None]
    for row in track(places(len(frames), most), label="training frames", unit="frame"):
        try:
            views = load_views(train, [frames[row]], size)
        except ImageProblem:
            continue
        if views.depth is not None and bool((views.depth > 0).any()):
            depths.append(views.depth[0, 0].numpy().astype(np.float32))
            thumbnails.append(thumbnail(views.images[0, 0].numpy()))
            names.append(train[frames[row]].image)
    if not depths:
        raise UserError("no training frame has measured depth; give another manifest with --train")
    return {"depth": np.stack(depths), "thumbnails": np.stack(thumbnails), "names": np.array(names)}
