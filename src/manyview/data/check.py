"""Read every file of a manifest again and say what is wrong."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from manyview.data.depths import read_depth
from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.images.fit import same_picture
from manyview.images.maps import read_labels
from manyview.images.reading import probe_image, reason_of
from manyview.progress import track


def check(manifest: Manifest) -> list[tuple[str, str]]:
    """(path, reason) for every file that is missing, damaged, of another size or out of reach; maybe none."""

    def look(frame: Frame) -> list[tuple[str, str]]:
        problems = [(frame.image, _image_problem(manifest, frame))]
        maps = {"depth": frame.depth, "labels": frame.labels, "instances": frame.instances}
        problems += [(path, _map_problem(manifest, frame, kind, path)) for kind, path in maps.items() if path]
        return [(path, reason) for path, reason in problems if reason]

    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.filterwarnings("ignore", module="PIL")
        answers = pool.map(look, manifest.frames)
        return [item for items in track(answers, total=len(manifest), label="check", unit="frame") for item in items]


def _image_problem(manifest: Manifest, frame: Frame) -> str:
    try:
        width, height = probe_image(manifest.path(frame.image))
    except UserError as error:
        return reason_of(error)
    if (width, height) != (frame.width, frame.height):
        return f"is {width}x{height}, the manifest says {frame.width}x{frame.height}"
    return ""


def _map_problem(manifest: Manifest, frame: Frame, kind: str, relative: str) -> str:
    try:
        path: Path = manifest.path(relative)
        values = read_depth(path, frame.depth_scale or 1.0, manifest.farthest) if kind == "depth" else read_labels(path)
    except UserError as error:
        return reason_of(error)
    if not same_picture(values.shape, (frame.height, frame.width)):
        return f"is {values.shape[1]}x{values.shape[0]}, its image {frame.width}x{frame.height}: another aspect"
    if kind == "depth" and not values.any():
        return "holds no depth at all"
    return ""
