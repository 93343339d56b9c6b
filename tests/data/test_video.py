"""Videos: the frames that were asked for, upright, resumable; broken files are one line."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from manyview.data.check import check
from manyview.data.manifest import Manifest
from manyview.data.sources import ScanOptions, scan
from manyview.errors import UserError
from manyview.images.video import iter_video, video_info

cv2 = pytest.importorskip("cv2")
COUNT, FPS = 24, 12.0


def write_video(path, count: int = COUNT):
    """Frames whose left half says their number as brightness, whose top right quarter is red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (96, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MP4")
    for i in range(count):
        frame = np.zeros((64, 96, 3), np.uint8)
        frame[:, :48] = 10 * i
        frame[:32, 48:] = (0, 0, 220)
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "walk.mp4")


def number(image: np.ndarray) -> int:
    return round(float(image[:, :40].mean()) / 10)


def test_frames_come_in_order_and_in_rgb(video):
    frames = list(iter_video(video))
    assert [i for i, _ in frames] == list(range(COUNT))
    assert [number(image) for _, image in frames] == list(range(COUNT))
    assert frames[3][1].dtype == np.uint8
    assert frames[3][1].shape == (64, 96, 3)
    assert frames[3][1][10, 80, 0] > 150 > 60 > frames[3][1][10, 80, 2]
    assert video_info(video).frames == COUNT
    assert video_info(video).fps == pytest.approx(FPS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"stride": 5}, [0, 5, 10, 15, 20]),
        ({"fps": 3}, [0, 4, 8, 12, 16, 20]),
        ({"fps": 5}, [0, 3, 5, 8, 10, 12, 15, 17, 20, 22]),
        ({"fps": 3, "stride": 2}, [0, 8, 16]),
        ({"fps": 100}, list(range(COUNT))),
        ({"max_frames": 3}, [0, 1, 2]),
        ({"stride": 7, "max_frames": 2}, [0, 7]),
    ],
)
def test_the_frames_asked_for(video, options, expected):
    frames = list(iter_video(video, **options))
    assert [i for i, _ in frames] == expected
    assert [number(image) for _, image in frames] == expected


ROTATED = {  # the display matrix of a clockwise turn, in 16.16 fixed point, and where the red quarter then is
    90: ([0, 1, -1, 0], (64, 96), (80, 50)),
    180: ([-1, 0, 0, -1], (96, 64), (10, 50)),
    270: ([0, -1, 1, 0], (64, 96), (10, 10)),
}


@pytest.mark.parametrize("degrees", ROTATED)
def test_rotation_metadata_is_respected(video, tmp_path, degrees):
    matrix, (width, height), _ = ROTATED[degrees]
    data = bytearray(video.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix of nine numbers
    a, b, c, d = (int(v * 65536).to_bytes(4, "big", signed=True) for v in matrix)
    zero, one = bytes(4), (1 << 30).to_bytes(4, "big")
    data[start : start + 36] = a + b + zero + c + d + zero + zero + zero + one
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    _, turned = next(iter(iter_video(path)))
    _, plain = next(iter(iter_video(video)))
    assert turned.shape == (height, width, 3)
    upright = np.rot90(plain, -degrees // 90)
    assert np.abs(turned.astype(int) - upright).mean() < 3


def test_files_that_are_no_video_are_one_line(video, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:2000])
    for name, message in {
        "empty.mp4": "no readable video",
        "text.mp4": "no readable video",
        "cut.mp4": "no readable video",
        "none.mp4": "no such video",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            list(iter_video(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_the_decoder_itself_says_nothing(tmp_path):
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")
    code = "import sys; from manyview.images.video import iter_video; list(iter_video(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "cut.mp4"], capture_output=True, text=True)
    assert run.returncode == 1
    assert "no readable video" in run.stderr
    assert "moov" not in run.stderr


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": float("nan")}, {"stride": 0}, {"max_frames": 0}])
def test_options_that_select_nothing(video, options):
    with pytest.raises(UserError, match="select nothing"):
        list(iter_video(video, **options))


def test_scan_writes_frames_beside_the_manifest(video, tmp_path):
    options = ScanOptions(extract_to=tmp_path / "m_frames", stride=4, frames="2:20")
    manifest, problems = scan(video, format="video", options=options)
    assert problems == []
    assert [f.frame for f in manifest.frames] == ["000002", "000006", "000010", "000014", "000018"]
    assert manifest[0].image == "m_frames/walk/000002.jpg"
    assert (manifest[0].width, manifest[0].height, manifest[0].scene) == (96, 64, "walk")
    loaded = Manifest.load(manifest.save(tmp_path / "m.parquet"))
    assert check(loaded) == []


def test_scan_resumes_without_writing_again(video, tmp_path):
    options = ScanOptions(extract_to=tmp_path / "m_frames", max_frames=4)
    scan(video, format="video", options=options)
    frames = sorted((tmp_path / "m_frames" / "walk").glob("*.jpg"))
    frames[1].unlink()
    for path in frames[::2]:
        os.utime(path, ns=(1, 1))
    manifest, _ = scan(video, format="video", options=options)
    assert len(manifest) == 4
    assert [p.stat().st_mtime_ns == 1 for p in frames] == [True, False, True, False]


def test_another_video_of_that_name_replaces_the_frames(video, tmp_path):
    options = ScanOptions(extract_to=tmp_path / "m_frames")
    scan(video, format="video", options=options)
    other = write_video(tmp_path / "new" / "walk.mp4", count=5)
    manifest, _ = scan(other, format="video", options=options)
    assert len(manifest) == 5
    assert len(list((tmp_path / "m_frames" / "walk").glob("*.jpg"))) == 5


def test_a_folder_of_videos_with_a_broken_one(video, tmp_path):
    folder = tmp_path / "videos"
    write_video(folder / "take10.mp4", 3)
    write_video(folder / "take2.mp4", 3)
    (folder / "take3.mp4").write_bytes(b"")
    options = ScanOptions(extract_to=tmp_path / "m_frames")
    manifest, problems = scan(folder, format="video", options=options)
    assert list(manifest.scenes()) == ["take2", "take10"]
    assert [p.path for p in problems] == ["take3.mp4"]
    with pytest.raises(UserError, match="no readable video"):
        scan(folder / "take3.mp4", format="video", options=options)


def test_mistakes(video, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no videos in .*known suffixes"):
        scan(tmp_path / "empty", format="video", options=ScanOptions(extract_to=tmp_path / "f"))
    with pytest.raises(UserError, match="need a place"):
        scan(video, format="video")
    with pytest.raises(UserError, match="from 0 on"):
        scan(video, format="video", options=ScanOptions(extract_to=tmp_path / "f", frames="-3:"))
    with pytest.raises(UserError, match="no usable frame"):
        scan(video, format="video", options=ScanOptions(extract_to=tmp_path / "f", frames="900:"))


def test_frames_that_no_scan_wrote_are_left_alone(video, tmp_path):
    mine = tmp_path / "m_frames" / "walk" / "000001.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"my photo")
    with pytest.raises(UserError, match="holds no set of extracted frames"):
        scan(video, format="video", options=ScanOptions(extract_to=tmp_path / "m_frames"))
    assert mine.read_bytes() == b"my photo"
