"""COLMAP scenes: a sparse model (text or binary) and the images it names.

Layout: colmap.github.io/format.html for the files; the usual folders are `images` beside `sparse/0` (or
`sparse`, or the model's files beside the images), as COLMAP's automatic reconstruction and image undistorter
write them. Fisheye cameras give poses but no intrinsics; other distortion is not corrected.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.colmap_model import Model, read_model
from manyview.data.sources.rows import Collector, Row, find_files, need_scenes

_BESIDE = ("images", "../images", "../../images", ".", "..", "../..")


@SOURCES.add("colmap")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """A scene's folder, or a folder of scenes; a scene with several models gives several scenes."""
    data = Collector(src, options, src.resolve().name)
    files = find_files(data.root, lambda name: name in ("images.bin", "images.txt"))
    models = list(dict.fromkeys(path.parent for path in files))
    need_scenes(models, src, "sparse model (cameras and images as .bin or .txt)")
    for folder in models:
        model = data.read(folder, read_model)
        if model is None:
            continue
        inside = [
            path for path in ((folder / name).resolve() for name in _BESIDE) if _within(path, data.root)
        ]
        data.add(scene_name(data, folder), rows_of(data, model, inside))
        note_distortion(data, model)
    return data.found


def rows_of(data: Collector, model: Model, images: Sequence[Path]) -> list[Row]:
    """A row per image of the model; its file is looked for in each of the folders in turn."""
    rows = []
    for photo in model.photos:
        camera = model.cameras.get(photo.camera)
        paths = [folder / photo.name for folder in images]
        image = next((path for path in paths if path.is_file()), paths[0])
        rows.append(
            Row(
                image=data.below(image),
                camera=camera.pinhole if camera else None,
                camera_size=camera.size if camera else None,
                cam2world=photo.cam2world,
            )
        )
    return rows


def note_distortion(data: Collector, model: Model) -> None:
    """Say in the manifest that the images of this data set are not those of a pure pinhole."""
    if any(camera.distorted for camera in model.cameras.values()):
        data.found.info["distortion"] = "not corrected"


def scene_name(data: Collector, model: Path) -> str:
    """The folder that holds sparse/0, or the model's own; its number too when there are several."""
    parts = list(model.relative_to(data.root).parts)
    number = parts.pop() if parts and parts[-1].isdigit() else "0"
    while parts and parts[-1] in ("sparse", "sparses", "colmap", "dense"):
        parts.pop()
    name = "/".join(parts) or data.root.name
    return name if number == "0" else f"{name}/{number}"


def _within(path: Path, root: Path) -> bool:
    return path.is_relative_to(root) and path.is_dir()
