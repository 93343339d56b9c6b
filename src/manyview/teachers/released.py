"""Caches as the authors of Distill3R publish them, read as a teacher's answers: `manyview cache import`.

A sample is a folder with `consolidated.npz` (xyz_local, xyz_global (N, H, W, 3) and conf_local, conf_global (N, H, W),
float16) and `sampled_views.json`, which names the pictures. The stored masks are run lengths as pickled lists; they are
not opened, for they say nothing of their own: a pixel that they leave out has NaN points and confidence 0, and the
published loss counts what is finite with a confidence above 0.1, as this does.

The maps are those of Fast3R's picture (long side 512, middle cropped to multiples of 16, squares to 4:3), squashed to
224x518. Here each is sampled, nearest, at the pixels of the sample's own aspect, so that map and picture agree again.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch

from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.files import natural_key, read_json
from manyview.images.fit import Fit, cover
from manyview.images.reading import probe_image
from manyview.types import Signal, Teacher, Views, WeightRule

MAPS, VIEWS = "consolidated.npz", "sampled_views.json"
FIELDS = {
    "pointmap": "xyz_global",
    "pointmap_local": "xyz_local",
    "confidence": "conf_global",
    "confidence_local": "conf_local",
}
LONG, MULTIPLE = 512, 16
LEAST = 0.1
"""Confidence that a pixel needs."""
MEND = "copy the sample again, or delete its folder"


@dataclass(frozen=True)
class ReleasedCache:
    """What a published cache holds, as `cache.build` takes it."""

    manifest: Manifest
    samples: list[list[int]]
    """Of each sample: rows of the manifest."""
    teacher: Teacher


def open_released(folder: str | Path, images: str | Path) -> ReleasedCache:
    """A published cache below `folder`, its pictures below `images`.

    A picture is found by as much of the end of its written path as there is below `images`. Raises UserError for a
    folder without samples, for pictures that are not there, and for damaged files.
    """
    folder, root = Path(folder), Path(images).resolve()
    found = sorted((path.parent for path in folder.rglob(MAPS)), key=lambda path: natural_key(path.as_posix()))
    if not found:
        raise UserError(f"{folder} holds no published cache: no {MAPS} in it or below; name the folder of samples")
    rows: dict[str, int] = {}
    frames: list[Frame] = []
    samples, places = [], {}
    for sample in found:
        about = read_json(sample / VIEWS, mend=MEND)
        paths = about.get("final_image_paths") or about.get("sampled_image_paths") if isinstance(about, dict) else None
        if not paths or not all(isinstance(path, str) for path in paths):
            raise UserError(f"{sample / VIEWS} names no pictures; {MEND}")
        names = [_below(root, path, sample / VIEWS) for path in paths]
        dataset, scene = (str(about.get(key) or "released") for key in ("dataset", "scene_id"))
        for name in names:
            if name not in rows:
                width, height = probe_image(root / name)
                rows[name] = len(frames)
                frames.append(Frame(dataset, scene, PurePosixPath(name).stem, "", name, width, height))
        samples.append([rows[name] for name in names])
        places[tuple(names)] = sample
    manifest = Manifest(frames, root)
    return ReleasedCache(manifest, samples, Released(manifest, places, folder))


class Released(Teacher):
    """Answers with what a published cache holds of exactly these views, and with nothing else."""

    name = "released"
    licence = "that of the model that answered: Fast3R's weights are under the FAIR Noncommercial Research License"
    weight_rule = WeightRule(scale=10.0, low=0.1, high=1.0)

    def __init__(self, manifest: Manifest, places: dict[tuple[str, ...], Path], folder: Path) -> None:
        self.sizes = {frame.image: (frame.height, frame.width) for frame in manifest.frames}
        self.places, self.folder = places, folder

    def settings(self) -> dict[str, Any]:
        listed = [[list(names), path.relative_to(self.folder).as_posix()] for names, path in self.places.items()]
        return {"samples": hashlib.sha256(json.dumps(listed).encode()).hexdigest(), "least_confidence": LEAST}

    def __call__(self, views: Views) -> dict[str, Signal]:
        names = tuple(views.names[0]) if views.names else ()
        if names not in self.places:
            raise UserError(f"the published cache has no sample of {names[:1]} and {len(names) - 1} more views")
        path = self.places[names] / MAPS
        maps = _read(path, len(names))
        inside, at = zip(*(_places(self.sizes[name], views.size, maps["xyz_local"].shape[1:3]) for name in names))
        taken = {}
        for key, field in FIELDS.items():
            planes = [plane[place] for plane, place in zip(maps[field], at, strict=True)]
            taken[key] = torch.from_numpy(np.stack(planes)).float()
        signals = {}
        for points, sure in (("pointmap", "confidence"), ("pointmap_local", "confidence_local")):
            valid = torch.from_numpy(np.stack(inside)) & torch.isfinite(taken[points]).all(-1) & (taken[sure] > LEAST)
            if not valid.any():
                raise UserError(f"{path}: {FIELDS[points]} has no valid pixel")
            signals[points] = Signal(taken[points][None], valid=valid[None])
            signals[sure] = Signal(taken[sure][None], valid=valid[None].clone())
        return self.weigh(signals)


def seen_by_fast3r(height: int, width: int) -> tuple[float, float, float, float]:
    """The part of a picture that Fast3R's loader keeps: (top, left, bottom, right) in the picture's pixels."""
    scale = LONG / max(height, width)
    high, wide = round(height * scale), round(width * scale)
    half_high, half_wide = (side // 2 * 2 // MULTIPLE * MULTIPLE // 2 for side in (high, wide))
    if high == wide:
        half_high = 3 * half_wide // 4
    middle = (high // 2, wide // 2)
    down, across = height / high, width / wide
    return (
        (middle[0] - half_high) * down,
        (middle[1] - half_wide) * across,
        (middle[0] + half_high) * down,
        (middle[1] + half_wide) * across,
    )


def _places(
    source: tuple[int, int], size: tuple[int, int], stored: Sequence[int]
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Which pixels of `size` the stored map shows (H, W), and its rows (H, 1) and columns (1, W) under all of them."""
    fit: Fit = cover(source, size)
    top, left, bottom, right = seen_by_fast3r(*source)
    inside, index = [], []
    for axis, (low, high) in enumerate(((top, bottom), (left, right))):
        centres = (np.arange(size[axis]) + 0.5 + fit.offset[axis]) / fit.scale
        places = np.floor((centres - low) / (high - low) * stored[axis] + 1e-6).astype(np.int64)
        inside.append((places >= 0) & (places < stored[axis]))
        index.append(places.clip(0, stored[axis] - 1))
    return inside[0][:, None] & inside[1][None], (index[0][:, None], index[1][None])


def _read(path: Path, count: int) -> dict[str, np.ndarray]:
    """The four maps; nothing is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            maps = {name: archive[name] for name in FIELDS.values()}
    except KeyError as error:
        raise UserError(f"{path} has no {error.args[0]}: an older form of the cache; export it again") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); {MEND}") from error
    whole = maps["xyz_local"].shape[:3]
    for name, values in maps.items():
        if values.shape != (*whole, 3)[: values.ndim] or len(values) != count or values.ndim != 4 - ("conf" in name):
            raise UserError(f"{path}: {name} is {values.shape} where {VIEWS} names {count} pictures; {MEND}")
    return maps


def _below(root: Path, written: str, where: Path) -> str:
    """The path below `root` that ends like the written one. Raises UserError when there is none."""
    parts = (PureWindowsPath(written) if "\\" in written else PurePosixPath(written)).parts
    for start in range(len(parts)):
        name = "/".join(parts[start:])
        if ".." not in parts[start:] and parts[start] not in ("/", "") and (root / name).is_file():
            return name
    raise UserError(f"{where} names {written!r}, and no such picture lies below {root}; name its folder with --images")
