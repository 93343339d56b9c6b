"""The manifest: one Parquet file that says what lies on disk, a row per frame, paths relative to one root.

The root is kept in the file's metadata, relative to the manifest's own folder whenever the two share a
folder, so that both can be moved together. Nothing in a manifest can reach outside the root.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from manyview.errors import UserError
from manyview.files import natural_key, write_bytes

VERSION = 1
NO_CLASS = -1  # what pixels hold that show no class
LABEL_MAP = "label_map"  # in `info`: the class of every number that the label files hold
_TEXTS = ("dataset", "scene", "frame", "split", "image")
_CAMERA = ("fx", "fy", "cx", "cy")


@dataclass(frozen=True, slots=True)
class Frame:
    """One image and what is known of it. Intrinsics are for the upright image, pixel centres at +0.5."""

    dataset: str
    scene: str
    frame: str
    split: str
    image: str  # this and every other path: relative to the manifest's root, with forward slashes
    width: int
    height: int
    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    cam2world: tuple[float, ...] | None = None  # 16 numbers, row by row, OpenCV axes
    depth: str | None = None
    depth_scale: float | None = None  # metres (scene units) = stored value * depth_scale
    labels: str | None = None
    instances: str | None = None

    @property
    def intrinsics(self) -> np.ndarray | None:
        """(3, 3) float64 pixels."""
        if self.fx is None:
            return None
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    @property
    def pose(self) -> np.ndarray | None:
        """(4, 4) float64 cam2world."""
        return None if self.cam2world is None else np.array(self.cam2world, np.float64).reshape(4, 4)


class Manifest:
    """Frames and the folder their paths start from."""

    def __init__(self, frames: Iterable[Frame], root: str | Path, info: dict[str, Any] | None = None) -> None:
        self.frames = list(frames)
        self.root = Path(root).resolve()
        self.info = dict(info or {})

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[index]

    def path(self, relative: str) -> Path:
        """Absolute path of a file of this manifest. Raises UserError for one that would leave the root."""
        return inside(self.root, relative)

    def scenes(self) -> dict[str, list[int]]:
        """Scene -> its frames' indices, both in natural order; dataset/scene where a name occurs twice."""
        groups: dict[tuple[str, str], list[int]] = {}
        for index, frame in enumerate(self.frames):
            groups.setdefault((frame.dataset, frame.scene), []).append(index)
        names = Counter(scene for _, scene in groups)
        ordered = sorted(groups, key=lambda key: (natural_key(key[1]), natural_key(key[0])))
        return {
            scene if names[scene] == 1 else f"{dataset}/{scene}": sorted(
                groups[dataset, scene], key=lambda i: natural_key(self.frames[i].frame)
            )
            for dataset, scene in ordered
        }

    def select(
        self,
        frames: str | slice | None = None,
        stride: int = 1,
        *,
        scenes: Sequence[str] | None = None,
        split: str | None = None,
    ) -> Manifest:
        """Frames A:B (positions in each scene, from 0, B excluded), every `stride`-th, of these scenes."""
        span = frames if isinstance(frames, slice) else parse_span(frames)
        groups = self.scenes()
        unknown = sorted(set(scenes or ()) - set(groups))
        if unknown:
            raise UserError(f"no scene {unknown[0]!r} in the manifest; known: {', '.join(list(groups)[:12])}")
        kept: list[int] = []
        for scene, indices in groups.items():
            if scenes is None or scene in scenes:
                kept += every(indices[span], stride)
        chosen = [self.frames[i] for i in kept if split is None or self.frames[i].split == split]
        if not chosen:
            raise UserError(f"no frame is left of {len(self)} after the selection; widen it")
        return Manifest(chosen, self.root, self.info)

    def summary(self) -> dict[str, Any]:
        """Counts of frames and of what is known, over all and per scene; sizes WxH, most frequent first."""
        scenes = {}
        for name, indices in self.scenes().items():
            frames = [self.frames[i] for i in indices]
            sizes = Counter(f"{frame.width}x{frame.height}" for frame in frames)
            splits = ", ".join(sorted({frame.split for frame in frames}))
            common = {
                "dataset": frames[0].dataset,
                "split": splits,
                "sizes": [size for size, _ in sizes.most_common()],
            }
            scenes[name] = {**common, **_counts(frames)}
        return {**_counts(self.frames), "scenes": scenes}

    def digest(self) -> str:
        """SHA-256 of the rows and of what labels mean: the same wherever the files lie."""
        names = [field.name for field in dataclasses.fields(Frame)]
        rows: list[Any] = [[getattr(frame, name) for name in names] for frame in self.frames]
        if LABEL_MAP in self.info:
            rows.append([LABEL_MAP, self.info[LABEL_MAP]])
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write the Parquet file, whole or not at all. Raises UserError when that is impossible."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        check_frames(self.frames, path)
        header = {"version": VERSION, "root": _portable(self.root, path), "info": self.info}
        schema = _schema().with_metadata({"manyview": json.dumps(header)})
        columns = {name: [getattr(frame, name) for frame in self.frames] for name in schema.names}
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd")
        write_bytes(path, memoryview(buffer.getvalue()))
        return path

    @classmethod
    def load(cls, path: str | Path, root: str | Path | None = None, *, check_files: bool = True) -> Manifest:
        """Read a manifest. Raises UserError when it is none, a row makes no sense, or its files moved.

        `root` replaces the stored one; `check_files=False` leaves out the look at the first image.
        """
        path = Path(path)
        rows, header = _read_table(path)
        frames = [_frame(row) for row in rows]
        check_frames(frames, path)
        folder = Path(header["root"]) if root is None else Path(root)
        if root is None and not folder.is_absolute():
            folder = path.resolve().parent / folder
        manifest = cls(frames, folder, header.get("info"))
        if check_files and frames and not manifest.path(frames[0].image).exists():
            raise UserError(
                f"{path}: its files have moved, there is no {manifest.root / frames[0].image}; "
                "move them back (or move the manifest with them), or run manyview data scan again"
            )
        return manifest


