"""The `cameras.json` layout: a folder per scene with images, maybe depth and labels, and what is known.

`{"units": ..., "depth_png": ..., "pixel_centres": 0 or 0.5, "frames": [...]}`, and per frame `{"file",
"size": [W, H], "K", "cam2world", "depth", "label", "instances"}`, all but the file optional. Poses are 4x4
with OpenCV axes. Without `pixel_centres`, pixel centres lie at integers: half a pixel is added to cx and cy.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.manifest import inside, intrinsics_problem, pose_problem
from manyview.data.sources.base import SOURCES, Scenes, Source, reader
from manyview.data.sources.rows import Problem, Row, below, map_size
from manyview.errors import UserError
from manyview.files import natural_key
from manyview.images.fit import same_picture

FILE = "cameras.json"
_MEND = "mend it, write null, or pass --skip-bad"


@dataclass(frozen=True, kw_only=True)
class _Frame(Row):
    """A frame of a cameras.json: what is wrong with it stops the scan, since this layout is our own."""

    entry: dict[str, Any]
    folder: Path
    half_pixel: float
    """What has to be added to cx and cy."""

    def facts(self, root: Path, size: tuple[int, int]) -> tuple[dict[str, Any], list[Problem]]:
        """Everything a row may hold beside its image. Raises UserError for what cannot be right."""
        where = f"{self.folder / FILE}: frame {self.entry['file']!r}"
        given = self.entry.get("size")
        if given is not None and tuple(given) != size:
            raise UserError(
                f"{where} is {size[0]}x{size[1]} once upright but size says {given}; "
                "write size and K for the upright, stored image"
            )
        facts: dict[str, Any] = {
            **_intrinsics(self.entry.get("K"), self.half_pixel, where),
            "cam2world": _pose(self.entry.get("cam2world"), where),
        }
        for kind, key in (("depth", "depth"), ("labels", "labels"), ("labels", "label"), ("instances",) * 2):
            if self.entry.get(key) is not None:
                facts[kind] = self._map(root, key, size, where)
        if "depth" in facts:
            facts["depth_scale"] = self.depth_scale
        return facts, []

    def _map(self, root: Path, key: str, size: tuple[int, int], where: str) -> str:
        """A map's path after a look at its header: it must exist and show the same picture."""
        relative = below(root, self.folder / str(self.entry[key]))
        path = inside(root, relative)
        if not path.is_file():
            raise UserError(f"{where}: {key} file {relative} is missing; put it back, write null, or pass --skip-bad")
        shape = map_size(path)
        if shape is None:
            raise UserError(f"{where}: {key} file {relative} is damaged; replace it or pass --skip-bad")
        if not same_picture((shape[1], shape[0]), (size[1], size[0])):
            raise UserError(
                f"{where}: {key} is {shape[0]}x{shape[1]}, the image {size[0]}x{size[1]}: another aspect; "
                "make both show the same picture, write null, or pass --skip-bad"
            )
        return relative


@SOURCES.add("manyview")
@reader("cameras.json")
def scenes(src: Source) -> Scenes:
    """One cameras.json, a folder with one, or a folder of such folders."""
    src.dataset = src.root.name
    src.info["scenes"] = {}
    files = [src.path.resolve()] if src.path.is_file() else src.files_named(FILE.__eq__)
    if not files:
        raise UserError(f"no {FILE} in {src.path} or its folders; for plain images use --format folder")
    for file in files:
        content, entries = _read(file)
        centres = content.get("pixel_centres", 0)
        if centres not in (0, 0.5):
            raise UserError(f"{file}: pixel_centres is {centres!r}; it must be 0 (centres at integers) or 0.5")
        scene = src.name(file.parent)
        kept = ("units", "label_names", "ignore_label")
        src.info["scenes"][scene] = {key: content[key] for key in kept if key in content}
        for entry in entries:
            inside(src.root, below(src.root, file.parent / entry["file"]))  # refused, not just left out
        row = partial(_Frame, folder=file.parent, half_pixel=0.5 - centres, depth_scale=_depth_scale(file, content))
        yield scene, [row(image=file.parent / entry["file"], entry=entry) for entry in entries]


def _read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The whole content, and its frames in natural order."""
    try:
        content = json.loads(file.read_bytes())
        return content, sorted(content["frames"], key=lambda entry: natural_key(entry["file"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not a cameras.json ({type(error).__name__}: {error}); "
            'it needs {"frames": [{"file": "images/a.jpg"}]}'
        ) from error


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


def _matrix(values: Any, shape: tuple[int, int], name: str, where: str) -> np.ndarray:
    try:
        matrix = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {name} is not a matrix of numbers; write {shape[0]} rows of {shape[1]}") from None
    if matrix.shape != shape:
        raise UserError(f"{where}: {name} has shape {matrix.shape}; it must be {shape[0]}x{shape[1]}")
    return matrix


def _intrinsics(values: Any, half_pixel: float, where: str) -> dict[str, float]:
    if values is None:
        return {}
    matrix = _matrix(values, (3, 3), "K", where)
    fx, fy, cx, cy = matrix[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    problem = intrinsics_problem([fx, fy, cx, cy])
    if problem is None and (matrix[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]] != [0, 0, 0, 0, 1]).any():
        problem = "has a skew or a last row other than 0 0 1, which the manifest cannot hold"
    if problem:
        raise UserError(f"{where}: K {problem}; {_MEND}")
    return {"fx": fx, "fy": fy, "cx": cx + half_pixel, "cy": cy + half_pixel}


def _pose(values: Any, where: str) -> tuple[float, ...] | None:
    if values is None:
        return None
    matrix = _matrix(values, (4, 4), "cam2world", where)
    problem = pose_problem(matrix)
    if problem:
        raise UserError(f"{where}: cam2world {problem}; {_MEND}")
    return tuple(matrix.ravel().tolist())
