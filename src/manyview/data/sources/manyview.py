"""The `cameras.json` layout: a folder per scene with images, maybe depth and labels, and what is known."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.depths import FARTHEST as FARTHEST_METRES
from manyview.data.manifest import FARTHEST, inside
from manyview.data.sources.base import SOURCES, Scenes, Source, reader
from manyview.data.sources.poses import full
from manyview.data.sources.rows import Camera, Problem, Row, below
from manyview.errors import UserError
from manyview.files import natural_key, parse_json

FILE = "cameras.json"


@dataclass(frozen=True, kw_only=True)
class _Frame(Row):
    """A frame of a cameras.json: what is wrong with it stops the scan, since this layout is our own."""

    entry: dict[str, Any]
    folder: Path
    centre: float
    """Where K counts the first pixel's centre."""

    def facts(self, root: Path, size: tuple[int, int]) -> tuple[dict[str, Any], list[Problem]]:
        """Everything a row may hold beside its image. Raises UserError for what cannot be right."""
        entry, where = self.entry, f"{self.folder / FILE}: frame {self.entry['file']!r}"
        given = entry.get("size")
        if given is not None and given != [*size]:
            raise UserError(
                f"{where} is {size[0]}x{size[1]} once upright but size says {given}; "
                "write size and K for the upright, stored image"
            )
        lens, pose = (_matrix(entry.get(name), side, name, where) for name, side in (("K", 3), ("cam2world", 4)))
        if lens is not None and (lens[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]] != [0, 0, 0, 0, 1]).any():
            raise UserError(f"{where}: K has a skew or a last row other than 0 0 1, which the manifest cannot hold")
        maps = {key: below(root, self.folder / str(entry[key])) for key in _MAPS if entry.get(key) is not None}
        for key, relative in maps.items():
            if not inside(root, relative).is_file():
                raise UserError(f"{where}: {key} file {relative} is missing; put it back, write null, or --skip-bad")
        row = replace(
            self,
            camera=Camera.of(lens, centre=self.centre, cam2world=pose),
            **{_MAPS[key]: root / relative for key, relative in maps.items()},  # type: ignore[arg-type]
        )
        facts, problems = super(_Frame, row).facts(root, size)
        for problem in problems:
            key = next((key for key, relative in maps.items() if relative == problem.path), "")
            reason = problem.reason.partition("; the frame has")[0]
            said = f"{key} file {problem.path}: {key} {reason}" if key else reason
            raise UserError(f"{where}: {said}; mend it, write null, or pass --skip-bad")
        return facts, problems


_MAPS = {"depth": "depth", "labels": "labels", "label": "labels", "instances": "instances"}
"""Keys of a frame that name a map, and what it is."""


@SOURCES.add("manyview")
@reader("cameras.json")
def scenes(src: Source) -> Scenes:
    """The `cameras.json` layout: a folder per scene with images, maybe depth and labels, and what is known.

    `{"units": ..., "depth_png": ..., "pixel_centres": 0 or 0.5, "frames": [...]}`, and per frame `{"file",
    "size": [W, H], "K", "cam2world", "depth", "label", "instances"}`, all but the file optional. Poses are 4x4
    with OpenCV axes. Without `pixel_centres`, pixel centres lie at integers: half a pixel is added to cx and cy.
    `units`: metres (the default), centimetres, millimetres, or any word. Depth: pictures hold what `depth_png` says
    (millimetres; "uint16, 0 = no value, centimetres along the optical axis"), other files the scene's unit, and
    `depth_scale`, scene units per stored number, comes before both.
    SRC: one cameras.json, a folder with one, or a folder of such folders.
    """
    src.dataset = src.root.name
    src.info["scenes"] = {}
    files = [src.path.resolve()] if src.path.is_file() else src.files_named(FILE.__eq__)
    if not files:
        raise UserError(f"no {FILE} in {src.path} or its folders; for plain images use --format folder")
    metric = True
    for file in files:
        content, entries = _read(file)
        centres = content.get("pixel_centres", 0)
        if centres not in (0, 0.5):
            raise UserError(f"{file}: pixel_centres is {centres!r}; it must be 0 (centres at integers) or 0.5")
        scene, kept = src.name(file.parent), ("units", "label_names", "ignore_label")
        src.info["scenes"][scene] = {key: content[key] for key in kept if key in content}
        for entry in entries:
            inside(src.root, below(src.root, file.parent / entry["file"]))  # refused, not just left out
        metric = metric and scene_unit(content) == 1
        row = partial(_Frame, folder=file.parent, centre=centres)
        scales = [_depth_scale(file, content, str(entry.get("depth"))) for entry in entries]
        images = [file.parent / entry["file"] for entry in entries]
        known = zip(images, entries, scales, strict=True)
        yield scene, [row(image=image, entry=entry, depth_scale=scale) for image, entry, scale in known]
    if metric:
        src.info.setdefault(FARTHEST, FARTHEST_METRES)


