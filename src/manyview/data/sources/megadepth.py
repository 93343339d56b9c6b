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

from manyview.data.overlap import SceneInfo, chains, read_scene_info
from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.colmap_model import Model, read_model
from manyview.data.sources.poses import inverse
from manyview.data.sources.rows import Camera, Row, lens_of

_LEAST_BYTES = 100 * 1024
_CHAINS, _LENGTH, _MINIMUM = 100, 64, 24


@SOURCES.add("megadepth")
@reader("NNNN/denseK/imgs folder")
def scenes(src: Source) -> Scenes:
    """The folder that holds MegaDepth_v1 (and maybe MegaDepth_v1_SfM and D2-Net's files), at any depth."""
    infos = {path.stem: path for pattern in ("*.npz", "*/*.npz") for path in src.root.glob(pattern)}
    for folder in src.folders_named("imgs".__eq__):
        dense = folder.parent
        if not dense.name.startswith("dense"):
            continue
        number, part = dense.parent.name, dense.name.removeprefix("dense")
        file = infos.get(f"{number}.{part}")
        info = src.read(file, read_scene_info) if file else None
        sparse = None if file else next(src.root.glob(f"**/{number}/sparse/manhattan/{part}"), None)
        model = src.read(sparse, read_model) if sparse else None
        cameras = _from_info(info) if info else _from_model(model) if model else {}
        rows = []
        for image in images_of(folder):
            depth = dense / "depths" / f"{image.stem}.h5"
            measured = depth.is_file() and depth.stat().st_size >= _LEAST_BYTES
            camera = cameras.get(image.name)
            rows.append(Row(image=image, name=image.name, camera=camera, depth=depth if measured else None))
        yield f"{number}/{part}", rows
        linked = chains(info.overlap, length=_LENGTH, minimum=_MINIMUM, count=_CHAINS) if info else []
        names = info.names if info else []
        src.group(f"{number}/{part}", [[folder / str(names[i]) for i in chain] for chain in linked])


def _from_info(info: SceneInfo) -> dict[str, Camera]:
    """File name -> camera, as D2-Net has them (COLMAP's pixel centres)."""
    return {
        name: Camera(lens_of(lens), inverse(pose))
        for name, pose, lens in zip(info.names, info.world2cam, info.intrinsics, strict=True)
        if name is not None and pose is not None and lens is not None
    }


def _from_model(model: Model) -> dict[str, Camera]:
    """Poses only: the model's cameras are those of the original, distorted photographs."""
    return {Path(photo.name).name: Camera(None, photo.camera.cam2world) for photo in model.photos}
