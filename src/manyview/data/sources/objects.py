"""Objects seen from several sides: NAVI's scans, and SPair-71k's pairs of things of one kind with keypoints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import rigid, rotation_from_quaternion
from manyview.data.sources.rows import Camera, Row

KEYPOINTS = "keypoint_pairs"
"""In a manifest's `info`: pairs of images with keypoints that mean the same."""
_NAVI = ("multiview[-_]*", "video*[-_]*", "wild_set")
_SPLITS = {"trn": "train", "val": "val", "test": "test"}


@SOURCES.add("navi")
@reader("OBJECT/{multiview-*,wild_set} folder with annotations.json and images", metric=True)
def navi(src: Source) -> Scenes:
    """NAVI: `OBJECT/{multiview-NN-CAMERA,video-NN-CAMERA,wild_set}/{images/N.jpg,depth/N.png,annotations.json}`.

    Layout: README of github.com/google/navi and evals/datasets/navi.py of github.com/mbanani/probe3d: annotations are a
    list of {filename, split, image_size (height, width), camera {q (real part first), t in millimetres, focal_length}},
    object to camera with OpenCV axes, the principal point in the middle; depth PNGs hold 655350 / millimetres, 0 for
    none (the object alone has depth). Copies that begin with downsampled_ are not read. A collection is a scene, its
    split `train` for multi-view ones and `test` for wild_set, as Probe3D has them. Lists of pairs lie in
    `custom_splits/pairwise_pixel_correspondences`.
    SRC: the folder of objects (v1.0, v1.5), or one object.
    """
    for folder in src.folders(*_NAVI, *(f"*/{pattern}" for pattern in _NAVI)):
        known = src.read(folder / "annotations.json", _navi_entries) or {}
        rows = []
        for image in images_of(folder / "images"):
            if "_" in image.stem:
                continue
            depth = folder / "depth" / f"{image.stem}.png"
            entry = known.get(image.stem)
            camera = None if entry is None else src.read(folder / "annotations.json", partial(_navi_camera, entry))
            split = "test" if folder.name == "wild_set" else "train"
            rows.append(Row(image=image, camera=camera, depth=depth, depth_scale=0.001, split=split))
        yield src.name(folder), rows


def _navi_entries(path: Path) -> dict[str, dict[str, Any]]:
    """An image's stem -> what is said of it."""
    return {Path(entry["filename"]).stem: entry for entry in json.loads(path.read_text())}


def _navi_camera(entry: dict[str, Any], _: Path) -> Camera:
    (height, width), camera = entry["image_size"], entry["camera"]
    focal = float(camera["focal_length"])
    world2cam = rigid(rotation_from_quaternion(camera["q"]), np.asarray(camera["t"], np.float64) / 1000)
    return Camera.of((focal, focal, width / 2, height / 2), world2cam=world2cam, size=(width, height))


@SOURCES.add("spair")
@reader("JPEGImages folder beside PairAnnotation")
def spair(src: Source) -> Scenes:
    """SPair-71k: `JPEGImages/CLASS/NAME.jpg`, and pairs with keypoints in `PairAnnotation/{trn,val,test}/*.json`.

    Layout: the data set's page (cvlab.postech.ac.kr/research/SPair-71k) as evals/datasets/spair.py of
    github.com/mbanani/probe3d and github.com/juhongm999/hpf read it: per pair category, src_imname, trg_imname,
    src_imsize, trg_imsize (width, height), src_kps and trg_kps (x, y in pixels, in the same order), trg_bndbox (left,
    top, right, bottom), viewpoint_variation. A class is a scene. Pairs of the test split go into the manifest; others
    where there is no test. Licence: images from Pascal VOC (Flickr's terms of use).
    SRC: the folder SPair-71k.
    """
    pairs: list[dict[str, Any]] = []
    for split in ("test", "val", "trn"):
        folder = src.root / "PairAnnotation" / split
        for file in sorted(folder.glob("*.json")) if folder.is_dir() and not pairs else ():
            pair = src.read(file, lambda path: _pair(json.loads(path.read_text()), _SPLITS[split]))  # noqa: B023
            pairs += [] if pair is None else [pair]
    for folder in src.folders("JPEGImages/*"):
        yield folder.name, [Row(image=image) for image in images_of(folder)]
    src.info |= {KEYPOINTS: pairs}


def _pair(said: dict[str, Any], split: str) -> dict[str, Any]:
    """A pair as the manifest keeps it: images, keypoints in pixels, the longer side of the target's box."""
    category = str(said["category"])
    left, top, right, bottom = (float(value) for value in said["trg_bndbox"])
    keys = [np.asarray(said[name], np.float64).reshape(-1, 2) for name in ("src_kps", "trg_kps")]
    if len(keys[0]) != len(keys[1]):
        raise ValueError(f"{len(keys[0])} keypoints in one image, {len(keys[1])} in the other")
    return {
        "a": f"JPEGImages/{category}/{said['src_imname']}",
        "b": f"JPEGImages/{category}/{said['trg_imname']}",
        "keys_a": keys[0].tolist(),
        "keys_b": keys[1].tolist(),
        "box": max(right - left, bottom - top),
        "category": category,
        "views": int(said.get("viewpoint_variation", -1)),
        "split": split,
    }


@SOURCES.add("coco-captions")
@reader("annotations/captions_*.json file with its folder of images")
def coco_captions(src: Source) -> Scenes:
    """COCO's captions: `annotations/captions_{train,val}2017.json` and `{train,val}2017/NNNNNNNNNNNN.jpg`.

    Layout: cocodataset.org, format of captions: images (id, file_name), annotations (image_id, caption). Of several
    files the validation's is read. Each picture is a scene of its own; captions go into the manifest. Licence:
    annotations CC BY 4.0, photos Flickr's terms of use.
    SRC: the folder with annotations and val2017.
    """
    files = sorted((src.root / "annotations").glob("captions_*.json"), key=lambda path: "val" not in path.name)
    for file in files[:1]:
        said: dict[str, Any] = src.read(file, lambda path: json.loads(path.read_text(encoding="utf-8"))) or {}
        folder = src.root / file.stem.removeprefix("captions_")
        names = {entry["id"]: str(entry["file_name"]) for entry in said.get("images", ())}
        captions: dict[str, list[str]] = {}
        for entry in _of_known(said.get("annotations", ()), names):
            captions.setdefault(f"{folder.name}/{names[entry['image_id']]}", []).append(str(entry["caption"]).strip())
        rows = [Row(image=src.root / name, split="val" if "val" in folder.name else "") for name in captions]
        src.info |= {CAPTIONS: captions}
        yield None, rows


CAPTIONS = "captions"
"""In a manifest's `info`: image -> what people say of it."""


def _of_known(entries: Iterable[dict[str, Any]], names: dict[Any, str]) -> Iterable[dict[str, Any]]:
    return (entry for entry in entries if entry["image_id"] in names)
