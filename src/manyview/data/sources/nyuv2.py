"""NYU Depth v2: `nyu_depth_v2_labeled.mat` (1,449 labelled frames), or folders of `rgb_N.jpg` and `sync_depth_N.png`.

Layout of the .mat file (MATLAB 7.3, that is HDF5, axes reversed): the data set's page at cs.nyu.edu/~silberman, as read
by datasets/extract_official_train_test_set_from_mat.py of github.com/cleinc/bts: images (N, 3, W, H), rawDepths
and depths (N, W, H) in metres, labels (N, W, H) from 0, unlabelled, to 894, scenes as references to text. Beside it
splits.mat (trainNdxs, testNdxs from 1) gives the split. Frames are written beside the manifest, since nothing
else can read them there. Depth is the sensor's own (rawDepths), as that script evaluates, or the filled one.

Classes: `--classes 40` (the default) needs classMapping40.mat (mapClass, Gupta's 40), `--classes 13` also
class13Mapping.mat of github.com/ankurhanda/nyuv2-meta-data (classMapping13.labels13, from the 40), both beside the
.mat file; `--classes 894` keeps what is stored, minus 1. Which one DUNE's column means is unverified.

Folders: train_test_inputs and utils of github.com/cleinc/bts: any depth of folders, each a scene, depth in millimetres.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from manyview.data.depths import open_hdf5
from manyview.data.manifest import LABEL_MAP, NO_CLASS, Frame
from manyview.data.sources.base import SOURCES, Scanned, ScanOptions, claim
from manyview.data.sources.rows import Collector, Row, find_files, need_scenes
from manyview.errors import UserError
from manyview.files import write_bytes
from manyview.progress import track

FILE = "nyu_depth_v2_labeled.mat"
_STORED = 894
_MISSING = "--classes {0} needs {1} beside {2}; put it there, or keep the stored numbers with --classes 894"


@SOURCES.add("nyuv2")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The .mat file, the folder it lies in, or a folder of folders of rgb_N.jpg."""
    file = src / FILE if src.is_dir() else src
    if src.is_dir() and not file.is_file():
        return _folders(src, options)
    return _labelled(file, options)


def _folders(src: Path, options: ScanOptions) -> Scanned:
    data = Collector(src, options, "nyuv2")
    scenes: dict[Path, list[Row]] = {}
    for image in find_files(
        data.root, lambda name: name.startswith("rgb_") and name.endswith((".jpg", ".png"))
    ):
        depth = image.with_name(f"sync_depth_{image.stem.removeprefix('rgb_')}.png")
        split = next((part for part in ("train", "test") if part in image.relative_to(data.root).parts), "")
        row = Row(image=data.below(image), depth=data.below(depth), depth_scale=0.001, split=split)
        scenes.setdefault(image.parent, []).append(row)
    need_scenes(list(scenes), src, f"{FILE}, and no rgb_N.jpg with sync_depth_N.png")
    for folder, rows in scenes.items():
        data.add(data.below(folder) if folder != data.root else data.root.name, rows)
    return data.found


