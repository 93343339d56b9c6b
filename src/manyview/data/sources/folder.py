"""Plain folders of images: every folder that holds images is a scene; nothing is known but the pictures."""

from __future__ import annotations

import os
from pathlib import Path

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.rows import Row
from manyview.errors import UserError
from manyview.files import natural_key
from manyview.images.reading import SUFFIXES


@SOURCES.add("folder")
@reader("images")
def scenes(src: Source) -> Scenes:
    """A folder of images, or of folders of images. Hidden files and folders are left out."""
    if not src.path.is_dir():
        raise UserError(f"{src.path} is a file; --format folder takes a folder of images")
    src.dataset = src.root.name
    folders = []
    for path, inner, _ in os.walk(src.root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        folders.append(Path(path))
    images = {folder: images_of(folder) for folder in sorted(folders, key=natural_key)}
    if not any(images.values()):
        raise UserError(f"no images in {src.path}, known suffixes: {' '.join(SUFFIXES)}")
    for folder, paths in images.items():
        if paths:
            yield src.name(folder), [Row(image=path) for path in paths]
