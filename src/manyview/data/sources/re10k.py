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

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import full, inverse
from manyview.data.sources.rows import Collector, Row, find_files, find_folders, images_of, need_scenes

_TEXT = 19  # numbers of a line


@SOURCES.add("re10k")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """A folder with the clips' text files and their folders of frames, side by side or in a folder of each."""
    data = Collector(src, options, "re10k")
    lists = {path.stem: path for path in find_files(data.root, lambda name: name.endswith(".txt"))}
    folders = find_folders(data.root, lists.__contains__)
    clips = [(path, images_of(path)) for path in folders]
    need_scenes([path for path, images in clips if images], src, "CLIP.txt with a CLIP folder of frames")
    for folder, images in clips:
        cameras = data.read(lists[folder.name], _cameras) or {}
        rows = []
        for image in images:
            camera, pose = cameras.get(image.stem.lstrip("0") or "0", (None, None))
            rows.append(
                Row(
                    image=data.below(image),
                    camera=camera,
                    camera_size=(1, 1),
                    cam2world=pose,
                    split=_split(data.below(lists[folder.name])),
                )
            )
        data.add(folder.name, rows)
    return data.found


def _cameras(path: Path) -> dict[str, tuple[tuple[float, float, float, float], np.ndarray]]:
    """Time in microseconds (as written) -> fractions fx, fy, cx, cy and cam2world."""
    cameras = {}
    first, *lines = path.read_text().splitlines()
    if len(first.split()) == _TEXT:
        lines.insert(0, first)
    for line in filter(str.strip, lines):
        words = line.split()
        if len(words) != _TEXT:
            raise ValueError(f"a line has {len(words)} words, not {_TEXT}")
        values = [float(word) for word in words[1:]]
        fx, fy, cx, cy = values[:4]
        cameras[words[0].lstrip("0") or "0"] = ((fx, fy, cx, cy), inverse(full(np.array(values[6:]))))
    return cameras


def _split(below: str) -> str:
    return next((part for part in below.split("/") if part in ("train", "test", "validation")), "")
