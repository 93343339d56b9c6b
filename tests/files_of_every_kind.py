"""A small valid file of every kind that is read, ours and others', and how it is read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from manyview import zoo
from manyview.cache.build import build
from manyview.cache.store import Cache
from manyview.cache.verify import verify
from manyview.data import sources
from manyview.data.check import check
from manyview.data.depths import read_depth
from manyview.data.loading import load_views
from manyview.data.manifest import Frame, Manifest
from manyview.engine import checkpoint
from manyview.errors import UserError
from manyview.evaluation.work import Item, Work
from manyview.images.maps import read_labels, read_mask
from manyview.images.reading import probe_image, read_image, stated_focal, stored_as_seen
from manyview.images.video import iter_video
from manyview.pipelines.camera_files import read_known
from manyview.pipelines.feature_set import FeatureSet
from manyview.pipelines.features import features
from manyview.pipelines.reconstruct import reconstruct
from manyview.scene.report import write_report
from manyview.scene.scene import Scene
from manyview.teachers.sensor import Sensor
from manyview.zoo.reading import read_checkpoint

RNG = np.random.default_rng(0)
PIXELS = cv2.resize(RNG.integers(0, 255, (6, 8, 3), np.uint8), (64, 48))


@dataclass(frozen=True)
class Kind:
    """A kind of file: how a valid one is written, which of them is damaged, and how it is read."""

    write: Callable[[Path], None]
    damaged: str
    """A pattern of the files of which one is damaged at a time."""
    read: Callable[[Path], Any]


@contextmanager
def quiet() -> Iterator[None]:
    """One line for the user is an answer."""
    try:
        yield
    except UserError as error:
        if "\n" in str(error):
            raise ValueError(f"several lines: {error}") from error


def picture(path: Path, **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path, **how)


def exif_photo(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA405] = 28
    picture(folder / "a.jpg", exif=exif)


def map16(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((48, 64), 1500, np.uint16)).save(path)


def film(folder: Path) -> None:
    writer = cv2.VideoWriter(str(folder / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for _ in range(6):
        writer.write(PIXELS)
    writer.release()


def pfm(folder: Path) -> None:
    (folder / "a.pfm").write_bytes(b"Pf\n8 6\n-1.0\n" + np.ones((6, 8), "<f4").tobytes())


def npy(folder: Path) -> None:
    np.save(folder / "a.npy", np.ones((6, 8), np.float32))


def manifest(folder: Path) -> Manifest:
    picture(folder / "a.png")
    map16(folder / "d.png")
    pose = tuple(np.eye(4).ravel().tolist())
    frame = Frame("s", "room", "a", "", "a.png", 64, 48, 60.0, 60.0, 32.0, 24.0, pose, "d.png", 0.001)
    made = Manifest([frame], folder, {"label_map": [0, 1]})
    made.save(folder / "m.parquet")
    return made


def cameras_json(folder: Path) -> None:
    picture(folder / "a.png")
    map16(folder / "d.png")
    lens = [[60, 0, 32], [0, 60, 24], [0, 0, 1]]
    frame = {"file": "a.png", "size": [64, 48], "K": lens, "cam2world": np.eye(4).tolist(), "depth": "d.png"}
    content = {"units": "metres", "depth_png": "millimetres", "pixel_centres": 0.5, "frames": [frame]}
    (folder / "cameras.json").write_text(json.dumps(content))


def transforms_json(folder: Path) -> None:
    picture(folder / "a.png")
    map16(folder / "d.png")
    frame = {"file_path": "a.png", "transform_matrix": np.eye(4).tolist(), "depth_file_path": "d.png"}
    lens = {"fl_x": 60, "fl_y": 60, "cx": 32, "cy": 24, "w": 64, "h": 48, "camera_angle_x": 0.9}
    (folder / "transforms.json").write_text(json.dumps({**lens, "depth_unit_scale_factor": 0.001, "frames": [frame]}))


def colmap_text(folder: Path) -> None:
    picture(folder / "images/a.png")
    model = folder / "sparse/0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("# cameras\n1 OPENCV 64 48 60 60 32 24 0.1 0 0 0\n")
    (model / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.png\n3.5 4.5 7 5 6 -1\n")


def colmap_binary(folder: Path) -> None:
    import struct

    picture(folder / "images/a.png")
    model = folder / "sparse/0"
    model.mkdir(parents=True)
    (model / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 1, 1, 64, 48, 60, 60, 32, 24))
    pose = struct.pack("<Qi7di", 1, 1, 1, 0, 0, 0, 0, 0, 0, 1)
    (model / "images.bin").write_bytes(pose + b"a.png\0" + struct.pack("<Q2dq", 1, 3.5, 4.5, 7))


def scannet(folder: Path) -> None:
    scene = folder / "scene0000_00"
    picture(scene / "color/0.jpg")
    map16(scene / "depth/0.png")
    for name in ("pose", "intrinsic"):
        (scene / name).mkdir()
    np.savetxt(scene / "pose/0.txt", np.eye(4))
    np.savetxt(scene / "intrinsic/intrinsic_color.txt", np.diag([1170, 1170, 1, 1]))


def tum(folder: Path) -> None:
    scene = folder / "rgbd_dataset_freiburg1_desk"
    picture(scene / "rgb/1.0.png")
    map16(scene / "depth/1.0.png")
    (scene / "rgb.txt").write_text("# time file\n1.0 rgb/1.0.png\n")
    (scene / "depth.txt").write_text("1.001 depth/1.0.png\n")
    (scene / "groundtruth.txt").write_text("1.0 0 0 0 0 0 0 1\n")


def re10k(folder: Path) -> None:
    picture(folder / "clip/100.png")
    (folder / "clip.txt").write_text("https://video\n100 0.9 1.2 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n")


def co3d(folder: Path) -> None:
    picture(folder / "cup/1/images/a.jpg")
    view = {"R": np.eye(3).tolist(), "T": [0, 0, 1], "focal_length": [2, 2], "principal_point": [0, 0]}
    image = {"path": "cup/1/images/a.jpg", "size": [48, 64]}
    entry = {"sequence_name": "1", "image": image, "viewpoint": view, "depth": {"path": "d", "scale_adjustment": 1.0}}
    (folder / "cup/frame_annotations.jgz").write_bytes(gzip.compress(json.dumps([entry]).encode()))


def tartanair(folder: Path) -> None:
    scene = folder / "P000"
    picture(scene / "image_left/000000_left.png")
    (scene / "depth_left").mkdir()
    np.save(scene / "depth_left/000000_left_depth.npy", np.ones((48, 64), np.float32))
    (scene / "pose_left.txt").write_text("0 0 0 0 0 0 1\n")


def vkitti2(folder: Path) -> None:
    frames = folder / "Scene01/clone/frames"
    picture(frames / "rgb/Camera_0/rgb_00000.jpg")
    map16(frames / "depth/Camera_0/depth_00000.png")
    identity = " ".join(str(value) for value in np.eye(4).ravel())
    (folder / "Scene01/clone/extrinsic.txt").write_text(f"head\n0 0 {identity}\n")
    (folder / "Scene01/clone/intrinsic.txt").write_text("head\n0 0 100 100 32 24\n")


def model_directory(folder: Path) -> None:
    torch.manual_seed(0)
    zoo.save_model(zoo.build("dinov2-vits14", size="debug"), folder / "model", {"name": "mine"})


def official(folder: Path) -> None:
    torch.manual_seed(0)
    weights = zoo.export_official(zoo.build("dinov2-vits14", size="debug"))
    torch.save({"model": weights, "epoch": 3}, folder / "w.pth")


def tensors(folder: Path) -> None:
    save_file({"a.weight": torch.ones(3, 4), "b": torch.ones(2)}, folder / "w.safetensors")


def store(folder: Path) -> None:
    build(manifest(folder), Sensor(), folder / "cache", views=1, size=(28, 28))


def read_store(folder: Path) -> None:
    cache = Cache.open(folder / "cache")
    cache.info()
    verify(folder / "cache")
    for index in range(len(cache)):
        cache.sample(index)


def scene(folder: Path) -> None:
    picture(folder / "a.png")
    torch.manual_seed(0)
    made = reconstruct(folder / "a.png", model=zoo.build("manyview-tiny", size="debug").eval(), device="cpu")
    made.save(folder / "scene")


def read_scene(folder: Path) -> None:
    loaded = Scene.load(folder / "scene")
    loaded.cloud()
    write_report(loaded, folder / "report.html")


def feature_folder(folder: Path) -> None:
    picture(folder / "a.png")
    torch.manual_seed(0)
    features([folder / "a.png"], model=zoo.build("dinov2-vits14", size="debug"), out=folder / "f", device="cpu")


def evaluation(folder: Path) -> None:
    work = Work.claim(folder / "e", {"views": 2}, {"model": "m"})
    work.keep_items([Item("a", "room", names={"image": "a.png"}), Item("b", "room", skipped="no depth")])
    work.note(["model"], size=[28, 42])
    work.keep_answer("model", work.items[0], {"depth": np.ones((4, 4), np.float32)})
    work.keep_measured("a", depth=np.ones((4, 4), np.float32))
    work.keep_learned("model", {"steps": 3})


def read_evaluation(folder: Path) -> None:
    work = Work.claim(folder / "e", {"views": 2}, {"model": "m"})
    items, methods = work.items, work.methods
    for method in methods:
        for item in items:
            if work.has_answer(method, item):
                work.answer(method, item)
        work.learned(method)
    work.measured("a")
    sorted(work.about), work.names


def checkpoints(folder: Path) -> None:
    network = torch.nn.Linear(2, 2)
    checkpoint.save(folder, 1, network.state_dict(), {0: {"step": torch.ones(1)}}, meta={"means": {}}, keep=1)


def read_checkpoints(folder: Path) -> None:
    if found := checkpoint.latest(folder):
        found.moments()
        checkpoint.load_weights(torch.nn.Linear(2, 2), found)


def scan(format: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> None:
        found, _ = sources.scan(folder, format=format)
        found.save(folder / "scanned.parquet")
        load_views(found, [0], (28, 28))

    return read


def picture_of_any_kind(folder: Path) -> None:
    (path,) = folder.iterdir()
    stated_focal(path)
    stored_as_seen(path)
    for read in (probe_image, read_mask, read_labels, read_image):
        with quiet():
            read(path)
    read_image(path)


def of_manifest(folder: Path) -> None:
    loaded = Manifest.load(folder / "m.parquet")
    loaded.summary()
    load_views(loaded, [0], (28, 28))
    check(loaded)


KINDS = {
    "jpeg": Kind(exif_photo, "a.jpg", picture_of_any_kind),
    "png": Kind(lambda folder: picture(folder / "a.png"), "a.png", picture_of_any_kind),
    "webp": Kind(lambda folder: picture(folder / "a.webp"), "a.webp", picture_of_any_kind),
    "gif": Kind(lambda folder: picture(folder / "a.gif"), "a.gif", picture_of_any_kind),
    "tiff": Kind(lambda folder: picture(folder / "a.tif"), "a.tif", picture_of_any_kind),
    "bmp": Kind(lambda folder: picture(folder / "a.bmp"), "a.bmp", picture_of_any_kind),
    "ppm": Kind(lambda folder: picture(folder / "a.ppm"), "a.ppm", picture_of_any_kind),
    "video": Kind(film, "a.avi", lambda folder: list(iter_video(folder / "a.avi", fps=5))),
    "pfm": Kind(pfm, "a.pfm", lambda folder: read_depth(folder / "a.pfm", 1.0)),
    "npy": Kind(npy, "a.npy", lambda folder: read_depth(folder / "a.npy", 1.0)),
    "depth png": Kind(lambda folder: map16(folder / "a.png"), "a.png", lambda f: read_depth(f / "a.png", 0.001)),
    "manifest": Kind(manifest, "m.parquet", of_manifest),
    "cameras.json": Kind(cameras_json, "cameras.json", scan("manyview")),
    "transforms.json": Kind(transforms_json, "transforms.json", scan("nerfstudio")),
    "given cameras.json": Kind(cameras_json, "cameras.json", lambda folder: read_known(folder / "cameras.json")),
    "given transforms": Kind(transforms_json, "transforms.json", lambda f: read_known(f / "transforms.json")),
    "given colmap": Kind(colmap_binary, "sparse/0/*", lambda folder: read_known(folder / "sparse/0")),
    "colmap text": Kind(colmap_text, "sparse/0/*", scan("colmap")),
    "colmap binary": Kind(colmap_binary, "sparse/0/*", scan("colmap")),
    "scannet": Kind(scannet, "scene0000_00/[ip]*/*.txt", scan("scannet")),
    "tum": Kind(tum, "*/*.txt", scan("tum")),
    "re10k": Kind(re10k, "clip.txt", scan("re10k")),
    "co3d": Kind(co3d, "cup/*.jgz", scan("co3d")),
    "tartanair": Kind(tartanair, "P000/*.txt", scan("tartanair")),
    "vkitti2": Kind(vkitti2, "Scene01/clone/*.txt", scan("vkitti2")),
    "model config": Kind(model_directory, "model/config.json", lambda folder: zoo.load(folder / "model")),
    "model weights": Kind(model_directory, "model/model.safetensors", lambda folder: zoo.load(folder / "model")),
    "pickle": Kind(official, "w.pth", lambda f: zoo.convert(f / "w.pth", "dinov2-vits14", f / "out", overwrite=True)),
    "store": Kind(store, "cache/**/*.*", read_store),
    "scene": Kind(scene, "scene/**/*.*", read_scene),
    "scene.json": Kind(scene, "scene/scene.json", read_scene),
    "features": Kind(feature_folder, "f/*.*", lambda folder: [*FeatureSet.load(folder / "f")]),
    "evaluation": Kind(evaluation, "e/**/*.*", read_evaluation),
    "checkpoint": Kind(checkpoints, "checkpoints/*/*", read_checkpoints),
    "safetensors": Kind(tensors, "w.safetensors", lambda folder: read_checkpoint(folder / "w.safetensors")),
}
