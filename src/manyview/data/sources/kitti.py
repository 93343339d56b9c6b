"""KITTI's depth: raw drives with the annotated depth of the depth benchmark, and the benchmark's own selection."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import matrix_of
from manyview.data.sources.rows import Camera, Row

_LIST = "eigen_test_files_with_gt.txt"
_SCALE = 1 / 256  # a 16-bit PNG holds metres times 256, 0 for none
_SELECTION = "val_selection_cropped"


@SOURCES.add("kitti")
@reader(f"DATE/DRIVE_sync/image_02/data folder, and no {_SELECTION}", metric=True)
def kitti(src: Source) -> Scenes:
    """KITTI: raw drives with annotated depth, or `val_selection_cropped` of the depth benchmark's selection.

    Drives: `DATE/DRIVE_sync/image_0[23]/data/N.png` and `DATE/calib_cam_to_cam.txt` (raw data, "synced+rectified");
    `[data_depth_annotated/]{train,val}/DRIVE_sync/proj_depth/groundtruth/image_0[23]/N.png` (depth benchmark), or the
    same without train and val. With `eigen_test_files_with_gt.txt` (train_test_inputs of github.com/cleinc/bts: image,
    depth or None, focal length a line) beside them only its pictures are read, with the split test: the 652 of Eigen's
    697 that have annotated depth. Layout: the data set's pages (cvlibs.net/datasets/kitti) as that code reads them.
    Selection: `image/NAME.png`, `groundtruth_depth/`, `intrinsics/NAME.txt`; names differ in one word. A drive is a
    scene. Poses are not read. Licence: CC BY-NC-SA 3.0.
    SRC: the folder that holds dates and depth, or depth_selection.
    """
    chosen = next((folder for folder in src.folders(_SELECTION, f"*/{_SELECTION}")), None)
    if src.root.name == _SELECTION:
        chosen = src.root
    if chosen is not None:
        yield None, [_selected(src, image) for image in images_of(chosen / "image")]
        return
    listed = src.beside(_LIST)
    wanted = None if listed is None else {line.split()[0] for line in listed.read_text().splitlines() if line.strip()}
    for drive in src.folders("*/*_sync"):
        if not (drive / "image_02").is_dir():
            continue
        known = src.read(drive.parent / "calib_cam_to_cam.txt", _projections) or {}
        rows = []
        for camera in ("image_02", "image_03"):
            matrix = known.get(f"P_rect_{camera[-2:]}:")
            for image in images_of(drive / camera / "data"):
                if wanted is not None and f"{drive.parent.name}/{drive.name}/{camera}/data/{image.name}" not in wanted:
                    continue
                depth, split = _annotated(src, drive.name, camera, image.name)
                rows.append(
                    Row(
                        image=image,
                        name=f"{camera}/{image.stem}",
                        camera=Camera.of(matrix, centre=0),
                        depth=depth,
                        depth_scale=_SCALE,
                        split=split if wanted is None else "test",
                    )
                )
        if rows:
            yield drive.name, rows


def _projections(path: Path) -> dict[str, np.ndarray]:
    """P_rect_NN: -> the (3, 3) intrinsics in it; other lines hold times and more."""
    lines = (line.split() for line in path.read_text().splitlines() if line.startswith("P_rect_"))
    return {name: np.array(words, np.float64).reshape(3, 4)[:, :3] for name, *words in lines}


def _annotated(src: Source, drive: str, camera: str, name: str) -> tuple[Path | None, str]:
    """Where the depth of a picture is, and its split."""
    for folder in (src.root, src.root / "data_depth_annotated"):
        for split in ("train", "val", ""):
            path = folder / split / drive / "proj_depth" / "groundtruth" / camera / name
            if path.is_file():
                return path, split
    return None, ""


def _selected(src: Source, image: Path) -> Row:
    folder = image.parent.parent
    camera = src.read(folder / "intrinsics" / f"{image.stem}.txt", _selected_camera)
    return Row(
        image=image,
        camera=camera,
        depth=folder / "groundtruth_depth" / image.name.replace("_image_", "_groundtruth_depth_", 1),
        depth_scale=_SCALE,
        split="val",
    )


def _selected_camera(path: Path) -> Camera:
    return Camera.of(matrix_of(path).reshape(3, 3), centre=0)
