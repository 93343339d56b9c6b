"""The scene directory on disk: `scene.json`, PNG images and .npy maps (docs/scene-format.md describes it)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import numpy as np
from PIL import Image

from manyview.cameras.tracks import RestsOn, Tracks
from manyview.errors import UserError
from manyview.files import load_arrays, parse_json, save_arrays, write_json, write_npy
from manyview.images.writing import encoded
from manyview.scene.views import SceneView, Source
from manyview.written import fresh_directory, refuse_changed, settle

if TYPE_CHECKING:
    from manyview.scene.scene import Scene

T = TypeVar("T")
FORMAT = "manyview-scene"
VERSION = 2  # 2 says what each pose rests on; 1 is read
WHAT = "scene"
"""What the record of written files calls it."""
_PICTURES = ("PNG", "JPEG")


def is_scene(directory: Path) -> bool:
    """Whether `directory` holds a scene of any version."""
    try:
        header = parse_json((directory / "scene.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT


def save(scene: Scene, directory: Path, *, overwrite: bool = False) -> Path:
    """Write everything apart, then move it into place; files of the user's are replaced only with `overwrite`."""
    with fresh_directory(directory, what=WHAT, overwrite=overwrite) as fresh:
        (fresh / "images").mkdir()
        (fresh / "maps").mkdir()
        header = {
            "format": FORMAT,
            "version": VERSION,
            "frame": scene.frame,
            "scale": scene.scale,
            "scale_source": scene.scale_source,
            "views": [_write_view(view, index, fresh) for index, view in enumerate(scene.views)],
            "info": scene.info,
        }
        if scene.tracks is not None:
            save_arrays(fresh / "tracks.npz", **vars(scene.tracks))
        write_json(fresh / "scene.json", header)
    return directory


def _write_view(view: SceneView, index: int, root: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": view.name,
        "image": f"images/{index:04d}.png",
        "depth": f"maps/{index:04d}-depth.npy",
        "confidence": f"maps/{index:04d}-confidence.npy",
        "intrinsics": view.intrinsics,
        "cam2world": view.cam2world,
        "registered": view.registered,
        "rests_on": view.rests_on,
        "component": view.component,
        "inliers": view.inliers,
        "error_px": view.error_px,
    }
    (root / entry["image"]).write_bytes(encoded(view.image))
    write_npy(root / entry["depth"], np.asarray(view.depth, np.float32))
    write_npy(root / entry["confidence"], np.asarray(view.confidence, np.float32))
    if view.contradicted is not None:
        entry["contradicted"] = f"maps/{index:04d}-contradicted.npy"
        write_npy(root / entry["contradicted"], np.asarray(view.contradicted, bool))
    if view.raw_pointmap is not None:
        entry["pointmap"] = f"maps/{index:04d}-pointmap.npy"
        write_npy(root / entry["pointmap"], np.asarray(view.raw_pointmap, np.float32))
    for name, values, kind in (("labels", view.labels, np.int16), ("scores", view.scores, np.float16)):
        if values is not None:
            entry[name] = f"maps/{index:04d}-{name}.npy"
            write_npy(root / entry[name], np.asarray(values, kind))
    for number, (space, features) in enumerate(view.features.items()):
        (root / "features").mkdir(exist_ok=True)
        entry.setdefault("features", {})[space] = f"features/{index:04d}-{number}.npy"
        write_npy(root / entry["features"][space], np.asarray(features, np.float16))
    source = view.source
    entry["source"] = {
        "path": source.path,
        "frame": source.frame,
        "height": source.size[0],
        "width": source.size[1],
        "intrinsics": source.intrinsics,
        "affine": source.affine,
        "image": None,
    }
    if source.pixels is not None:
        entry["source"]["image"] = f"sources/{index:04d}.png"
        (root / "sources").mkdir(exist_ok=True)
        (root / entry["source"]["image"]).write_bytes(encoded(source.pixels))
    entry["info"] = view.info
    return entry


