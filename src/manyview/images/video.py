"""Frames of a video, upright and in RGB, as they come: nothing is kept in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manyview.errors import UserError

SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"),
    *(".mts", ".m2ts", ".3gp", ".wmv", ".ogv", ".flv"),
)
_ROUNDED = 0.001  # seconds: containers keep time stamps in milliseconds, rounded down
_UNKNOWN_SUFFIX = "; known suffixes: " + " ".join(SUFFIXES)


@dataclass(frozen=True)
class VideoInfo:
    """What the container says: frames per second (0 = unknown) and the number of frames (0 = unknown)."""

    fps: float
    frames: int


def is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def video_info(path: str | Path) -> VideoInfo:
    """Frame rate and declared length. Raises UserError for a file that is no readable video."""
    with _opened(Path(path)) as capture:
        return _info(capture)


def iter_video(
    path: str | Path,
    fps: float | None = None,
    stride: int = 1,
    max_frames: int | None = None,
    *,
    cut: Callable[[str], None] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index in the video, uint8 RGB (H, W, 3)), turned upright as the video's metadata says.

    First `fps` thins the frames by their time stamps (never adds any), then every `stride`-th is taken, then at most
    `max_frames`. A video that ends well before the length it states is told to `cut`. Raises UserError when nothing
    can be decoded.
    """
    path = Path(path)
    if stride < 1 or (fps is not None and not fps > 0) or (max_frames is not None and max_frames < 1):
        raise UserError(f"{path}: fps {fps}, stride {stride}, max-frames {max_frames} select nothing; all must be > 0")
    with _opened(path) as capture:
        about, clock = _info(capture), _Clock(capture)
        index = candidates = taken = 0
        tick = -1
        while (max_frames is None or taken < max_frames) and capture.grab():
            seconds = clock.now()
            if fps is not None and index == 1 and seconds is None:
                raise UserError(f"{path} does not say its frame rate; use --stride instead of --fps")
            now = index if fps is None else int(((seconds or 0.0) + _ROUNDED) * fps)
            if now > tick:
                tick = now
                if candidates % stride == 0:
                    yield index, _rgb(capture, path, index)
                    taken += 1
                candidates += 1
            index += 1
        if index == 0:
            raise UserError(f"{path}: no frame can be decoded; re-encode it, for example as H.264 MP4")
        stated, ended = about.frames / about.fps if about.fps else 0.0, clock.last or 0.0
        whole = index >= about.frames - max(2, about.frames // 50)
        if cut and (max_frames is None or taken < max_frames) and not whole and stated > 1.05 * ended + 2 * clock.gap:
            cut(f"ends after frame {index - 1}, at {ended:.1f} of {stated:.1f} s: cut off or damaged from there")


class _Clock:
    """Seconds since the first frame, by the frames' own time stamps; by the frame rate where these do not grow."""

    def __init__(self, capture: Any) -> None:
        rate = _info(capture).fps
        self.capture, self.gap = capture, 1 / rate if rate else 0.0
        self.start = 0.0
        self.last: float | None = None
        """Of the newest frame."""

    def now(self) -> float | None:
        """Of the frame that was grabbed; None where neither is known."""
        import cv2

        stamp = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if self.last is None:
            self.start, self.last = stamp if np.isfinite(stamp) else 0.0, 0.0
            return 0.0
        seconds = stamp - self.start
        if np.isfinite(seconds) and seconds > self.last:
            self.gap = seconds - self.last
        elif self.gap:
            seconds = self.last + self.gap
        else:
            return None
        self.last = seconds
        return seconds


def read_frames(path: str | Path, indices: Iterable[int]) -> Iterator[np.ndarray]:
    """The frames with these numbers (as `iter_video` counts them), in the order asked for: uint8 RGB (H, W, 3).

    Growing numbers take one pass. Raises UserError for a frame that is not there.
    """
    path = Path(path)
    wanted = list(indices)
    while wanted:
        with _opened(path) as capture:
            position = 0
            while wanted and wanted[0] >= position:
                while position <= wanted[0]:
                    if not capture.grab():
                        raise UserError(
                            f"{path}: frame {wanted[0]} cannot be read; the video has changed or is damaged"
                        )
                    position += 1
                yield _rgb(capture, path, wanted.pop(0))


def _rgb(capture: Any, path: Path, index: int) -> np.ndarray:
    import cv2

    decoded, frame = capture.retrieve()
    if not decoded or frame is None:
        raise UserError(f"{path}: frame {index} cannot be decoded; re-encode the video, or take fewer frames")
    return np.ascontiguousarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def _info(capture: Any) -> VideoInfo:
    import cv2

    fps, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return VideoInfo(fps if np.isfinite(fps) and fps > 0 else 0.0, max(0, int(frames)))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An opened capture that turns frames upright, with the decoder's own chatter on stderr switched off."""
    import cv2

    if not path.is_file():
        raise UserError(f"no such video: {path}; check the path")
    with _quiet_decoder():
        capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            hint = "" if path.suffix.lower() in SUFFIXES else _UNKNOWN_SUFFIX
            raise UserError(f"{path} is no readable video (damaged, cut off, or an unknown codec); re-encode it{hint}")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        yield capture
    finally:
        capture.release()


@contextlib.contextmanager
def _quiet_decoder() -> Iterator[None]:
    """FFmpeg inside OpenCV reads its log level from the environment when a file is opened."""
    name, level = "OPENCV_FFMPEG_LOGLEVEL", "-8"
    before = os.environ.get(name)
    os.environ.setdefault(name, level)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
