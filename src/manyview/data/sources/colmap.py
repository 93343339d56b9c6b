"""COLMAP scenes: a sparse model (text or binary) and the images it names.

Layout: colmap.github.io/format.html for the files; the usual folders are `images` beside `sparse/0` (or
`sparse`, or the model's files beside the images), as COLMAP's automatic reconstruction and image undistorter
write them. Fisheye cameras give poses but no intrinsics; other distortion is not corrected.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manyview.data.sources.base import SOURCES, Scenes, Source, first_file, reader
from manyview.data.sources.colmap_model import Model, read_model
from manyview.data.sources.rows import Row

_BESIDE = ("images", "../images", "../../images", ".", "..", "../..")


@SOURCES.add("colmap")
@reader("sparse model (cameras and images as .bin or .txt)")
def scenes(src: Source) -> Scenes:
    """A scene's folder, or a folder of scenes; a scene with several models gives several scenes."""
    src.dataset = src.root.name
    files = src.files_named(("images.bin", "images.txt").__contains__)
    for folder in dict.fromkeys(path.parent for path in files):
        if model := src.read(folder, read_model):
            places = [(folder / name).resolve() for name in _BESIDE]
            inside = [path for path in places if path.is_relative_to(src.root) and path.is_dir()]
            yield _scene(src.root, folder), rows_of(src, model, inside)


def rows_of(src: Source, model: Model, images: Sequence[Path]) -> list[Row]:
    """A row per image of the model; its file is looked for in each of the folders in turn."""
    if model.distorted:
        src.info["distortion"] = "not corrected"
    return [
        Row(image=first_file(folder / photo.name for folder in images), camera=photo.camera) for photo in model.photos
    ]


def _scene(root: Path, model: Path) -> str:
    """The folder that holds sparse/0, or the model's own; its number too when there are several."""
    parts = list(model.relative_to(root).parts)
    number = parts.pop() if parts and parts[-1].isdigit() else "0"
    while parts and parts[-1] in ("sparse", "sparses", "colmap", "dense"):
        parts.pop()
    name = "/".join(parts) or root.name
    return name if number == "0" else f"{name}/{number}"
