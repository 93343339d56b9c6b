"""MegaDepth: `NNNN/denseK/{imgs,depths}`, with cameras and overlap from D2-Net's preprocessing.

Layout: megadepth_utils/preprocess_scene.py of github.com/mihaidusmanu/d2-net (`phoenix/S6/zl548/MegaDepth_v1`
holds the images and depths, `MegaDepth_v1_SfM/NNNN/sparse/manhattan/K` the COLMAP models of the original
photographs; its output is one `NNNN.K.npz` per model) and datasets_preprocess/preprocess_megadepth.py of
github.com/naver/dust3r. Depth files (.h5, needs the optional package h5py) under 100 kB hold an ordering, not
depth, and are left out, as there. The .npz files are found in the folder itself or one folder down; with one, a
scene gets poses, intrinsics and sequences (chains of positive overlap from random anchors), else poses from the
COLMAP model if that is there, and is one group. Depth and poses of a scene share one unknown scale.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.overlap import SceneInfo, chains, read_scene_info
from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.colmap_model import Model, read_model
from manyview.data.sources.poses import inverse
from manyview.data.sources.rows import (
    Collector,
    Row,
    camera_from_matrix,
    find_folders,
    images_of,
    need_scenes,
)

_LEAST_BYTES = 100 * 1024
_CHAINS, _LENGTH, _MINIMUM = 100, 64, 24


@SOURCES.add("megadepth")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder that holds MegaDepth_v1 (and maybe MegaDepth_v1_SfM and D2-Net's files), at any depth."""
    data = Collector(src, options, "megadepth")
    folders = find_folders(data.root, lambda name: name == "imgs")
    folders = [path for path in folders if path.parent.name.startswith("dense")]
    infos = {path.stem: path for pattern in ("*.npz", "*/*.npz") for path in data.root.glob(pattern)}
    for folder in need_scenes(folders, src, "NNNN/denseK/imgs folder"):
        dense = folder.parent
        scene, part = dense.parent.name, dense.name.removeprefix("dense")
        file = infos.get(f"{scene}.{part}")
        info = data.read(file, read_scene_info) if file else None
        sparse = next(data.root.glob(f"**/{scene}/sparse/manhattan/{part}"), None) if file is None else None
        model = data.read(sparse, read_model) if sparse else None
        cameras = _from_info(info) if info else _from_model(model) if model else {}
        rows = []
        for image in images_of(folder):
            camera, pose = cameras.get(image.name, (None, None))
            depth = dense / "depths" / f"{image.stem}.h5"
            measured = depth.is_file() and depth.stat().st_size >= _LEAST_BYTES
            rows.append(
                Row(
                    image=data.below(image),
                    name=image.name,
                    camera=camera,
                    cam2world=pose,
                    depth=data.below(depth) if measured else None,
                )
            )
        data.add(f"{scene}/{part}", rows)
        if info:
            folder_below = data.below(folder)
            found = chains(info.overlap, length=_LENGTH, minimum=_MINIMUM, count=_CHAINS)
            data.group(
                f"{scene}/{part}", [[f"{folder_below}/{info.names[i]}" for i in chain] for chain in found]
            )
    return data.finish()


def _from_info(info: SceneInfo) -> dict[str, tuple]:
    """File name -> camera and cam2world, as D2-Net has them (COLMAP's pixel centres)."""
    known = {}
    for name, pose, lens in zip(info.names, info.world2cam, info.intrinsics, strict=True):
        if name is not None and pose is not None and lens is not None:
            known[name] = (camera_from_matrix(lens, centre=0.5), inverse(pose))
    return known


def _from_model(model: Model) -> dict[str, tuple[None, np.ndarray]]:
    """Poses only: the model's cameras are those of the original, distorted photographs."""
    return {Path(photo.name).name: (None, photo.cam2world) for photo in model.photos}