def _read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The whole content, and its frames in natural order."""
    try:
        content = parse_json(file.read_bytes())
        return content, sorted(content["frames"], key=lambda entry: natural_key(entry["file"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not a cameras.json ({type(error).__name__}: {error}); "
            'it needs {"frames": [{"file": "images/a.jpg"}]}'
        ) from error


def _depth_scale(file: Path, content: dict[str, Any], stored: str) -> float:
    """Scene units per number in the depth file `stored`. Raises UserError for a unit that is not understood.

    `depth_scale` says it; else pictures are in what `depth_png` says and other files in the unit of the scene.
    """
    scale = content.get("depth_scale")
    if scale is not None:
        if isinstance(scale, (int, float)) and np.isfinite(scale) and scale > 0:
            return float(scale)
        raise UserError(f"{file}: depth_scale is {scale!r}; it must be a positive number")
    text, unit = str(content.get("depth_png") or "millimetres"), scene_unit(content)
    metres = depth_unit(text)
    if metres is None:
        raise UserError(f"{file}: depth_png says {text!r}; say millimetres, or give depth_scale as a number")
    if not stored.lower().endswith((".png", ".tif", ".tiff")):
        return 1.0
    if unit is None:
        raise UserError(
            f"{file}: units says {content['units']!r}, so depth in millimetres has no length there; give depth_scale, "
            "scene units per stored number"
        )
    return metres / unit


_LENGTHS = {"metre": 1.0, "m": 1.0, "centimetre": 0.01, "cm": 0.01, "millimetre": 0.001, "mm": 0.001}


_STORED = r"(?:(?:u?int(?:8|16|32)|(?:8|16|32)[- ]?bits?)(?: png)?|png)"
_ALONG = r"along the (?:optical )?axis.*"
_NONE = r"(?:0|65535|0 and 65535) (?:=|is|are|for|means?) [a-z ]+"


def scene_unit(content: dict[str, Any]) -> float | None:
    """The length in metres that a cameras.json counts in; None for one that is not known."""
    word = re.match(r"\w+", str(content.get("units") or "metres").lower())
    return None if word is None else _LENGTHS.get(word[0].replace("meter", "metre").removesuffix("s"))


def depth_unit(text: str) -> float | None:
    """Metres per stored number, of words like "uint16, 0 = no value, millimetres along the optical axis (z)".

    None for a text of which any part is not understood: another number for none, other axes, another unit.
    """
    found = None
    for part in (part.strip() for part in text.lower().replace("meter", "metre").split(",")):
        unit = re.fullmatch(rf"(?:{_STORED} )?(?:in )?({'|'.join(_LENGTHS)})s?(?: {_ALONG})?", part)
        if unit and found is None:
            found = _LENGTHS[unit[1]]
        elif unit or not re.fullmatch(rf"|{_STORED}|{_ALONG}|{_NONE}", part):
            return None
    return found


def _matrix(values: Any, side: int, name: str, where: str) -> np.ndarray | None:
    """(side, side); None for null. Raises UserError for anything else."""
    if values is None:
        return None
    try:
        matrix = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {name} is not a matrix of numbers; write {side} rows of {side}") from None
    if name == "cam2world" and matrix.shape == (3, 4):
        matrix = full(matrix)
    if matrix.shape != (side, side):
        raise UserError(f"{where}: {name} has shape {matrix.shape}; it must be {side}x{side}")
    if not np.isfinite(matrix).all():
        raise UserError(f"{where}: {name} has NaN or infinite entries; mend it, write null, or pass --skip-bad")
    return matrix
