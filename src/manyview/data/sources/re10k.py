"""RealEstate10K: one text file of cameras per clip, and the frames that were cut out of its video.

`[train|test/]CLIP.txt`: first line the video's address, then per frame its time in microseconds, fx fy cx cy as
fractions of the width and height, two zeros, and the 3x4 world-to-camera matrix row by row with OpenCV axes.
Layout of a line: `convert_poses` in src/dataset/dataset_re10k.py of github.com/dcharatan/pixelsplat, and the
format section of google.github.io/realestate10k (not read: only quoted by such code). The data set gives no
images; where frames lie is everybody's own choice. Read here: `[frames/][train|test/]CLIP/TIME.jpg|png`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import full, inverse
from manyview.data.sources.rows import Camera, Row

_TEXT = 19  # numbers of a line
_SPLITS = ("train", "test", "validation")


@SOURCES.add("re10k")
@reader("CLIP.txt with a CLIP folder of frames")
def scenes(src: Source) -> Scenes:
    """A folder with the clips' text files and their folders of frames, side by side or in a folder of each."""
    lists = {path.stem: path for path in src.files_named(lambda name: name.endswith(".txt"))}
    for folder in src.folders_named(lists.__contains__):
        images, file = images_of(folder), lists[folder.name]
        if images:
            cameras = src.read(file, _cameras) or {}
            split = next((part for part in file.relative_to(src.root).parts if part in _SPLITS), "")
            rows = [Row(image=path, camera=cameras.get(_time(path.stem)), split=split) for path in images]
            yield folder.name, rows


def _cameras(path: Path) -> dict[str, Camera]:
    """Time in microseconds -> camera."""
    cameras = {}
    first, *lines = path.read_text().splitlines()
    if len(first.split()) == _TEXT:
        lines.insert(0, first)
    for line in filter(str.strip, lines):
        words = line.split()
        if len(words) != _TEXT:
            raise ValueError(f"a line has {len(words)} words, not {_TEXT}")
        fx, fy, cx, cy, _, _, *matrix = (float(word) for word in words[1:])
        cameras[_time(words[0])] = Camera((fx, fy, cx, cy), inverse(full(np.array(matrix))), (1, 1))
    return cameras


def _time(text: str) -> str:
    """As written, without leading zeros."""
    return text.lstrip("0") or "0"
