"""The manifest: one Parquet file that says what lies on disk, a row per frame, paths relative to one root.

The root is kept in the file's metadata, relative to the manifest's own folder whenever the two share a
folder, so that both can be moved together. Nothing in a manifest can reach outside the root.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from manyview.data.columns import NAMES, Frame, Frames, by_scene, first_twin, schema, suspects
from manyview.data.shared import LARGE, shared
from manyview.errors import UserError
from manyview.files import parse_json, write_bytes

__all__ = ["LABEL_MAP", "NO_CLASS", "Frame", "Manifest"]

VERSION = 1
NO_CLASS = -1  # what pixels hold that show no class
LABEL_MAP = "label_map"  # in `info`: the class of every number that the label files hold
FARTHEST = "farthest"  # in `info`: from where on depth means sky
_LOOKED_AT = 1000  # files
SHORTEST_FOCAL, LONGEST_FOCAL = 0.1, 100.0  # in long sides: beyond (157, 0.6 degrees of view) none is believed


class Manifest:
    """Frames and the folder their paths start from."""

    def __init__(self, frames: Iterable[Frame], root: str | Path, info: dict[str, Any] | None = None) -> None:
        self.frames: Frames = Frames.of(frames)
        """All rows: a sequence that makes each `Frame` when it is looked at."""
        self.root = Path(root).resolve()
        self.info = dict(info or {})

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[index]

    def __repr__(self) -> str:
        return f"Manifest({len(self)} frames of {len(self.scenes())} scenes, root {str(self.root)!r})"

    def path(self, relative: str) -> Path:
        """Absolute path of a file of this manifest. Raises UserError for one that would leave the root."""
        return inside(self.root, relative)

    @property
    def farthest(self) -> float:
        """From where on depth means sky; infinite for data that are not in metres."""
        return float(self.info.get(FARTHEST, np.inf))

    def scenes(self) -> dict[str, list[int]]:
        """Scene -> its frames' indices, both in natural order; dataset/scene where a name occurs twice."""
        titles, groups = by_scene(self.frames)
        names = Counter(scene for _, scene in titles)
        return {
            scene if names[scene] == 1 else f"{dataset}/{scene}": rows
            for (dataset, scene), rows in zip(titles, groups, strict=True)
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
        rows = np.array(kept, np.int64)
        if split is not None:
            codes, splits = self.frames.codes("split")
            rows = rows[codes[rows] == (splits.index(split) if split in splits else -1)]
        if not len(rows):
            raise UserError(f"no frame is left of {len(self)} after the selection; widen it")
        return Manifest(self.frames.take(rows), self.root, self.info)

    def summary(self) -> dict[str, Any]:
        """Counts of frames and of what is known, over all and per scene; sizes WxH, most frequent first."""
        columns = {"intrinsics": "fx", "pose": "cam2world", "depth": "depth", "labels": "labels"}
        known = {what: self.frames.known(column) for what, column in columns.items()}
        sizes = list(zip(*(self.frames.numbers(side).tolist() for side in ("width", "height")), strict=True))
        splits, split_names = self.frames.codes("split")
        scenes = {}
        for name, rows in self.scenes().items():
            common = Counter(f"{width}x{height}" for width, height in (sizes[row] for row in rows))
            scenes[name] = {
                "dataset": self.frames[rows[0]].dataset,
                "split": ", ".join(sorted(split_names[code] for code in np.unique(splits[rows]))),
                "sizes": [size for size, _ in common.most_common()],
                "frames": len(rows),
                **{what: int(values[rows].sum()) for what, values in known.items()},
            }
        totals = {what: int(values.sum()) for what, values in known.items()}
        return {"frames": len(self), **totals, "scenes": scenes}

    def digest(self) -> str:
        """SHA-256 of the rows and of what labels mean: the same wherever the files lie."""
        digest, between = hashlib.sha256(b"["), b""
        for frame in self.frames:
            row = [getattr(frame, name) for name in NAMES]
            digest.update(between + json.dumps(row, separators=(",", ":")).encode())
            between = b","
        if LABEL_MAP in self.info:
            row = [LABEL_MAP, self.info[LABEL_MAP]]
            digest.update(between + json.dumps(row, separators=(",", ":")).encode())
        digest.update(b"]")
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """Another SHA-256 of the same content, for runs on millions of rows: made of whole columns, in seconds."""
        labels = json.dumps(self.info.get(LABEL_MAP))
        return hashlib.sha256(f"{self.frames.fingerprint()} {labels}".encode()).hexdigest()

    def files_digest(self) -> str:
        """SHA-256 of the images' names and sizes in bytes, of a thousand evenly spread where there are more.

        It changes where pictures were written anew under the names that they had.
        """
        digest = hashlib.sha256()
        for row in np.linspace(0, len(self) - 1, min(len(self), _LOOKED_AT)).astype(np.int64).tolist():
            name = self.frames[row].image
            try:
                size = self.path(name).stat().st_size
            except OSError:
                size = -1
            digest.update(f"{name} {size}\n".encode())
        return digest.hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write the Parquet file, whole or not at all. Raises UserError when that is impossible."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        check_frames(self.frames, path)
        header = {"version": VERSION, "root": _portable(self.root, path), "info": self.info}
        table = self.frames.plain().replace_schema_metadata({"manyview": json.dumps(header)})
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        write_bytes(path, memoryview(buffer.getvalue()))
        return path

    @classmethod
    def load(cls, path: str | Path, root: str | Path | None = None, *, check_files: bool = True) -> Manifest:
        """Read a manifest. Raises UserError when it is none, a row makes no sense, or its files moved.

        `root` replaces the stored one; `check_files=False` leaves out the look at the first image.
        """
        path = Path(path)
        header, rows = _read_header(path)

        def read() -> Frames:
            frames = Frames(_read_table(path))
            check_frames(frames, path)
            return frames

        frames = read() if rows < LARGE else shared(path, read)
        folder = Path(header["root"]) if root is None else Path(root)
        if root is None and not folder.is_absolute():
            folder = path.resolve().parent / folder
        manifest = cls(frames, folder, header.get("info"))
        if check_files and len(frames) and not manifest.path(frames[0].image).exists():
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


def pinhole_problem(lens: Sequence[float], size: tuple[int, int]) -> str | None:
    """What fx, fy, cx, cy have that no pinhole of a (width, height) picture has, after "the intrinsics …", or None."""
    (fx, fy, cx, cy), (width, height) = lens, size
    if min(fx, fy) < SHORTEST_FOCAL * max(size):
        return (
            f"have a focal length of {min(fx, fy):g} px in a {width}x{height} picture: give pixels of the original "
            "picture, not shares of it or millimetres"
        )
    if max(fx, fy) > LONGEST_FOCAL * max(size):
        return f"have a focal length of {max(fx, fy):g} px in a {width}x{height} picture: give pixels of that picture"
    if not (0 < cx < width and 0 < cy < height):
        return (
            f"have the principal point {cx:g}, {cy:g} outside the {width}x{height} picture: give them for this size, "
            "cx before cy"
        )
    return None


def check_frames(frames: Frames, where: Path) -> None:
    """Raise UserError for the first row that makes no sense."""
    twin = first_twin(frames)
    for row in sorted({*suspects(frames).tolist(), *twin}):
        frame = frames[row]
        problem = None
        if frame.width < 1 or frame.height < 1:
            problem = f"is {frame.width}x{frame.height} pixels"
        elif row in twin:
            problem = "is listed twice"
        elif frame.depth is not None and not 0 < (frame.depth_scale or 0) < np.inf:
            problem = "has depth but no depth_scale"
            if frame.depth_scale is not None:
                problem = f"has depth with the scale {frame.depth_scale:g}, not a positive number"
        problem = problem or intrinsics_problem([frame.fx, frame.fy, frame.cx, frame.cy])
        if problem is None and frame.pose is not None:
            pose = pose_problem(frame.pose)
            problem = f"has a cam2world that {pose}" if pose else None
        if problem:
            raise UserError(f"{where}: frame {frame.image!r} {problem}; mend the source or leave the frame out")


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """What a manifest says of itself, and how many rows it has. Raises UserError for what is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir() or not path.exists():
        what = "is a folder, not a manifest" if path.is_dir() else "does not exist"
        raise UserError(f"manifest {path} {what}; make one with: manyview data scan SRC --format F -o M.parquet")
    try:
        about = pq.read_metadata(path)
        header = parse_json((about.metadata or {})[b"manyview"])
        version = int(header["version"])
        str(header["root"])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a manyview manifest, or is damaged; scan the data again") from error
    if version > VERSION:
        raise UserError(f"{path} was made by a newer manyview (manifest version {version}); update manyview")
    return header, about.num_rows


def _read_table(path: Path) -> Any:
    """The rows. Raises UserError for damaged ones and wrong columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a manyview manifest, or is damaged; scan the data again") from error
    expected = schema()
    wrong = [field.name for field in expected if field.name not in table.schema.names]
    if wrong:
        raise UserError(f"{path} has no column {wrong[0]!r}; scan the data again")
    try:
        return table.select(expected.names).cast(expected)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path} has a column of another type than a manifest's; scan the data again") from error


def _portable(root: Path, manifest: Path) -> str:
    """The root as stored: relative to the manifest's folder when they share more than the topmost folder."""
    folder = manifest.resolve().parent
    try:
        shared = Path(os.path.commonpath([root, folder]))
    except ValueError:  # two drives
        return root.as_posix()
    return root.as_posix() if shared == Path(shared.anchor) else Path(os.path.relpath(root, folder)).as_posix()
