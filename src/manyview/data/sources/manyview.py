"""The `cameras.json` layout: a folder per scene with images, maybe depth and labels, and what is known.

`{"units": ..., "depth_png": ..., "pixel_centres": 0 or 0.5, "frames": [...]}`, and per frame `{"file",
"size": [W, H], "K", "cam2world", "depth", "label", "instances"}`, all but the file optional. Poses are 4x4
with OpenCV axes. Without `pixel_centres`, pixel centres lie at integers: half a pixel is added to cx and cy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from manyview.data.manifest import Frame, inside, intrinsics_problem, pose_problem
from manyview.data.sources.base import SOURCES, Problem, Scanned, ScanOptions, frame_names, probe
from manyview.errors import UserError
from manyview.files import natural_key
from manyview.images.fit import same_picture

FILE = "cameras.json"
_KEPT = ("units", "label_names", "ignore_label")


@dataclass(frozen=True)
class _Scene:
    file: Path
    name: str
    prefix: str  # from the root to the scene's folder, "" or ending in a slash
    half_pixel: float
    depth_scale: float
    frames: list[dict[str, Any]]
    facts: dict[str, Any]


@SOURCES.add("manyview")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """One cameras.json, a folder with one, or a folder of such folders."""
    root = (src if src.is_dir() else src.parent).resolve()
    dataset = options.dataset or root.name
    found = Scanned(root, info={"scenes": {}})
    for file in _files(src, root):
        scene = _read(file, root)
        found.info["scenes"][scene.name] = scene.facts
        wanted = {scene.prefix + entry["file"]: entry for entry in options.pick(scene.frames)}
        names = frame_names(list(wanted))
        for image in wanted:
            inside(root, image)  # a cameras.json that points elsewhere is refused, not just left out
        for image, size in probe(root, list(wanted), scene.name):
            if isinstance(size, Problem):
                found.problems.append(size)
                continue
            try:
                known = _known(root, scene, wanted[image], size)
            except UserError as error:
                if not options.skip_bad:
                    raise
                found.problems.append(Problem(image, str(error)))
                continue
            found.frames.append(
                Frame(dataset, scene.name, names[image], options.split, image, *size, **known)
            )
    return found


def _files(src: Path, root: Path) -> Iterator[Path]:
    if src.is_file():
        yield src.resolve()
        return
    files = [
        p for p in root.rglob(FILE) if not any(part.startswith(".") for part in p.relative_to(root).parts)
    ]
    if not files:
        raise UserError(f"no {FILE} in {src} or its folders; for plain images use --format folder")
    yield from sorted(files, key=natural_key)


def _read(file: Path, root: Path) -> _Scene:
    try:
        content = json.loads(file.read_bytes())
        frames = sorted(content["frames"], key=lambda entry: natural_key(entry["file"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not a cameras.json ({type(error).__name__}: {error}); "
            'it needs {"frames": [{"file": "images/a.jpg"}]}'
        ) from error
    centres = content.get("pixel_centres", 0)
    if centres not in (0, 0.5):
        raise UserError(f"{file}: pixel_centres is {centres!r}; it must be 0 (centres at integers) or 0.5")
    below = file.parent.relative_to(root).as_posix()
    name, prefix = (root.name, "") if below == "." else (below, f"{below}/")
    facts = {key: content[key] for key in _KEPT if key in content}
    return _Scene(file, name, prefix, 0.5 - centres, _depth_scale(file, content), frames, facts)


def _depth_scale(file: Path, content: dict[str, Any]) -> float:
    """Scene units per stored depth value."""
    scale = content.get("depth_scale")
    if scale is not None:
        if isinstance(scale, (int, float)) and np.isfinite(scale) and scale > 0:
            return float(scale)
        raise UserError(f"{file}: depth_scale is {scale!r}; it must be a positive number")
    text = str(content.get("depth_png") or "millimetres")
    if re.search(r"millimet(re|er)s?", text):
        return 0.001
    raise UserError(f"{file}: depth_png says {text!r}; say millimetres, or give depth_scale as a number")


def _known(root: Path, scene: _Scene, entry: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Everything a row may hold beside its image. Raises UserError for what cannot be right."""
    where = f"{scene.file}: frame {entry['file']!r}"
    given = entry.get("size")
    if given is not None and tuple(given) != size:
        raise UserError(
            f"{where} is {size[0]}x{size[1]} once upright but size says {given}; "
            "write size and K for the upright, stored image"
        )
    fx, fy, cx, cy = _intrinsics(entry.get("K"), scene.half_pixel, where)
    depth = _map(root, scene, entry, "depth", size)
    return {
        "fx": fx,
        "fy": fy,
        "cx": cx,
        "cy": cy,
        "cam2world": _pose(entry.get("cam2world"), where),
        "depth": depth,
        "depth_scale": scene.depth_scale if depth else None,
        "labels": _map(root, scene, entry, "label", size) or _map(root, scene, entry, "labels", size),
        "instances": _map(root, scene, entry, "instances", size),
    }


def _matrix(values: Any, shape: tuple[int, int], name: str, where: str) -> np.ndarray:
    try:
        matrix = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise UserError(
            f"{where}: {name} is not a matrix of numbers; write {shape[0]} rows of {shape[1]}"
        ) from None
    if matrix.shape != shape:
        raise UserError(f"{where}: {name} has shape {matrix.shape}; it must be {shape[0]}x{shape[1]}")
    return matrix


def _intrinsics(values: Any, half_pixel: float, where: str) -> tuple[float | None, ...]:
    if values is None:
        return None, None, None, None
    matrix = _matrix(values, (3, 3), "K", where)
    problem = intrinsics_problem([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])
    if problem is None and (matrix[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]] != [0, 0, 0, 0, 1]).any():
        problem = "has a skew or a last row other than 0 0 1, which the manifest cannot hold"
    if problem:
        raise UserError(f"{where}: K {problem}; mend it, write null, or pass --skip-bad")
    fx, fy, cx, cy = matrix[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    return fx, fy, cx + half_pixel, cy + half_pixel


def _pose(values: Any, where: str) -> tuple[float, ...] | None:
    if values is None:
        return None
    matrix = _matrix(values, (4, 4), "cam2world", where)
    problem = pose_problem(matrix)
    if problem:
        raise UserError(f"{where}: cam2world {problem}; mend it, write null, or pass --skip-bad")
    return tuple(matrix.ravel().tolist())


def _map(root: Path, scene: _Scene, entry: dict[str, Any], kind: str, size: tuple[int, int]) -> str | None:
    """A map's path after a look at its header: it must exist and show the same picture."""
    if entry.get(kind) is None:
        return None
    relative = scene.prefix + str(entry[kind])
    path = inside(root, relative)
    where = f"{scene.file}: frame {entry['file']!r}"
    if not path.is_file():
        raise UserError(
            f"{where}: {kind} file {relative} is missing; put it back, write null, or pass --skip-bad"
        )
    try:
        with Image.open(path) as image:
            width, height = image.size
    except Exception as error:  # decoders raise anything on damaged data
        raise UserError(
            f"{where}: {kind} file {relative} is damaged; replace it or pass --skip-bad"
        ) from error
    if not same_picture((height, width), (size[1], size[0])):
        raise UserError(
            f"{where}: {kind} is {width}x{height}, the image {size[0]}x{size[1]}: another aspect; "
            "make both show the same picture, write null, or pass --skip-bad"
        )
    return relative
