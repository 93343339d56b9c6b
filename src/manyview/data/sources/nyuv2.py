"""NYU Depth v2, whose labelled frames lie in one MATLAB file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.depths import open_hdf5
from manyview.data.manifest import LABEL_MAP, NO_CLASS
from manyview.data.sources.base import SOURCES, ScanOptions, Scenes, Source, claim, reader
from manyview.data.sources.rows import Row
from manyview.errors import UserError
from manyview.images.reading import ImageProblem
from manyview.images.writing import write_picture

FILE = "nyu_depth_v2_labeled.mat"
NORMALS = "all_normals.npy"
_STORED = 894
_TO_40, _TO_13 = ("classMapping40.mat", "mapClass"), ("class13Mapping.mat", "labels13")
_MAPPINGS = {_STORED: (), 40: (_TO_40,), 13: (_TO_40, _TO_13)}
"""Number of classes -> files, and their lists, that lead from the stored numbers to these."""


@dataclass(frozen=True, kw_only=True)
class NyuOptions(ScanOptions):
    """What of NYU Depth v2 is wanted."""

    classes: int = 40
    """How many classes the labels of the .mat file get: 40, 13, or the 894 stored ones."""


@SOURCES.add("nyuv2")
@reader(f"{FILE}, and no rgb_N.jpg with sync_depth_N.png", options=NyuOptions)
def nyuv2(src: Source[NyuOptions]) -> Scenes:
    """NYU Depth v2: `nyu_depth_v2_labeled.mat` (1,449 labelled frames), or folders of `rgb_N.jpg`, `sync_depth_N.png`.

    Layout of the .mat file (MATLAB 7.3, that is HDF5, axes reversed): the data set's page at cs.nyu.edu/~silberman, as
    read by datasets/extract_official_train_test_set_from_mat.py of github.com/cleinc/bts: images (N, 3, W, H),
    rawDepths and depths (N, W, H) in metres, labels (N, W, H) from 0, unlabelled, to 894, scenes as references to text.
    Beside it splits.mat (trainNdxs, testNdxs from 1) gives the split. Frames are written beside the manifest, since
    nothing else can read them there. Depth is the sensor's own (rawDepths), as that script evaluates, or the filled
    one.
    Classes: `--classes 40` (the default) needs classMapping40.mat (mapClass, Gupta's 40), `--classes 13` also
    class13Mapping.mat of github.com/ankurhanda/nyuv2-meta-data (classMapping13.labels13, from the 40), both beside the
    .mat file; `--classes 894` keeps what is stored, minus 1. Which one DUNE's column means is unverified.
    Normals: `all_normals.npy` (N, H, W, 3) beside the .mat file goes into `normals/` beside the depth: the array of
    all_normals.pklz of Facebook's SSL benchmark (Ladicky's), which is pickled and therefore not read here.
    Folders: train_test_inputs and utils of github.com/cleinc/bts: any depth of folders, each a scene, depth in
    millimetres.
    SRC: the .mat file, the folder it lies in, or a folder of folders of rgb_N.jpg.
    """
    file = src.path / FILE if src.path.is_dir() else src.path
    yield from _labelled(src, file) if file.is_file() else _folders(src)


def _folders(src: Source) -> Scenes:
    rows_by_folder: dict[Path, list[Row]] = {}
    for image in src.files_named(lambda name: name.startswith("rgb_") and name.endswith((".jpg", ".png"))):
        depth = image.with_name(f"sync_depth_{image.stem.removeprefix('rgb_')}.png")
        split = next((part for part in ("train", "test") if part in image.relative_to(src.root).parts), "")
        row = Row(image=image, depth=depth, depth_scale=0.001, split=split)
        rows_by_folder.setdefault(image.parent, []).append(row)
    for folder, rows in rows_by_folder.items():
        yield src.name(folder), rows


def _labelled(src: Source[NyuOptions], file: Path) -> Scenes:
    folder = src.extract_to()
    src.info |= _classes(file, src.options.classes or 40)
    claim(folder, file, "*/[0-9]*.png")
    lists, splits = file.parent / "splits.mat", dict[int, str]()  # of frames that are counted from 1
    if lists.is_file():
        splits = {number: split for split in ("train", "test") for number in _listed(lists, f"{split}Ndxs")}
    else:
        src.problem(lists.name, "no such file beside the .mat file; the frames have no split")
    with _whole(file):
        stored = open_hdf5(file)
        rows = _rows(stored, file, folder, splits)
    with stored:
        yield None, rows


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Turn what h5py raises for another or a damaged file into a UserError."""
    try:
        yield
    except UserError:
        raise
    except (OSError, KeyError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is not {FILE}, or is damaged: {reason}; download it again") from error


def _rows(stored: Any, file: Path, folder: Path, splits: dict[int, str]) -> list[Row]:
    """A row for every frame of the file; its pictures are written once they are wanted."""
    images, labels = stored["images"], stored["labels"]
    depths = stored["rawDepths"] if "rawDepths" in stored else stored["depths"]
    if not len(images) == len(labels) == len(depths):
        raise ValueError(f"{len(images)} images, {len(depths)} depth maps, {len(labels)} label maps")
    places = np.ravel(stored["scenes"]) if "scenes" in stored else ()
    rows = []
    for index in range(len(images)):
        name = f"{index + 1:04d}"
        row = Row(
            image=folder / "images" / f"{name}.png",
            name=name,
            scene="".join(chr(int(code)) for code in np.ravel(stored[places[index]])) if len(places) else name,
            depth=folder / "depth" / f"{name}.png",
            depth_scale=0.001,
            labels=folder / "labels" / f"{name}.png",
            split=splits.get(index + 1, ""),
        )
        rows.append(replace(row, write=partial(_extract, row, file, images, depths, labels, index)))
    return rows


def _extract(row: Row, file: Path, images: Any, depths: Any, labels: Any, index: int) -> None:
    """Write the three pictures of a frame that are not there yet. Raises ImageProblem when they do not fit."""
    with _whole(file):
        image = np.transpose(images[index], (2, 1, 0))
        depth, label = (np.transpose(maps[index]) for maps in (depths, labels))
    if not image.shape[:2] == depth.shape == label.shape:
        raise ImageProblem(row.image, f"image {image.shape}, depth {depth.shape}, labels {label.shape}")
    metres = np.where(np.isfinite(depth), depth, 0)
    millimetres = np.clip(metres * 1000 + 0.5, 0, 65535).astype(np.uint16)
    pictures = ((row.image, image.astype(np.uint8)), (row.depth, millimetres), (row.labels, label.astype(np.uint16)))
    for path, values in pictures:
        if path is not None and not path.is_file():
            write_picture(path, values)
    normals = row.image.parent.parent / "normals" / f"{row.name}.npy"
    if (every := file.parent / NORMALS).is_file() and not normals.is_file():
        normals.parent.mkdir(parents=True, exist_ok=True)
        np.save(normals, np.asarray(np.load(every, mmap_mode="r", allow_pickle=False)[index], np.float32))


def _classes(file: Path, count: int) -> dict[str, list[Any]]:
    """Names of the classes, and the class of every stored number."""
    if count not in (13, 40, _STORED):
        raise UserError(f"--classes {count}: NYU Depth v2 has 40, 13 or 894 classes")
    class_of = list(range(1, _STORED + 1))  # of the numbers from 1 on; 0 is none
    for name, key in _MAPPINGS[count]:
        path = file.parent / name
        if not path.is_file():
            raise UserError(
                f"--classes {count} needs {name} beside {file}; put it there, or keep the stored numbers with "
                f"--classes {_STORED}"
            )
        further = [0, *_listed(path, key)]
        if max(class_of) >= len(further):
            raise UserError(f"{path} has {len(further) - 1} numbers, {max(class_of)} are needed")
        class_of = [further[number] for number in class_of]
    word = "label" if count == _STORED else "class"
    table = [NO_CLASS, *(number - 1 if number else NO_CLASS for number in class_of)]
    return {"classes": [f"{word} {number}" for number in range(1, count + 1)], LABEL_MAP: table}


def _listed(path: Path, key: str) -> list[int]:
    """A list of whole numbers in a MATLAB file, on its own or as a field of a structure."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, squeeze_me=True)
    except Exception as error:  # decoders raise anything on damaged data
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as a MATLAB file: {reason}; download it again") from error
    structures = [value for value in content.values() if isinstance(value, np.ndarray) and value.dtype.names]
    lists = [content[key]] if key in content else [s[key].item() for s in structures if key in s.dtype.names]
    if not lists:
        raise UserError(f"{path} holds no {key}; it is another file of that name")
    return [int(number) for number in np.ravel(lists[0])]