def inside(root: Path, relative: str) -> Path:
    """`relative` under the resolved root. Raises UserError for `..`, absolute paths and links that leave."""
    pure, windows = PurePosixPath(relative), PureWindowsPath(relative)
    if not relative or "\0" in relative or pure.is_absolute() or windows.anchor or ".." in windows.parts:
        raise UserError(f"{relative!r} is not a plain path under {root}; name files inside that folder")
    path = root / pure
    if not Path(os.path.realpath(path)).is_relative_to(root):
        raise UserError(f"{path} is a link that leaves {root}; copy the file there, then scan again")
    return path


def parse_span(text: str | None) -> slice:
    """'A:B' as a slice; None or ':' is everything. Raises UserError."""
    if text is None:
        return slice(None)
    parts = text.split(":")
    try:
        if len(parts) != 2:
            raise ValueError
        start, stop = (int(part) if part.strip() else None for part in parts)
    except ValueError:
        raise UserError(f"frames {text!r} is not A:B; give two whole numbers, for example 0:60") from None
    return slice(start, stop)


def every(items: list[Any], stride: int) -> list[Any]:
    """Every `stride`-th item, from the first. Raises UserError for a stride below 1."""
    if stride < 1:
        raise UserError(f"stride {stride} selects nothing; give 1 or more")
    return items[::stride]


def pose_problem(matrix: np.ndarray) -> str | None:
    """What is wrong with a (4, 4) cam2world, or None: it must be finite and rigid."""
    if matrix.shape != (4, 4):
        return f"has shape {matrix.shape}, not (4, 4)"
    if not np.isfinite(matrix).all():
        return "has NaN or infinite entries"
    rotation = matrix[:3, :3]
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        return "has a last row other than 0 0 0 1"
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > 1e-2 or np.linalg.det(rotation) < 0:
        return "is not rigid (its 3x3 block is no rotation)"
    return None


