"""Plain folders of images: every folder that holds images is a scene; nothing is known but the pictures."""

from __future__ import annotations

import os
from pathlib import Path

from manyview.data.manifest import Frame
from manyview.data.sources.base import SOURCES, Problem, Scanned, ScanOptions, frame_names, probe
from manyview.errors import UserError
from manyview.files import natural_key
from manyview.images.reading import SUFFIXES, folder_images


@SOURCES.add("folder")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """A folder of images, or of folders of images. Hidden files and folders are left out."""
    if not src.is_dir():
        raise UserError(f"{src} is a file; --format folder takes a folder of images")
    root = src.resolve()
    found = Scanned(root)
    scenes = _scenes(root)
    if not scenes:
        raise UserError(f"no images in {src}, known suffixes: {' '.join(SUFFIXES)}")
    for folder in scenes:
        below = folder.relative_to(root).as_posix()
        scene, prefix = (root.name, "") if below == "." else (below, f"{below}/")
        images = [prefix + path.name for path in options.pick(folder_images(folder))]
        names = frame_names(images)
        for image, size in probe(root, images, scene):
            if isinstance(size, Problem):
                found.problems.append(size)
                continue
            width, height = size
            dataset = options.dataset or root.name
            found.frames.append(Frame(dataset, scene, names[image], options.split, image, width, height))
    return found


def _scenes(root: Path) -> list[Path]:
    """Folders with images, in natural order."""
    folders = []
    for folder, below, _ in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        if folder_images(Path(folder)):
            folders.append(Path(folder))
    return sorted(folders, key=natural_key)
