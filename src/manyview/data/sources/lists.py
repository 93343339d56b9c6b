"""Pictures and nothing else: folders, lists of images that a pattern of names describes, street views."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from manyview.data.sources.base import SOURCES, Reader, ScanOptions, Scenes, Source, images_of, reader
from manyview.data.sources.rows import Row, below
from manyview.errors import UserError
from manyview.files import natural_key
from manyview.images.reading import SUFFIXES


@SOURCES.add("folder")
@reader("images")
def folder(src: Source) -> Scenes:
    """Plain folders of images: every folder that holds images is a scene; nothing is known but the pictures.

    SRC: a folder of images, or of folders of images. Hidden files and folders are left out.
    """
    if not src.path.is_dir():
        raise UserError(f"{src.path} is a file; --format folder takes a folder of images")
    src.dataset = src.name(src.root)
    scenes = [(place, images_of(place)) for place in sorted((place for place, _, _ in src.walk()), key=natural_key)]
    if not any(images for _, images in scenes):
        raise UserError(f"no images in {src.path}, known suffixes: {' '.join(SUFFIXES)}")
    yield from ((src.name(place), [Row(image=path) for path in images]) for place, images in scenes if images)


@SOURCES.add("3dstreetview")
@reader("DATASET_IMAGE_VIEW_TARGET.jpg images", chunk=24)
def street_view_3d(src: Source) -> Scenes:
    """3D Street View (Zamir et al. 2016): `DATASET_IMAGE_VIEW_TARGET.jpg` with a text file of the same name.

    Layout: README of github.com/amir32002/3D_Street_View ("Dataset Structure"; each tar is one region of the map, all
    ids but the region's count within it). Every region is a scene and its images in order of their names are cut into
    sequences of 24, as MuM does. Poses are geographic (latitude, longitude, heading, pitch) and are not read.
    SRC: a folder that holds the unpacked tar files, in folders or not.
    """
    regions: dict[str, list[Row]] = {}
    for path in src.files_named(lambda name: name.lower().endswith(SUFFIXES)):
        ids = path.stem.split("_")
        if len(ids) == 4 and all(map(str.isdigit, ids)):
            regions.setdefault(ids[0], []).append(Row(image=path))
    yield from sorted(regions.items())


@SOURCES.add("mapillary-sls")
@reader("CITY/query/images folder")
def mapillary_sls(src: Source) -> Scenes:
    """Mapillary Street-level Sequences: `{train_val,test}/CITY/{query,database}/images/KEY.jpg` and seq_info.csv.

    Layout: README of github.com/mapillary/mapillary_sls ("Package structure": seq_info.csv has key, sequence_id and
    frame_number). A sequence is a scene, its frames in the order of their numbers; without seq_info.csv each image is
    a scene of its own. Nothing but the pictures is read.
    SRC: the folder with train_val and test, one of these, or a city.
    """
    alone: list[Row] = []
    for place in src.folders_named("images".__eq__):
        if place.parent.name not in ("query", "database"):
            continue
        file = place.parent / "seq_info.csv"
        order = (src.read(file, _sequences) or {}) if file.is_file() else {}
        split = next((part for part in ("train_val", "test") if part in place.parts), "")
        sequences: dict[str, list[Row]] = {}
        for image in images_of(place):
            sequence, name = order.get(image.stem, ("", None))
            rows = sequences.setdefault(sequence, []) if sequence else alone
            rows.append(Row(image=image, name=name, split=split))
        for sequence, rows in sequences.items():
            yield f"{src.name(place.parent)}/{sequence}", rows
    if alone:
        yield None, alone


def _sequences(path: Path) -> dict[str, tuple[str, str]]:
    """Image -> its sequence, and the name that puts it in its place there."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["key"]: (row["sequence_id"], f"{int(float(row['frame_number'])):06d}_{row['key']}") for row in rows}


@dataclass(frozen=True)
class Layout:
    """Which files, and what a scene is: the image itself or its folder. {a,b} in the pattern are alternatives."""

    pattern: str
    scene: Literal["image", "folder"]
    source: str
    or_else: str = ""
    """The pattern where the first one matches nothing."""

    def scenes(self, src: Source) -> Scenes:
        """Images whose path below the root matches, with the split that the topmost folder names."""
        rows_by_scene: dict[str | None, list[Row]] = {}
        for path in _matching(src.root, self.pattern) or _matching(src.root, self.or_else):
            top = below(src.root, path).split("/")[0]
            row = Row(image=path, split=top if top in ("train", "training", "val", "validation", "test") else "")
            rows_by_scene.setdefault(src.name(path.parent) if self.scene == "folder" else None, []).append(row)
        yield from rows_by_scene.items()


# The single-image domains of DUNE (supplementary, Table 1). What each line rests on is written beside it, "unverified"
# where no public page or code was found. `**` is any number of folders, also none.
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
    _about = f"Images like {_layout.pattern}, each {_layout.scene} a scene.\n\nLayout: {_layout.source}."
    SOURCES.add(_name)(Reader(_layout.scenes, f"images like {_layout.pattern}", ScanOptions, about=_about))


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