def intrinsics_problem(values: Sequence[float | None]) -> str | None:
    """What is wrong with (fx, fy, cx, cy), or None."""
    numbers = [value for value in values if value is not None]
    if len(numbers) not in (0, 4):
        return "needs all of fx, fy, cx, cy or none"
    if not np.isfinite(numbers).all() or (numbers and min(numbers[:2]) <= 0):
        return f"has fx, fy, cx, cy = {list(values)}; they must be finite, focal lengths positive"
    return None


def check_frames(frames: Sequence[Frame], where: Path) -> None:
    """Raise UserError for the first row that makes no sense."""
    seen: set[str] = set()
    for frame in frames:
        problem = None
        if frame.width < 1 or frame.height < 1:
            problem = f"is {frame.width}x{frame.height} pixels"
        elif frame.image in seen:
            problem = "is listed twice"
        elif frame.depth is not None and not (frame.depth_scale and np.isfinite(frame.depth_scale)):
            problem = "has depth but no depth_scale"
        problem = problem or intrinsics_problem([frame.fx, frame.fy, frame.cx, frame.cy])
        if problem is None and frame.pose is not None:
            pose = pose_problem(frame.pose)
            problem = f"has a cam2world that {pose}" if pose else None
        if problem:
            raise UserError(
                f"{where}: frame {frame.image!r} {problem}; mend the source or leave the frame out"
            )
        seen.add(frame.image)


def _counts(frames: Sequence[Frame]) -> dict[str, int]:
    return {
        "frames": len(frames),
        "intrinsics": sum(frame.fx is not None for frame in frames),
        "pose": sum(frame.cam2world is not None for frame in frames),
        "depth": sum(frame.depth is not None for frame in frames),
        "labels": sum(frame.labels is not None for frame in frames),
    }


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    fields = [pa.field(name, text, nullable=False) for name in _TEXTS]
    fields += [pa.field(name, pa.int32(), nullable=False) for name in ("width", "height")]
    fields += [pa.field(name, number) for name in _CAMERA]
    fields += [pa.field("cam2world", pa.list_(number, 16))]
    fields += [pa.field("depth", text), pa.field("depth_scale", number)]
    return pa.schema([*fields, pa.field("labels", text), pa.field("instances", text)])


def _read_table(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir() or not path.exists():
        what = "is a folder, not a manifest" if path.is_dir() else "does not exist"
        raise UserError(
            f"manifest {path} {what}; make one with: manyview data scan SRC --format F -o M.parquet"
        )
    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {})[b"manyview"])
        version = int(header["version"])
        str(header["root"])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a manyview manifest, or is damaged; scan the data again") from error
    if version > VERSION:
        raise UserError(f"{path} was made by a newer manyview (manifest version {version}); update manyview")
    expected = _schema()
    wrong = [field.name for field in expected if field.name not in table.schema.names]
    if wrong:
        raise UserError(f"{path} has no column {wrong[0]!r}; scan the data again")
    try:
        return table.select(expected.names).cast(expected).to_pylist(), header
    except (pa.ArrowException, ValueError) as error:
        raise UserError(
            f"{path} has a column of another type than a manifest's; scan the data again"
        ) from error


def _frame(row: dict[str, Any]) -> Frame:
    pose = row["cam2world"]
    return Frame(**{**row, "cam2world": None if pose is None else tuple(pose)})


def _portable(root: Path, manifest: Path) -> str:
    """The root as stored: relative to the manifest's folder when they share more than the topmost folder."""
    folder = manifest.resolve().parent
    try:
        shared = Path(os.path.commonpath([root, folder]))
    except ValueError:  # two drives
        return root.as_posix()
    return (
        root.as_posix() if shared == Path(shared.anchor) else Path(os.path.relpath(root, folder)).as_posix()
    )
