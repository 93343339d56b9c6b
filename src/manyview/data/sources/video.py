"""Videos: frames are written once as JPEGs beside the manifest, every video is a scene."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from manyview.data.manifest import Frame, parse_span
from manyview.data.sources.base import SOURCES, Problem, Scanned, ScanOptions, claim
from manyview.errors import UserError
from manyview.files import natural_key, write_bytes
from manyview.images.video import SUFFIXES, is_video, iter_video, video_info
from manyview.progress import track

_QUALITY = 95


@SOURCES.add("video")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """One video, or a folder of videos. Frames already there from the same video are kept as they are."""
    if options.extract_to is None:
        raise UserError(f"frames of {src} need a place; name the manifest with -o, they go beside it")
    videos = sorted(filter(is_video, src.iterdir()), key=natural_key) if src.is_dir() else [src]
    if not videos:
        raise UserError(f"no videos in {src}, known suffixes: {' '.join(SUFFIXES)}")
    root = options.extract_to.resolve().parent
    found = Scanned(root, info={"videos": {}})
    stems = [video.stem for video in videos]
    for video in videos:
        scene = video.stem if stems.count(video.stem) == 1 else video.name
        try:
            frames, problem = _extract(video, root / options.extract_to.name / scene, scene, options)
        except UserError as error:
            if not src.is_dir() or not str(error).startswith(str(video)):
                raise
            frames, problem = [], Problem(video.name, str(error))
        found.frames += frames
        found.problems += [problem] if problem else []
        found.info["videos"][scene] = video.name
    return found


def _extract(
    video: Path, folder: Path, scene: str, options: ScanOptions
) -> tuple[list[Frame], Problem | None]:
    """Write the wanted frames that are not there yet; a frame's file is named by its index in the video."""
    info = video_info(video)
    claim(folder, video, "[0-9]*.jpg")
    frames: list[Frame] = []
    last = -1
    dataset = options.dataset or scene
    for index, pixels in track(_wanted(video, options), label=scene, unit="frame"):
        path = folder / f"{index:06d}.jpg"
        if not path.exists():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
            write_bytes(path, buffer.getvalue())
        image = f"{folder.parent.name}/{scene}/{path.name}"
        height, width = pixels.shape[:2]
        frames.append(Frame(dataset, scene, path.stem, options.split, image, width, height))
        last = index
    return frames, _cut_short(video, info.frames, last, options)


def _wanted(video: Path, options: ScanOptions) -> Iterator:
    """Frames by the options' order: fps, then A:B, then stride, then at most max_frames."""
    span = parse_span(options.frames)
    start, stop = span.start or 0, span.stop
    if start < 0 or (stop is not None and stop < 0):
        raise UserError(
            f"frames {options.frames!r}: a video is read from its start; give positions from 0 on"
        )
    count = 0
    options.pick([])  # refuses a stride or a maximum that selects nothing
    for position, item in enumerate(iter_video(video, fps=options.fps)):
        if (stop is not None and position >= stop) or count == options.max_frames:
            return
        if position >= start and (position - start) % options.stride == 0:
            count += 1
            yield item


def _cut_short(video: Path, declared: int, last: int, options: ScanOptions) -> Problem | None:
    """A video that was wanted to its end but stops well before the length its header declares."""
    whole = options.frames is None and options.max_frames is None and options.fps is None
    if whole and declared and last + options.stride < declared - max(2, declared // 50):
        return Problem(
            video.name, f"ends after frame {last} of {declared} declared: cut off or damaged from there"
        )
    return None
