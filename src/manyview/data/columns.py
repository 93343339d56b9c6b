"""Frames kept as Arrow columns: a row costs its bytes, not Python objects, and becomes a `Frame` when it is looked at.

Also what is asked of whole columns at once: which rows make no sense, which frames belong to one scene, and a
fingerprint of the content.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

import numpy as np

from manyview.data.compact import AT_ONCE, LAST_ROW, cells, compact, plain, poses
from manyview.files import natural_key

TEXTS = ("dataset", "scene", "frame", "split", "image")
CAMERA = ("fx", "fy", "cx", "cy")
SPILL = 4_000_000
"""Bytes from which a table travels to another process as a file that both map, not as a copy."""


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


NAMES = tuple(field.name for field in fields(Frame))


class Frames(Sequence[Frame]):
    """The rows of an Arrow table; equal to any sequence of equal frames."""

    def __init__(self, table: Any) -> None:
        """`table`: as `schema()` says, or as another `Frames` holds it."""
        self._table = compact(table.select(NAMES))
        self._spilled: str | None = None
        self._cells = [cells(self._table.column(name)) for name in NAMES]

    @classmethod
    def of(cls, frames: Iterable[Frame]) -> Frames:
        """The same frames as columns; an iterator is read a part at a time."""
        import pyarrow as pa

        if isinstance(frames, Frames):
            return frames
        rows, batches = iter(frames), []
        while part := list(itertools.islice(rows, AT_ONCE)):
            columns = {name: [getattr(frame, name) for frame in part] for name in NAMES}
            batches.append(pa.table(columns, schema=schema()))
        return cls(pa.concat_tables(batches) if batches else schema().empty_table())

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        return _frame([read(index) for read in self._cells])

    def __iter__(self) -> Iterator[Frame]:
        for start in range(0, len(self), AT_ONCE):
            part = self._table.slice(start, AT_ONCE)
            for row in zip(*(plain(part.column(name)).to_pylist() for name in NAMES), strict=True):
                yield _frame(row)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Frames({len(self)} rows)"

    def __reduce__(self) -> tuple[Any, ...]:
        """Small tables are copied to another process; large ones are written to a file that it maps."""
        if self._table.nbytes < SPILL:
            return Frames, (self._table,)
        if self._spilled is None or not Path(self._spilled).is_file():
            handle, name = tempfile.mkstemp(prefix="manyview-rows-", suffix=".arrow")
            os.close(handle)
            self.spill(Path(name))
            self._spilled = name
            weakref.finalize(self, Path(name).unlink, missing_ok=True)
        return Frames.mapped, (self._spilled,)

    def spill(self, path: Path) -> None:
        """Write the rows as a file to map, whole or not at all. Raises OSError."""
        import pyarrow as pa

        draft = path.with_suffix(f".{os.getpid()}")
        try:
            with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, self._table.schema) as writer:
                writer.write_table(self._table)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def mapped(cls, path: str | Path) -> Frames:
        """The frames of a file that `spill` wrote: they take memory as far as they are looked at."""
        import pyarrow as pa

        frames = cls(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
        frames._spilled = str(path)
        return frames

    @property
    def table(self) -> Any:
        """The Arrow table as it lies in memory (`data.compact`)."""
        return self._table

    def plain(self) -> Any:
        """The Arrow table as `schema()` says."""
        import pyarrow as pa

        return pa.table({name: plain(self._table.column(name)) for name in NAMES}).cast(schema())

    @property
    def nbytes(self) -> int:
        """Bytes of the columns that hold anything."""
        return int(self._table.nbytes)

    def known(self, name: str) -> np.ndarray:
        """(N,) bool: the rows that have a value in column `name`."""
        return self._table.column(name).is_valid().to_numpy()

    def numbers(self, name: str) -> np.ndarray:
        """(N,) the values of a number column, NaN where there is none."""
        return plain(self._table.column(name)).to_numpy()

    def codes(self, name: str) -> tuple[np.ndarray, list[str]]:
        """(N,) which of the column's different texts each row has, and these texts."""
        column = self._table.column(name)
        encoded = column.dictionary_encode().combine_chunks()  # as it is where it is so already
        if not len(column):
            return np.zeros(0, np.int32), []
        encoded = encoded.chunk(0) if hasattr(encoded, "chunk") else encoded
        codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        return codes, encoded.dictionary.to_pylist()

    def take(self, rows: Sequence[int] | np.ndarray) -> Frames:
        """These rows, in this order."""
        import pyarrow as pa

        return Frames(self._table.take(pa.array(np.asarray(rows, np.int64))))

    def where_image(self, images: Sequence[str]) -> np.ndarray:
        """(len(images),) the row of each image path, -1 where there is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = pc.index_in(pa.array(images, pa.string()), value_set=self._table.column("image"))
        return rows.fill_null(-1).to_numpy(zero_copy_only=False)

    def fingerprint(self) -> str:
        """SHA-256 of the content, column by column: equal for equal frames, and fast."""
        digest = hashlib.sha256(str(len(self)).encode())
        for name in NAMES:
            digest.update(name.encode())
            for start in range(0, len(self), AT_ONCE):
                part = self._table.column(name).slice(start, AT_ONCE)
                digest.update(np.packbits(part.is_valid().to_numpy()).tobytes())
                digest.update(_bytes(part.drop_null()))
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Groups(Sequence[list[int]]):
    """Row numbers in groups, such as the frames of every scene, in two arrays; equal to the same lists in a list."""

    order: np.ndarray
    """The rows, group after group."""
    starts: np.ndarray
    """(groups + 1,) where each group begins in `order`, and the end."""

    @classmethod
    def of(cls, groups: Sequence[Sequence[int]]) -> Groups:
        lengths = np.fromiter((len(group) for group in groups), np.int64, len(groups))
        flat = itertools.chain.from_iterable(groups)
        return cls(np.fromiter(flat, np.int64, int(lengths.sum())), np.concatenate([[0], lengths.cumsum()]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"group {index} of {len(self)}")
        return self.order[self.starts[index] : self.starts[index + 1]].tolist()

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def only(self, rows: np.ndarray, *, least: int = 1) -> Groups:
        """The groups without the rows where (N,) bool `rows` is False; those with fewer than `least` left are gone."""
        kept = rows[self.order]
        ends = np.concatenate([[0], kept.cumsum()])[self.starts]
        lengths = np.diff(ends)
        large = lengths >= least
        order = self.order[kept & np.repeat(large, self.lengths)]
        return Groups(order, np.concatenate([[0], lengths[large].cumsum()]))


def by_scene(frames: Frames) -> tuple[list[tuple[str, str]], Groups]:
    """(dataset, scene) of every scene and its rows, scenes and the frames of each in natural order."""
    datasets, dataset_names = frames.codes("dataset")
    scenes, scene_names = frames.codes("scene")
    pairs, which = np.unique(datasets.astype(np.int64) * max(1, len(scene_names)) + scenes, return_inverse=True)
    names = [(dataset_names[p // len(scene_names)], scene_names[p % len(scene_names)]) for p in pairs.tolist()]
    ranked = sorted(range(len(names)), key=lambda i: (natural_key(names[i][1]), natural_key(names[i][0])))
    rank = np.argsort(ranked)
    titles, title_names = frames.codes("frame")
    title_rank = np.argsort(sorted(range(len(title_names)), key=lambda i: natural_key(title_names[i])))
    order = np.lexsort((title_rank[titles], rank[which]))
    counts = np.bincount(rank[which], minlength=len(names))
    return [names[i] for i in ranked], Groups(order, np.concatenate([[0], counts.cumsum()]))


def suspects(frames: Frames) -> np.ndarray:
    """Rows whose numbers may make no sense; a closer look at each says whether, and why."""
    table = frames.table
    bad = (frames.numbers("width") < 1) | (frames.numbers("height") < 1)
    scale = frames.numbers("depth_scale").astype(np.float64)
    bad |= frames.known("depth") & ~(np.isfinite(scale) & (scale > 0))
    camera = np.stack([frames.numbers(name).astype(np.float64) for name in CAMERA])
    given = np.stack([frames.known(name) for name in CAMERA])
    whole = np.isfinite(camera).all(0) & (camera[:2].min(0) > 0)
    bad |= given.any(0) & ~(given.all(0) & whole)
    for start in range(0, len(frames), AT_ONCE):
        column = table.column("cam2world").slice(start, AT_ONCE)
        rows = np.flatnonzero(column.is_valid().to_numpy()) + start
        if len(rows):
            bad[rows] |= ~_rigid(poses(column).reshape(-1, 4, 4))
    return np.flatnonzero(bad)


def _rigid(poses: np.ndarray) -> np.ndarray:
    """(N,) bool: the (N, 4, 4) poses that are well inside every limit."""
    with np.errstate(invalid="ignore", over="ignore"):
        rotation = poses[:, :3, :3]
        square = np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)).max((1, 2))
        last = np.abs(poses[:, 3] - [0, 0, 0, 1]).max(1)
        good = (square <= 1e-2) & (last <= 1e-6) & np.isfinite(poses).all((1, 2))
    good[good] &= np.linalg.det(rotation[good]) > 0
    return good


def first_twin(frames: Frames) -> list[int]:
    """The first row whose image an earlier row has, if any."""
    import pyarrow.compute as pc

    column = frames.table.column("image")
    if pc.count_distinct(column).as_py() == len(column):
        return []
    codes, _ = frames.codes("image")  # numbered in the order in which they first come
    return (np.flatnonzero(codes[1:] <= np.maximum.accumulate(codes)[:-1])[:1] + 1).tolist()


def schema() -> Any:
    """The columns of a manifest."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    columns = [pa.field(name, text, nullable=False) for name in TEXTS]
    columns += [pa.field(name, pa.int32(), nullable=False) for name in ("width", "height")]
    columns += [pa.field(name, number) for name in CAMERA]
    columns += [pa.field("cam2world", pa.list_(number, 16))]
    columns += [pa.field("depth", text), pa.field("depth_scale", number)]
    return pa.schema([*columns, pa.field("labels", text), pa.field("instances", text)])


def _frame(row: Sequence[Any]) -> Frame:
    values = dict(zip(NAMES, row, strict=True))
    pose = values["cam2world"]
    return Frame(**{**values, "cam2world": None if pose is None else (*pose, *LAST_ROW.tolist())[:16]})


def _bytes(column: Any) -> bytes:
    """The values of a column without nulls, the same bytes for the same values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(column.type):
        return b""
    if pa.types.is_fixed_size_list(column.type):
        return poses(column).tobytes()
    column = plain(column)
    if pa.types.is_string(column.type):
        return pc.binary_length(column).to_numpy().tobytes() + "".join(column.to_pylist()).encode()
    return column.to_numpy().tobytes()
