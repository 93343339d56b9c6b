"""What stays refused on purpose, each provoked, with the line that it ends in: `python tests/refused_on_purpose.py`.

--write docs/refused.md makes the page; a test keeps it true.
"""

from __future__ import annotations

import argparse
import json
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import manyview as mv
from manyview import zoo
from manyview.cache.build import build
from manyview.data.sources import ScanOptions, scan
from manyview.data.synthetic import write_scenes
from manyview.images.reading import read_image
from manyview.metrics import depth_errors
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView, Source
from manyview.teachers.sensor import Sensor

K = [[60.0, 0, 35], [0, 60.0, 28], [0, 0, 1]]


@dataclass(frozen=True)
class Refusal:
    what: str
    why: str
    provoke: Callable[[Path], object]


REFUSALS: dict[str, list[Refusal]] = {}


def refused(chapter: str, what: str, why: str) -> Callable[[Callable[[Path], object]], None]:
    def add(provoke: Callable[[Path], object]) -> None:
        REFUSALS.setdefault(chapter, []).append(Refusal(what, why, provoke))

    return add


PICTURES, CAMERAS, DATA, MODELS, PLACES = "Pictures", "Cameras", "Data", "Models", "Places"


@refused(PICTURES, "Anything but raster pictures, whatever the name says", "a PostScript file would start Ghostscript")
def _(folder: Path) -> object:
    (folder / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    return read_image(folder / "a.jpg")


@refused(
    PICTURES, "Pictures of more than 178 megapixels (JPEG: 715, decoded small)", "what they unfold to fills the memory"
)
def _(folder: Path) -> object:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return read_image(folder / "a.png")


@refused(PICTURES, "Pictures that end too early", "half a photo is not what was taken")
def _(folder: Path) -> object:
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:-30])
    return read_image(folder / "a.png")


def _photos(folder: Path, *sizes: tuple[int, int]) -> Path:
    (folder / "photos").mkdir()
    for index, size in enumerate(sizes):
        pixels = np.random.default_rng(index).integers(0, 255, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/{index}.png")
    return folder / "photos"


def _reconstruct(folder: Path, *sizes: tuple[int, int], **given: object) -> object:
    model = zoo.build("manyview-tiny", size="debug")
    return mv.reconstruct(_photos(folder, *sizes), model=model, device="cpu", **given)


@refused(CAMERAS, "One camera for photos of several sizes or orientations", "it is true of one of them at most")
def _(folder: Path) -> object:
    return _reconstruct(folder, (70, 56), (56, 70), intrinsics=K)


@refused(CAMERAS, "Focal lengths that no pinhole has", "they were shares of the width, or millimetres")
def _(folder: Path) -> object:
    return _reconstruct(folder, (70, 56), intrinsics=[[1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1]])


@refused(CAMERAS, "A principal point outside the picture", "it is of another size")
def _(folder: Path) -> object:
    return _reconstruct(folder, (70, 56), intrinsics=[[60.0, 0, 350], [0, 60.0, 28], [0, 0, 1]])


@refused(CAMERAS, "Lenses that distort, as given cameras", "all cameras here are pinholes; undistorting loses nothing")
def _(folder: Path) -> object:
    frame = {"file_path": "0.png", "transform_matrix": np.eye(4).tolist(), "fl_x": 60.0, "w": 70, "h": 56, "k1": 0.2}
    (folder / "transforms.json").write_text(json.dumps({"frames": [frame]}))
    return _reconstruct(folder, (70, 56), cameras_from=folder / "transforms.json")


@refused(CAMERAS, "Poses that are no rotation and translation", "a mirrored or scaled world is not the photos'")
def _(folder: Path) -> object:
    return _reconstruct(folder, (70, 56), cam2world=[np.diag([1.0, 1, -1, 1])])


@refused(
    CAMERAS, "Exports of a scene in which no photo has a camera", "points without a place would look like a result"
)
def _(folder: Path) -> object:
    view = SceneView("0.png", np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.float32), np.ones((8, 8), np.float32),
                     np.eye(3), None, Source((8, 8), np.eye(3), np.eye(3)), rests_on="nothing")  # fmt: skip
    return Scene([view]).export(folder / "a.ply")


@refused(DATA, "Depth scales of zero and below", "depth would be none, or behind the camera")
def _(folder: Path) -> object:
    frame = {"file_path": "photos/0.png", "transform_matrix": np.eye(4).tolist(), "fl_x": 60.0, "w": 70, "h": 56}
    _photos(folder, (70, 56))
    (folder / "transforms.json").write_text(json.dumps({"frames": [frame], "depth_unit_scale_factor": -1}))
    return scan(folder, format="nerfstudio", options=ScanOptions())


@refused(DATA, "Units of depth of which a word is not understood", "a guess would be wrong by a factor")
def _(folder: Path) -> object:
    Image.new("RGB", (70, 56)).save(folder / "0.png")
    said = {"depth_png": "uint16, 32767 = no value, millimetres", "frames": [{"file": "0.png"}]}
    (folder / "cameras.json").write_text(json.dumps(said))
    return scan(folder, format="manyview")


