"""MegaScenes: `images/AAA/BBB/...` photographs and `reconstruct/AAA/BBB/sparses/N` COLMAP models.

Layout: README of github.com/MegaScenes/dataset ("Dataset Layout"; pictures lie in
`images/AAA/BBB/commons/CATEGORY/0/pictures`). How the models name their images is not said there: a name is
looked for under the scene's images as a path and then by its file name alone. Every model is a scene. A photo
collection has no order: frames are chained by the 3D points they share (CroCo's score, manyview.data.overlap);
a scene without a chain of 24 stays whole.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from manyview.data.overlap import point_chains
from manyview.data.sources.base import SOURCES, Scenes, Source, reader
from manyview.data.sources.colmap import rows_of
from manyview.data.sources.colmap_model import Model, is_model, read_model

_LEAST = 12  # images of a model


@SOURCES.add("megascenes")
@reader("reconstruct/AAA/BBB/sparses/N models")
def scenes(src: Source) -> Scenes:
    """The folder that holds `images` and `reconstruct`; models of fewer than 12 images are left out."""
    for folder in src.folders("reconstruct/*/*/sparses/*"):
        model = src.read(folder, read_model) if is_model(folder) else None
        if model is None or len(model.photos) < _LEAST:
            continue
        _, first, second, _, number = folder.relative_to(src.root).parts
        scene = f"{first}/{second}" + ("" if number == "0" else f"/{number}")
        images = src.root / "images" / first / second
        rows = rows_of(src, _with_paths(model, images), [images])
        yield scene, rows
        poses = np.stack([np.asarray(photo.camera.cam2world) for photo in model.photos])
        groups = point_chains([photo.points for photo in model.photos], poses)
        src.group(scene, [[rows[i].image for i in group] for group in groups])


def _with_paths(model: Model, images: Path) -> Model:
    """Names that are no paths under the scene's images become the path of the one file of that name."""
    files: dict[str, str] = {}
    for folder, _, names in os.walk(images):
        for name in names:
            files.setdefault(name, (Path(folder) / name).relative_to(images).as_posix())
    photos = [
        photo if (images / photo.name).is_file() else replace(photo, name=files.get(Path(photo.name).name, photo.name))
        for photo in model.photos
    ]
    return replace(model, photos=photos)
