"""Plain image lists: a pattern of file names and a rule for what a scene is, nothing known but the pictures.

The single-image domains of DUNE (supplementary, Table 1) need no more. One table holds them all; what each
line rests on is written beside it, "unverified" where no public page or code was found. `**` is any number of
folders, also none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.rows import Collector, Row, need_scenes
from manyview.files import natural_key
from manyview.images.reading import SUFFIXES

Scene = Literal["image", "folder", "parent"]
_SPLITS = ("train", "training", "val", "validation", "test")


@dataclass(frozen=True)
class Layout:
    """Which files, and what a scene is: the image itself, its folder, or the folder above that."""

    pattern: str
    scene: Scene
    source: str


LAYOUTS = {
    "gldv2": Layout(
        "**/?/?/?/*",
        "image",
        "README of github.com/cvdfoundation/google-landmark: first three letters of the id, then ID.jpg",
    ),
    "bedlam": Layout(
        "**/png/*/*",
        "folder",
        "datasets/bedlam.py of github.com/naver/multi-hmr: SCENE/png/SEQUENCE/IMAGE.png; scenes with closeup in "
        "their name lie on their side there and here (that code turns them by -90 degrees)",
    ),
    "ubody": Layout(
        "**/images/**/*",
        "folder",
        "data_prefix of the UBody configs of github.com/open-mmlab/mmpose: images/SCENE; below that unverified",
    ),
    "agora": Layout(
        "**/{train*,validation*,test*,1280x720,3840x2160}/**/*",
        "image",
        "README of github.com/IDEA-Research/OSX: 1280x720 and 3840x2160; train_0 ... validation, test: unverified",
    ),
    "cuffs": Layout("**/*", "image", "unverified: any folder of images"),
}


def scan_images(src: Path, options: ScanOptions, *, dataset: str, pattern: str, scene: Scene) -> Scanned:
    """Images under `src` whose relative path matches; {a,b} in the pattern are alternatives."""
    data = Collector(src, options, dataset)
    scenes: dict[str, list[Row]] = defaultdict(list)
    for path in need_scenes(_matching(data.root, pattern), src, f"images like {pattern}"):
        below = data.below(path)
        split = below.split("/")[0] if below.split("/")[0] in _SPLITS else ""
        name = (
            data.below(path.parent if scene == "folder" else path.parent.parent) if scene != "image" else ""
        )
        scenes[data.root.name if name == "." else name].append(Row(image=below, split=split))
    if scene == "image":
        data.add_singles(scenes[""])
        return data.found
    for name, rows in scenes.items():
        data.add(name, rows)
    return data.found


def _matching(root: Path, pattern: str) -> list[Path]:
    """Image files in natural order, each once, hidden files and folders left out."""
    found = {path for choice in _choices(pattern) for path in root.glob(choice)}
    wanted = (path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())
    visible = (path for path in wanted if not any(p.startswith(".") for p in path.relative_to(root).parts))
    return sorted(visible, key=natural_key)


def _choices(pattern: str) -> list[str]:
    """'{a,b}/*' -> ['a/*', 'b/*']."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [choice for part in match[1].split(",") for choice in _choices(before + part + after)]


def _scan(name: str, src: Path, options: ScanOptions) -> Scanned:
    layout = LAYOUTS[name]
    return scan_images(src, options, dataset=name, pattern=layout.pattern, scene=layout.scene)


for _name in LAYOUTS:
    SOURCES.add(_name)(partial(_scan, _name))