def _labelled(file: Path, options: ScanOptions) -> Scanned:
    if options.extract_to is None:
        raise UserError(f"frames of {file} need a place; name the manifest with -o, they go beside it")
    names, table = _classes(file, options.classes or 40)
    folder = options.extract_to.resolve()
    claim(folder, file, "*/[0-9]*.png")
    root = folder.parent
    collector = Collector(root, options, "nyuv2")
    splits = _splits(collector, file.parent / "splits.mat")
    try:
        with open_hdf5(file) as stored:
            _extract(stored, file, folder, options, (collector, splits))
    except UserError:
        raise
    except (OSError, KeyError, ValueError, IndexError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{file} is not {FILE}, or is damaged: {said}; download it again") from error
    found = collector.found
    found.info |= {"classes": names, LABEL_MAP: table}
    return found


def _extract(
    stored: Any, file: Path, folder: Path, options: ScanOptions, into: tuple[Collector, dict[int, str]]
) -> None:
    """Write the wanted frames that are not there yet, and list them."""
    collector, splits = into
    images, labels = stored["images"], stored["labels"]
    depths = stored["rawDepths"] if "rawDepths" in stored else stored["depths"]
    if not len(images) == len(labels) == len(depths):
        raise ValueError(f"{len(images)} images, {len(depths)} depth maps, {len(labels)} label maps")
    for index in track(options.pick(range(len(images))), label=file.stem, unit="frame"):
        paths = {kind: folder / kind / f"{index + 1:04d}.png" for kind in ("images", "depth", "labels")}
        image = np.transpose(images[index], (2, 1, 0))
        depth, label = (np.transpose(maps[index]) for maps in (depths, labels))
        if not image.shape[:2] == depth.shape == label.shape:
            collector.problem(
                paths["images"], f"image {image.shape}, depth {depth.shape}, labels {label.shape}"
            )
            continue
        metres = np.where(np.isfinite(depth), depth, 0)
        _write(paths["images"], image.astype(np.uint8))
        _write(paths["depth"], np.clip(metres * 1000 + 0.5, 0, 65535).astype(np.uint16))
        _write(paths["labels"], label.astype(np.uint16))
        relative = {kind: collector.below(path) for kind, path in paths.items()}
        collector.found.frames.append(
            Frame(
                options.dataset or "nyuv2", _scene(stored, index), f"{index + 1:04d}",
                options.split or splits.get(index + 1, ""), relative["images"], image.shape[1], image.shape[0],
                depth=relative["depth"], depth_scale=0.001, labels=relative["labels"],
            )
        )  # fmt: skip


def _write(path: Path, values: np.ndarray) -> None:
    if path.is_file():
        return
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, "PNG")
    write_bytes(path, buffer.getbuffer())


def _scene(stored: Any, index: int) -> str:
    """The name of the place, such as kitchen_0004; the frame's number where the file has none."""
    if "scenes" not in stored:
        return f"{index + 1:04d}"
    characters = stored[np.ravel(stored["scenes"])[index]]
    return "".join(chr(int(code)) for code in np.ravel(characters))


def _splits(collector: Collector, file: Path) -> dict[int, str]:
    """Number of a frame, from 1 on -> train or test; nothing without the file."""
    if not file.is_file():
        collector.problem(file.name, "no such file beside the .mat file; the frames have no split")
        return {}
    known = _matlab(file)
    keys = {"train": "trainNdxs", "test": "testNdxs"}
    return {number: name for name, key in keys.items() for number in _numbers(known, key, file)}


def _classes(file: Path, count: int) -> tuple[list[str], list[int]]:
    """Names of the classes, and the class of every stored number."""
    if count == _STORED:
        return [f"label {number}" for number in range(1, _STORED + 1)], _minus_one(range(1, _STORED + 1))
    if count not in (13, 40):
        raise UserError(f"--classes {count}: NYU Depth v2 has 40, 13 or 894 classes")
    tables = []
    for name, key in (("classMapping40.mat", "mapClass"), ("class13Mapping.mat", "labels13"))[
        : 1 + (count == 13)
    ]:
        path = file.parent / name
        if not path.is_file():
            raise UserError(_MISSING.format(count, name, file))
        tables.append(_numbers(_matlab(path), key, path))
    if count == 13 and max(tables[0]) > len(tables[1]):
        raise UserError(
            f"{path} has {len(tables[1])} numbers, classMapping40.mat goes up to {max(tables[0])}"
        )
    to_class = tables[0] if count == 40 else [tables[1][number - 1] if number else 0 for number in tables[0]]
    return [f"class {number}" for number in range(1, count + 1)], _minus_one(to_class)


def _matlab(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        return dict(loadmat(path, squeeze_me=True))
    except Exception as error:  # decoders raise anything on damaged data
        raise UserError(
            f"{path} cannot be read as a MATLAB file: {' '.join(str(error).split())}; download it again"
        ) from error


def _numbers(known: dict[str, Any], key: str, path: Path) -> list[int]:
    """A list of whole numbers in a MATLAB file, on its own or as a field of a structure."""
    structures = [value for value in known.values() if getattr(value, "dtype", None) is not None]
    fields = [value[key].item() for value in structures if key in (value.dtype.names or ())]
    found = [known[key]] if key in known else fields
    if not found:
        raise UserError(f"{path} holds no {key}; it is another file of that name")
    return [int(number) for number in np.ravel(found[0])]


def _minus_one(classes: Iterable[int]) -> list[int]:
    """Classes from 1, 0 for none, of the numbers from 1 on -> classes from 0 of the numbers from 0 on."""
    return [NO_CLASS, *(number - 1 if number else NO_CLASS for number in classes)]
