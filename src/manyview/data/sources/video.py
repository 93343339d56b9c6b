"""Videos: frames are written once as JPEGs beside the manifest, every video is a scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from manyview.config import Positive
from manyview.data.sources.base import SOURCES, ScanOptions, Scenes, Source, claim, reader
from manyview.data.sources.rows import Row
from manyview.errors import UserError
from manyview.files import natural_key
from manyview.images.reading import ImageProblem
from manyview.images.video import SUFFIXES, is_video, iter_video
from manyview.images.writing import write_picture


@dataclass(frozen=True, kw_only=True)
class VideoOptions(ScanOptions):
    """What of videos is wanted."""

    fps: Positive | None = None
    """Videos only: frames per second to take, before the positions are counted."""


@SOURCES.add("video")
@reader("videos", options=VideoOptions)
def video(src: Source[VideoOptions]) -> Scenes:
    """Videos: frames are written once as JPEGs beside the manifest, every video is a scene.

    SRC: one video, or a folder of videos. Frames already there from the same video are kept as they are.
    """
    place = src.extract_to()
    folder = src.path if src.path.is_dir() else None
    videos = sorted(filter(is_video, folder.iterdir()), key=natural_key) if folder else [src.path]
    if not videos:
        raise UserError(f"no videos in {src.path}, known suffixes: {' '.join(SUFFIXES)}")
    stems = [path.stem for path in videos]
    names = {path: path.stem if stems.count(path.stem) == 1 else path.name for path in videos}
    src.info["videos"] = {name: path.name for path, name in names.items()}
    for path, scene in names.items():
        src.dataset = scene
        yield scene, _rows(src, path, place / scene)


def _rows(src: Source[VideoOptions], video: Path, folder: Path) -> Iterator[Row]:
    """The frames of a video as they come; one of a folder's that breaks off is left out."""
    try:
        claim(folder, video, "[0-9]*.jpg")
        cut = partial(src.problem, video.name)
        for index, pixels in iter_video(video, fps=src.options.fps, cut=cut):
            path = folder / f"{index:06d}.jpg"
            yield Row(image=path, write=partial(_write, path, pixels))
    except UserError as error:
        if src.path == video or not str(error).startswith(str(video)):
            raise
        raise ImageProblem(video.name, str(error)) from error


def _write(path: Path, pixels: np.ndarray) -> None:
    if not path.exists():
        write_picture(path, pixels)
