"""What an encoder says of a set of pictures: in memory, or one file per picture and an index.

OUT/features.json            settings, model, licence, and per picture: file, source, size, grid, affine
OUT/NAME.safetensors         patches (h, w, D), cls (D,), registers (R, D), layers.I.patches, layers.I.cls, …
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from manyview.errors import UserError
from manyview.files import parse_json, write_bytes

LAST = -1
"""Key of the last block's tokens, which are always there."""
INDEX, FORMAT, SUFFIX = "features.json", "manyview-features", ".safetensors"


@dataclass(frozen=True, repr=False, eq=False)
class Tokens:
    """Tokens of one picture after one block; what a model lacks is None."""

    patches: np.ndarray  # (h, w, D)
    cls: np.ndarray | None = None  # (D,)
    registers: np.ndarray | None = None  # (R, D)

    def __repr__(self) -> str:
        rows, columns, channels = self.patches.shape
        return f"{type(self).__name__}({rows}x{columns} patches of {channels} channels)"

    def named(self) -> dict[str, np.ndarray]:
        tokens = {"patches": self.patches, "cls": self.cls, "registers": self.registers}
        return {name: np.ascontiguousarray(value) for name, value in tokens.items() if value is not None}


@dataclass(frozen=True, repr=False, eq=False)
class ImageFeatures(Tokens):
    """Features of one picture: those of the last block, and of the blocks that were asked for."""

    layers: dict[int, Tokens] = field(default_factory=dict)
    """0-based block -> its tokens."""
    name: str = ""
    path: str | None = None
    """Source file, null for arrays."""
    frame: int | None = None
    """Frame of a video."""
    source: tuple[int, int] = (0, 0)
    """Rows and columns of the source picture."""
    size: tuple[int, int] = (0, 0)
    """Rows and columns in pixels of what the network saw."""
    affine: np.ndarray = field(default_factory=lambda: np.eye(3))
    """(3, 3) homogeneous source pixel -> network pixel; pixel centres at +0.5."""

    def __repr__(self) -> str:
        rows, columns = self.grid
        layers = f", layers {sorted(self.layers)}" if self.layers else ""
        return f"ImageFeatures({self.name!r}, {rows}x{columns} patches of {self.patches.shape[-1]} channels{layers})"

    @property
    def grid(self) -> tuple[int, int]:
        return self.patches.shape[0], self.patches.shape[1]

    def arrays(self) -> dict[str, np.ndarray]:
        """Name in the file -> array."""
        layers = {f"layers.{i}.{kind}": v for i, t in self.layers.items() for kind, v in t.named().items()}
        return {**self.named(), **layers}

    def about(self) -> dict[str, Any]:
        """What the index says of this picture."""
        return {
            "name": self.name,
            "file": f"{self.name}{SUFFIX}",
            "path": self.path,
            "frame": self.frame,
            "source": list(self.source),
            "size": list(self.size),
            "grid": list(self.grid),
            "affine": np.asarray(self.affine).tolist(),
        }


def from_arrays(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> ImageFeatures:
    """What `ImageFeatures.arrays` and `about` gave."""
    blocks: dict[int, dict[str, Any]] = {}
    for name, value in arrays.items():
        *block, kind = name.removeprefix("layers.").split(".")
        blocks.setdefault(int(block[0]) if block else LAST, {})[kind] = value
    return ImageFeatures(
        **blocks.pop(LAST),
        layers={index: Tokens(**kinds) for index, kinds in sorted(blocks.items())},
        **{key: about[key] for key in ("name", "path", "frame")},
        source=tuple(about["source"]),
        size=tuple(about["size"]),
        affine=np.array(about["affine"]),
    )


class FeatureSet:
    """A sequence of ImageFeatures. Those in a folder are read when they are asked for.

    `info` is the index: settings, model, licence, skipped pictures. `FeatureSet.load(folder)` opens one again.
    """

    def __init__(
        self, info: dict[str, Any], *, folder: Path | None = None, held: list[ImageFeatures] | None = None
    ) -> None:
        self.info, self.folder, self._held = info, folder, held

    def __len__(self) -> int:
        return len(self.info["images"])

    def __repr__(self) -> str:
        where = "in memory" if self.folder is None else f"in {self.folder}"
        return f"FeatureSet({len(self)} pictures, {self.info.get('model', 'a model')}, {where})"

    def __getitem__(self, index: int) -> ImageFeatures:
        if self._held is not None:
            return self._held[index]
        about = self.info["images"][index]
        if self.folder is None:
            raise RuntimeError("features are neither held nor in a folder")
        path = self.folder / about["file"]
        try:
            return from_arrays(load_file(path), about)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"cannot read {path}: {error}; run the command again to make it anew") from error

    def __iter__(self) -> Iterator[ImageFeatures]:
        return (self[index] for index in range(len(self)))

    @property
    def names(self) -> list[str]:
        return [about["name"] for about in self.info["images"]]

    @property
    def skipped(self) -> list[str]:
        """Pictures that gave nothing, one line each."""
        return self.info["skipped"]

    @classmethod
    def load(cls, folder: str | Path) -> FeatureSet:
        """Open a folder that `mv.features` wrote. Raises UserError when it is none."""
        return cls(read_index(Path(folder)), folder=Path(folder))


def is_features(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no features (no {INDEX}); make them with `manyview features`") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; delete it and run `manyview features` again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise UserError(f"{path} was not written by `manyview features`; choose another folder")
    if not _whole(index):
        raise UserError(f"{path} is damaged; delete it and run `manyview features` again")
    return index


def _whole(index: dict[str, Any]) -> bool:
    """Whether pictures are listed, each with a file of this very folder."""
    images, skipped = index.get("images"), index.get("skipped", [])
    return (
        isinstance(images, list)
        and all(
            isinstance(about, dict)
            and {"name", "path", "frame", "source", "size", "affine"} <= about.keys()
            and isinstance(about.get("file"), str)
            and PurePath(about["file"]).name == about["file"]
            for about in images
        )
        and isinstance(skipped, list)
        and isinstance(index.get("settings", {}), dict)
    )


def write_one(folder: Path, one: ImageFeatures, made: Mapping[str, str]) -> None:
    """Write a picture's file; `made` (digest of the settings, stamp of the picture) tells later what it is."""
    about = {**made, "about": json.dumps(one.about())}
    write_bytes(folder / f"{one.name}{SUFFIX}", save(one.arrays(), metadata=about))


def finished(folder: Path, name: str, made: Mapping[str, str]) -> dict[str, Any] | None:
    """What a whole file that was made like this says of its picture, else None."""
    path = folder / f"{name}{SUFFIX}"
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    same = all(metadata.get(key) == value for key, value in made.items())
    return parse_json(metadata["about"]) if same and "about" in metadata else None