def load(directory: Path, *, verify: bool = False) -> tuple[list[SceneView], dict[str, Any]]:
    """A scene's views and its other fields. Raises UserError when it is none, of a newer version, or damaged."""
    path = directory / "scene.json"
    settle(directory)
    if verify:
        refuse_changed(directory, WHAT)
    if not path.is_file():
        raise UserError(f"{directory} holds no scene.json; `manyview reconstruct IMAGES -o {directory}` makes one")
    if not is_scene(directory):
        raise UserError(f"{path} is not a manyview scene; `manyview reconstruct IMAGES -o DIR` makes one")
    header = parse_json(path.read_text(encoding="utf-8"))
    try:
        if _typed(header.get("version", 0), int) > VERSION:
            raise UserError(
                f"{path} is version {header['version']}, this program reads up to {VERSION}; update manyview"
            )
        views = [_read_view(entry, directory) for entry in header["views"]]
        if not views:
            raise ValueError("it has no views")
        fields = {name: _typed(header[name], str) for name in ("frame", "scale", "scale_source")}
        shared = directory / "tracks.npz"
        tracks = Tracks(**load_arrays(shared)) if shared.is_file() else None
        return views, {**fields, "info": _info(header), "tracks": tracks}
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything on damaged data
        raise UserError(f"{path}: the scene is damaged ({error}); reconstruct it again") from error


def _typed(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"{str(value)[:40]!r} is no {kind.__name__}")
    return value


def _info(entry: dict[str, Any]) -> dict[str, Any]:
    """What is said of a scene or a view; lines for people are lists of text."""
    info = _typed(entry.get("info", {}), dict)
    for name in ("warnings", "skipped", "left_out"):
        for line in _typed(info.get(name, []), list):
            _typed(line, str)
    for pair in _typed(info.get("unlinked", []), list):
        one, other = _typed(pair["views"], list)
        for value, kind in (
            (one, str),
            (other, str),
            (pair["matches"], int),
            (pair["agreeing"], int),
            (pair["why"], str),
        ):
            _typed(value, kind)
    return info


def _matrix(values: Any, side: int) -> np.ndarray:
    matrix = np.array(values, np.float64).reshape(side, side)
    if not np.isfinite(matrix).all():
        raise ValueError("a camera has numbers that are not finite")
    return matrix


def _read_view(entry: dict[str, Any], root: Path) -> SceneView:
    with Image.open(_inside(root, entry["image"]), formats=_PICTURES) as picture:
        image = np.asarray(picture.convert("RGB"))
    maps = {
        key: _array(_inside(root, entry[key]))
        for key in ("depth", "confidence", "pointmap", "contradicted", "labels", "scores")
        if entry.get(key)
    }
    for key, array in maps.items():
        if array.shape[:2] != image.shape[:2]:
            raise ValueError(f"{entry[key]} is {array.shape[:2]}, its image {image.shape[:2]}")
    described = entry["source"]
    pixels = None
    if described.get("image"):
        with Image.open(_inside(root, described["image"]), formats=_PICTURES) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    source = Source(
        size=(int(described["height"]), int(described["width"])),
        affine=_matrix(described["affine"], 3),
        intrinsics=_matrix(described["intrinsics"], 3),
        path=None if described.get("path") is None else _typed(described["path"], str),
        frame=None if described.get("frame") is None else int(described["frame"]),
        pixels=pixels,
    )
    rests_on = _rests_on(entry)
    return SceneView(
        name=_typed(entry["name"], str),
        image=image,
        depth=maps["depth"],
        confidence=maps["confidence"],
        intrinsics=_matrix(entry["intrinsics"], 3),
        cam2world=None if rests_on == "nothing" else _matrix(entry["cam2world"], 4),
        source=source,
        raw_pointmap=maps.get("pointmap"),
        contradicted=maps.get("contradicted"),
        rests_on=rests_on,
        component=int(entry.get("component", 0)),
        inliers=int(entry.get("inliers", 0)),
        error_px=None if entry.get("error_px") is None else float(entry["error_px"]),
        info=_info(entry),
        features={s: _features(_inside(root, file)) for s, file in entry.get("features", {}).items()},
        labels=maps.get("labels"),
        scores=maps.get("scores"),
    )


def _array(path: Path) -> np.ndarray:
    """An array of a .npy that holds as much as it states; mapping it first allocates nothing."""
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False))


def _features(path: Path) -> np.ndarray:
    features = _array(path)
    if features.ndim != 3 or not features.size:
        raise ValueError(f"{path.name} is {features.shape}, not (h, w, D)")
    return features


def _rests_on(entry: dict[str, Any]) -> RestsOn:
    """As stored; in a scene of version 1 a pose was given, or the model's word."""
    stored = entry.get("rests_on", "given" if entry.get("info", {}).get("pose") == "given" else "model")
    if stored not in get_args(RestsOn):
        raise ValueError(f"a pose rests on {stored!r}")
    kind: RestsOn = stored
    return kind


def _inside(root: Path, relative: str) -> Path:
    """A path of the scene's own; a scene file from elsewhere may not name files outside its directory."""
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise UserError(
            f"{root / 'scene.json'} names {relative!r}, which lies outside the scene; do not trust this file"
        )
    return path
