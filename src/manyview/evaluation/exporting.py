"""First loop of the reconstruction protocols: measurements and predictions of every view, once, into npz
files.

Everything is at the model's resolution: a scene's size is that of its first frame brought to the model's long
side without squashing and cropped to whole patches; every frame of the scene is scaled to cover it and
centre-cropped, depth by nearest neighbour with the same fit, intrinsics moved along.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation import store
from manyview.evaluation.base import Model
from manyview.geometry.cameras import rays
from manyview.images.fit import longest
from manyview.images.reading import ImageProblem
from manyview.metrics.reconstruction import FEWEST_PIXELS
from manyview.progress import track

MAPS = {"pointmap_local": np.float32, "confidence_local": np.float16}
GLOBAL_MAPS = {**MAPS, "pointmap": np.float32, "confidence": np.float16}


@dataclass(frozen=True)
class Item:
    """One frame of the evaluation; `skipped` says why it has no score, `readable` whether a model can look at
    it.
    """

    index: int
    image: str
    scene: str
    size: tuple[int, int]
    skipped: str | None = None
    readable: bool = True

    @property
    def file(self) -> str:
        return f"{self.index:06d}.npz"


def scene_sizes(model: Any, data: Manifest) -> dict[str, tuple[int, int]]:
    """(H, W) per scene for this model: `config.image_size` is a long side, or (H, W) itself."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "image_size") or not hasattr(config, "patch_size"):
        raise UserError(
            "this model says no image_size and patch_size; reconstruction protocols need a reconstructor"
        )
    wanted = config.image_size
    if not isinstance(wanted, int):
        return {scene: (int(wanted[0]), int(wanted[1])) for scene in data.scenes()}
    sizes = {}
    for scene, indices in data.scenes().items():
        first = data[indices[0]]
        sizes[scene] = longest((first.height, first.width), long_side=wanted, multiple=config.patch_size).size
    return sizes


def export_measured(data: Manifest, sizes: dict[str, tuple[int, int]], out: Path) -> list[Item]:
    """Measured depth, intrinsics and pose of every frame into out/measured; which frames count, into
    items.json.

    Raises UserError when no frame can be scored.
    """
    file = out / "items.json"
    if file.is_file():
        return read_items(out)
    order = [(scene, index) for scene, indices in data.scenes().items() for index in indices]
    items = []
    for scene, index in track(order, label="measurements", unit="frame"):
        items.append(_measure(data, index, scene, sizes[scene], out / "measured"))
    if all(item.skipped for item in items):
        raise UserError(f"no frame of the manifest can be judged: {items[0].image}: {items[0].skipped}")
    store.write_json(file, [asdict(item) for item in items])
    return items


def read_items(out: Path) -> list[Item]:
    """What `export_measured` wrote."""
    return [Item(**{**row, "size": tuple(row["size"])}) for row in store.read_json(out / "items.json")]


def _measure(data: Manifest, index: int, scene: str, size: tuple[int, int], folder: Path) -> Item:
    frame = data[index]
    try:
        views = load_views(data, [index], size)
    except ImageProblem as problem:
        readable = frame.depth is None or problem.path != data.path(frame.depth)
        return Item(index, frame.image, scene, size, skipped=problem.reason, readable=not readable)
    reason = None
    if views.depth is None:
        reason = "no measured depth"
    elif views.intrinsics is None:
        reason = "no intrinsics"
    elif int((views.depth > 0).sum()) < FEWEST_PIXELS:
        reason = f"fewer than {FEWEST_PIXELS} measured pixels"
    if reason is None:
        assert views.depth is not None
        assert views.intrinsics is not None
        arrays = {"depth": views.depth[0, 0].numpy(), "intrinsics": views.intrinsics[0, 0].double().numpy()}
        if views.cam2world is not None:
            arrays["cam2world"] = views.cam2world[0, 0].double().numpy()
        store.save_arrays(folder / f"{index:06d}.npz", **arrays)
    return Item(index, frame.image, scene, size, skipped=reason)


def load_measured(out: Path, item: Item) -> dict[str, np.ndarray]:
    """depth (H, W), rays (H, W, 3) with z = 1, and cam2world (4, 4) when known."""
    arrays = store.load_arrays(out / "measured" / item.file)
    intrinsics = torch.from_numpy(arrays.pop("intrinsics"))
    return {**arrays, "rays": rays(intrinsics, *arrays["depth"].shape).numpy()}


def view_groups(items: Sequence[Item], views: int) -> list[list[Item]]:
    """Consecutive readable frames of one scene, `views` at a time. A rest at the end is filled up from before
    it.
    """
    groups: list[list[Item]] = []
    for scene in dict.fromkeys(item.scene for item in items):
        frames = [item for item in items if item.scene == scene and item.readable]
        for start in range(0, len(frames), views):
            groups.append(frames[max(0, min(start, len(frames) - views)) : start + views])
    return groups


def export_predictions(model: Model, data: Manifest, items: Sequence[Item], views: int, folder: Path) -> None:
    """Ask the model about `views` frames at a time and keep each frame's maps; what is there is not asked
    again.
    """
    kept = GLOBAL_MAPS if views > 1 else MAPS
    groups = view_groups(items, views)
    device = next(model.parameters()).device if isinstance(model, torch.nn.Module) else torch.device("cpu")
    for group in track(groups, label=folder.name, unit="group" if views > 1 else "view"):
        missing = [item for item in group if not item.skipped and not (folder / item.file).is_file()]
        if not missing:
            continue
        images = load_views(data, [item.index for item in group], group[0].size).images.to(device)
        with torch.inference_mode():
            answer = model(images)
        for name in ("pointmap_local",):
            if name not in answer:
                raise UserError(
                    f"this model answers {', '.join(sorted(answer))}, but no {name}; use another protocol"
                )
        for position, item in enumerate(group):
            if item not in missing:
                continue
            maps = {
                name: answer[name][0, position].float().cpu().numpy().astype(kind)
                for name, kind in kept.items()
                if name in answer
            }
            store.save_arrays(folder / item.file, first=np.array(group[0].index), **maps)


def training_stack(
    train: Manifest, size: tuple[int, int], most: int, out: Path, thumbnail: Any
) -> dict[str, np.ndarray]:
    """Depth maps (T, H, W), thumbnails (T, D) and names of at most `most` evenly spread training frames with
    depth.

    Written to out/training/HxW.npz once. Raises UserError when no training frame has depth.
    """
    file = out / "training" / f"{size[0]}x{size[1]}.npz"
    if file.is_file():
        return store.load_arrays(file)
    depths, thumbnails, names = [], [], []
    for index in track(list(_spread(train, most)), label="training frames", unit="frame"):
        try:
            views = load_views(train, [index], size)
        except ImageProblem:
            continue
        if views.depth is None or not bool((views.depth > 0).any()):
            continue
        depths.append(views.depth[0, 0].numpy().astype(np.float32))
        thumbnails.append(thumbnail(views.images[0, 0].numpy()))
        names.append(train[index].image)
    if not depths:
        raise UserError("no training frame has measured depth; give another manifest with --train")
    arrays = {"depth": np.stack(depths), "thumbnails": np.stack(thumbnails), "names": np.array(names)}
    store.save_arrays(file, **arrays)
    return arrays


def _spread(train: Manifest, most: int) -> Iterator[int]:
    frames = [i for indices in train.scenes().values() for i in indices if train[i].depth is not None]
    count = min(most, len(frames))
    return (frames[round(i)] for i in np.linspace(0, len(frames) - 1, count))
