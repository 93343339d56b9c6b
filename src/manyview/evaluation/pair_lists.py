"""Published lists of image pairs, and the frames of a manifest that they mean.

Text: a pair a line, its first two words the images, whatever follows (SuperGlue's scannet_test_pairs_with_gt.txt,
glue-factory's megadepth1500/pairs_calibrated.txt, lists of one's own). npz: `name` (N, 4) of scene, sequence, frame,
frame (LoFTR's scannet_test_1500/test.npz). LoFTR's npz of MegaDepth hold pickled objects, which are not run.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

import numpy as np

from manyview.data.manifest import Manifest
from manyview.errors import UserError

_SCENE = re.compile(r"scene\d{4}_\d{2}")


def listed_pairs(path: str | Path, data: Manifest) -> list[tuple[int, int]]:
    """Rows (a, b) of the manifest for every pair of the list, in its order.

    An image is found by its path, by the end of its path, or, for ScanNet, by scene and number of the frame. Raises
    UserError for a list that cannot be read, holds no pair, or names images that the manifest lacks.
    """
    path = Path(path)
    names = _names(path)
    if not names:
        raise UserError(f"{path} holds no pair; a line needs two images")
    places = Places(data)
    rows = [(places.row(a), places.row(b)) for a, b in names]
    missing = [(a if row[0] is None else b) for (a, b), row in zip(names, rows, strict=True) if None in row]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} pairs of {path} name images that the manifest lacks, first {missing[0]}; "
            "scan the folder that has all of them"
        )
    return [(a, b) for a, b in rows if a is not None and b is not None]


def digest_of(path: str) -> str | None:
    """What stands for a list in the settings of an evaluation: its content, not where it lies."""
    file = Path(path)
    return hashlib.sha256(file.read_bytes()).hexdigest() if path and file.is_file() else None


def _names(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise UserError(f"no list of pairs at {path}; give the published file, or a text of two images a line")
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as stored:
                rows = np.asarray(stored["name"]).reshape(-1, 4).tolist()
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} has no `name` (N, 4), or holds pickled objects, which are not run ({error}); "
                "give a text of two images a line, such as pairs_calibrated.txt of glue-factory"
            ) from error
        return [(f"scene{s:04d}_{q:02d}/color/{a}.jpg", f"scene{s:04d}_{q:02d}/color/{b}.jpg") for s, q, a, b in rows]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a text of pairs: {error}") from error
    words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if short := next((number for number, of in enumerate(words, start=1) if len(of) < 2), None):
        raise UserError(f"{path}: line {short} names one image; a pair needs two")
    return [(of[0], of[1]) for of in words]


class Places:
    """Where images are in a manifest."""

    def __init__(self, data: Manifest) -> None:
        self._exact: dict[str, int] = {}
        self._ends: dict[str, list[int]] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        for row, frame in enumerate(data.frames):
            self._exact[frame.image] = row
            self._ends.setdefault(PurePosixPath(frame.image).name, []).append(row)
            if key := _numbered(frame.image):
                self._numbers.setdefault(key, row)
        self._data = data

    def row(self, name: str) -> int | None:
        if name in self._exact:
            return self._exact[name]
        wanted = PurePosixPath(name).parts
        best, found = 0, None
        for row in self._ends.get(wanted[-1], ()):
            have = PurePosixPath(self._data[row].image).parts
            shared = next((n for n in range(min(len(have), len(wanted)), 0, -1) if have[-n:] == wanted[-n:]), 0)
            whole = shared in (len(have), len(wanted))
            if whole and shared > best:
                best, found = shared, row
        key = _numbered(name)
        return found if found is not None or key is None else self._numbers.get(key)


def _numbered(name: str) -> tuple[str, int] | None:
    """ScanNet's scene and frame: "…/scene0711_00/color/1680.jpg", "…/scene0711_00/sens/frame-001680.color.jpg"."""
    scene, digits = _SCENE.search(name), re.search(r"\d+", PurePosixPath(name).name)
    return (scene[0], int(digits[0])) if scene and digits else None
