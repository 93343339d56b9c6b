"""Plain image lists: a pattern of file names and a rule for what a scene is, nothing known but the pictures.

The single-image domains of DUNE (supplementary, Table 1) need no more. One table holds them all; what each
line rests on is written beside it, "unverified" where no public page or code was found. `**` is any number of
folders, also none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from manyview.data.sources.base import SOURCES, Reader, ScanOptions, Scenes, Source
from manyview.data.sources.rows import Row, below
from manyview.files import natural_key
from manyview.images.reading import SUFFIXES

Scene = Literal["image", "folder"]
_SPLITS = ("train", "training", "val", "validation", "test")


@dataclass(frozen=True)
class Layout:
    """Which files, and what a scene is: the image itself or its folder. {a,b} in the pattern are alternatives."""

    pattern: str
    scene: Scene
    source: str
    or_else: str = ""
    """The pattern where the first one matches nothing."""

    def scenes(self, src: Source) -> Scenes:
        """Images whose path below the root matches, with the split that the topmost folder names."""
        rows_by_scene: dict[str | None, list[Row]] = {}
        for path in _matching(src.root, self.pattern) or _matching(src.root, self.or_else):
            top = below(src.root, path).split("/")[0]
            name = src.name(path.parent) if self.scene == "folder" else None
            row = Row(image=path, split=top if top in _SPLITS else "")
            rows_by_scene.setdefault(name, []).append(row)
        yield from rows_by_scene.items()


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
    "imagenet": Layout(
        "{train,val,test}/*/*",
        "image",
        "torchvision's ImageFolder and ImageNet documentation: split folder, class folder named by its WordNet id, "
        "images; also one of the splits, or any folder of class folders",
        or_else="*/*",
    ),
    "imagenet21k": Layout(
        "*/*", "image", "as imagenet: CLASS/IMAGE.JPEG; the 19K classes that DUNE keeps lie in the same folders"
    ),
}
for _name, _layout in LAYOUTS.items():
    SOURCES.add(_name)(Reader(_layout.scenes, f"images like {_layout.pattern}", ScanOptions))


def _matching(root: Path, pattern: str) -> list[Path]:
    """Image files in natural order, each once, hidden files and folders left out."""
    paths = {path for choice in _choices(pattern) for path in root.glob(choice)} if pattern else set()
    images = (path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())
    visible = (path for path in images if not any(p.startswith(".") for p in path.relative_to(root).parts))
    return sorted(visible, key=natural_key)


def _choices(pattern: str) -> list[str]:
    """'{a,b}/*' -> ['a/*', 'b/*']."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [choice for part in match[1].split(",") for choice in _choices(before + part + after)]