@refused(DATA, "Files outside the data's folder", "a manifest from elsewhere may not read this machine's files")
def _(folder: Path) -> object:
    (folder / "scene").mkdir()
    _photos(folder, (70, 56))
    (folder / "scene/cameras.json").write_text(json.dumps({"frames": [{"file": "../photos/0.png"}]}))
    return scan(folder / "scene", format="manyview", options=ScanOptions())


@refused(DATA, "A cache whose index lost lines or whose archives changed", "a smaller or another data set, unnoticed")
def _(folder: Path) -> object:
    write_scenes(folder / "rooms", scenes=1, views=2, size=(28, 42), workers=1)
    build(folder / "rooms/manifest.parquet", Sensor(), folder / "cache", views=2, size=(28, 42))
    index = folder / "cache/index.jsonl"
    index.write_text(index.read_text().replace('"bytes":', '"bytes":1'))
    return mv.Cache.open(folder / "cache")


@refused(DATA, "Arrays of shapes that would broadcast, in metrics", "one number for all pixels is seldom meant")
def _(folder: Path) -> object:
    return depth_errors(np.ones((4, 5)), np.ones((4, 1)))


@refused(MODELS, "Checkpoints that hold code", "unpickling them would run it")
def _(folder: Path) -> object:
    torch.save({"model": print}, folder / "w.pth")
    return zoo.convert(folder / "w.pth", "dinov2-vits14", folder / "m")


@refused(MODELS, "A Git LFS pointer or a web page in place of weights", "the download did not work")
def _(folder: Path) -> object:
    (folder / "w.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return zoo.convert(folder / "w.pth", "dinov2-vits14", folder / "m")


@refused(MODELS, "Weights with NaN or infinite values", "every answer would be NaN")
def _(folder: Path) -> object:
    model = zoo.build("dinov2-vits14", size="debug")
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    torch.save(zoo.export_official(model), folder / "w.pth")
    return zoo.convert(folder / "w.pth", "dinov2-vits14", folder / "m")


@refused(
    MODELS, "Quantised weights, and what FSDP keeps of one process", "without scales or the rest they are no weights"
)
def _(folder: Path) -> object:
    model = zoo.build("dinov2-vits14", size="debug")
    weights = {name: tensor.to(torch.int8) for name, tensor in zoo.export_official(model).items()}
    torch.save(weights, folder / "w.pth")
    return zoo.convert(folder / "w.pth", "dinov2-vits14", folder / "m")


@refused(
    MODELS, "Images that are no whole patches, or not three channels of floats", "padding in silence moves cameras"
)
def _(folder: Path) -> object:
    return zoo.build("dinov2-vits14", size="debug").encode(torch.rand(1, 3, 100, 100))


@refused(PLACES, "Files that this program did not write, or that were changed since", "they are yours")
def _(folder: Path) -> object:
    (folder / "cloud.ply").write_text("mine")
    view = SceneView("0.png", np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.float32), np.ones((8, 8), np.float32),
                     np.eye(3), np.eye(4), Source((8, 8), np.eye(3), np.eye(3)), rests_on="given")  # fmt: skip
    return Scene([view]).export(folder / "cloud.ply")


@refused(PLACES, "A run, a cache or an evaluation gone on with under other settings", "half would be of one kind")
def _(folder: Path) -> object:
    write_scenes(folder / "rooms", scenes=1, views=2, size=(28, 42), workers=1)
    for size in ((28, 42), (28, 56)):
        build(folder / "rooms/manifest.parquet", Sensor(), folder / "cache", views=2, size=size)
    return None


@refused(PLACES, "Scenes, manifests and models of a newer version", "what is new in them would be lost")
def _(folder: Path) -> object:
    (folder / "scene.json").write_text(json.dumps({"format": "manyview-scene", "version": 99}))
    return Scene.load(folder)


@contextmanager
def _place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Path(folder).resolve()


def line_of(refusal: Refusal) -> str:
    """The line that it ends in; RuntimeError when nothing is refused."""
    with _place() as folder:
        try:
            refusal.provoke(folder)
        except ValueError as error:  # UserError is one
            return str(error).replace(f"{folder}/", "").replace(str(folder), "FOLDER")
    raise RuntimeError(f"not refused: {refusal.what}")


def page() -> str:
    """docs/refused.md."""
    lines = [
        "# What stays refused on purpose",
        "",
        "Every refusal is one line that names the file or value and how to mend it, with exit code 2. These are no",
        "gaps: each is here because the other way would be wrong in silence, lose something, or run others' code.",
    ]
    for chapter, refusals in REFUSALS.items():
        lines += ["", f"## {chapter}"]
        for one in refusals:
            lines += ["", f"**{one.what}**: {one.why}.", "", "```", line_of(one), "```"]
    lines += ["", "Written by `python tests/refused_on_purpose.py --write docs/refused.md`; a test keeps it true.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    args = parser.parse_args()
    text = page()
    print(text)
    if args.write:
        args.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
