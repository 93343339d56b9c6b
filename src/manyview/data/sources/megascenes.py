"""MegaScenes: `images/AAA/BBB/...` photographs and `reconstruct/AAA/BBB/sparses/N` COLMAP models.

Layout: README of github.com/MegaScenes/dataset ("Dataset Layout"; pictures lie in
`images/AAA/BBB/commons/CATEGORY/0/pictures`). How the models name their images is not said there: a name is
looked for under the scene's images as a path and then by its file name alone. Every model is a scene. A photo
collection has no order: frames are chained by the 3D points they share (CroCo's score, manyview.data.overlap);
a scene without a chain of 24 stays whole.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from manyview.data.overlap import point_chains
from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.colmap import note_distortion, rows_of
from manyview.data.sources.colmap_model import Model, Photo, is_model, read_model
from manyview.data.sources.rows import Collector, folders_of, need_scenes
from manyview.files import natural_key

_LEAST = 12  # images of a model


@SOURCES.add("megascenes")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder that holds `images` and `reconstruct`; models of fewer than 12 images are left out."""
    data = Collector(src, options, "megascenes")
    base = data.root / "reconstruct"
    models = [path for path in folders_of(base, "*/*/sparses/*") if is_model(path)]
    need_scenes(models, src, "reconstruct/AAA/BBB/sparses/N models")
    for folder in sorted(models, key=natural_key):
        model = data.read(folder, read_model)
        if model is None or len(model.photos) < _LEAST:
            continue
        parts = folder.relative_to(base).parts
        scene = f"{parts[0]}/{parts[1]}" + ("" if parts[3] == "0" else f"/{parts[3]}")
        images = data.root / "images" / parts[0] / parts[1]
        model = _with_paths(model, images)
        rows = rows_of(data, model, [images])
        data.add(scene, rows)
        note_distortion(data, model)
        poses = np.stack([photo.cam2world for photo in model.photos])
        groups = point_chains([photo.points for photo in model.photos], poses)
        data.group(scene, [[rows[i].image for i in group] for group in groups])
    return data.finish()


def _with_paths(model: Model, images: Path) -> Model:
    """Names that are no paths under the scene's images become the path of the one file of that name."""
    files: dict[str, str] = {}
    for folder, _, names in os.walk(images):
        for name in names:
            files.setdefault(name, (Path(folder) / name).relative_to(images).as_posix())
    photos = [
        photo
        if (images / photo.name).is_file()
        else Photo(files.get(Path(photo.name).name, photo.name), photo.camera, photo.cam2world, photo.points)
        for photo in model.photos
    ]
    return Model(model.cameras, photos)
