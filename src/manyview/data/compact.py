"""How the columns of a manifest lie in memory: what comes again and again is there once, and no pose has a last row.

Nothing is rounded: `plain` gives back what `compact` was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

REPEATED = ("dataset", "scene", "split")
"""Text columns whose values come again and again: every value is stored once."""
NUMBERS = ("width", "height", "fx", "fy", "cx", "cy", "depth_scale")
"""Number columns that may be so, as when all frames of a scene have one camera."""
POSE, LAST_ROW = "cam2world", np.array([0.0, 0.0, 0.0, 1.0])
AT_ONCE = 65_536
"""Rows that are looked at or made anew at a time."""


def compact(table: Any) -> Any:
    """The rows in fewer bytes, every column in as few pieces as possible; a compact table stays as it is.

    Empty columns lose their values, repeated ones have codes of one, two or four bytes, and poses 12 of 16 numbers.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(table.column(REPEATED[0]).type):
        return table.combine_chunks()
    columns = []
    for name in table.column_names:
        column = table.column(name)
        if column.null_count == len(column) > 0:
            column = pa.chunked_array([pa.nulls(len(column))])
        elif name in REPEATED:
            column = _once(column)
        elif name in NUMBERS and _repeats(column):
            column = min(_once(column), column, key=lambda kept: kept.nbytes)
        elif name == POSE and _ordinary(column):
            column = _poses_of(column, 12)
        columns.append(column)
    return pa.table(columns, names=table.column_names).combine_chunks()


def plain(column: Any) -> Any:
    """A column of a compact table with its values in place of codes, and poses of 16 numbers."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_fixed_size_list(column.type) and column.type.list_size == 12:
        return pa.chunked_array([_poses_of(column, 16)])
    return column


def cells(column: Any) -> Callable[[int], Any]:
    """What reads one value of a column of a compact table by its row; of a pose as many numbers as are there."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type) or column.num_chunks != 1:
        return lambda row: column[row].as_py()
    codes, values = column.chunk(0).indices, column.chunk(0).dictionary

    def read(row: int) -> Any:
        code = codes[row].as_py()
        return None if code is None else values[code].as_py()

    return read


def poses(column: Any) -> np.ndarray:
    """(N, 16) the poses of the rows that have one."""
    given = column.drop_null().combine_chunks().flatten().to_numpy(zero_copy_only=False)
    given = np.asarray(given, np.float64).reshape(-1, column.type.list_size)
    return given if given.shape[1] == 16 else np.hstack([given, np.tile(LAST_ROW, (len(given), 1))])


def _once(column: Any) -> Any:
    """Each different value once, and the code of each row in as few bytes as that takes."""
    import pyarrow as pa

    encoded = pa.chunked_array(column.dictionary_encode().unify_dictionaries())
    count = len(encoded.chunk(0).dictionary) if encoded.num_chunks else 0
    code = next(kind for kind in (pa.int8(), pa.int16(), pa.int32()) if count <= 1 << (kind.bit_width - 1))
    return encoded.cast(pa.dictionary(code, column.type)).combine_chunks()


def _repeats(column: Any) -> bool:
    """Whether values look as if they came again, by rows from everywhere."""
    import pyarrow.compute as pc

    rows = np.unique(np.linspace(0, len(column) - 1, min(len(column), AT_ONCE)).astype(np.int64))
    return bool(2 * pc.count_distinct(column.take(rows)).as_py() <= len(rows))


def _ordinary(column: Any) -> bool:
    """Whether every pose ends in 0 0 0 1 to the bit."""
    parts = (poses(column.slice(start, AT_ONCE))[:, 12:] for start in range(0, len(column), AT_ONCE))
    return all((np.ascontiguousarray(part).view(np.int64) == LAST_ROW.view(np.int64)).all() for part in parts)


def _poses_of(column: Any, width: int) -> Any:
    """The first `width` numbers of every pose, or all 16; a row without one stays without."""
    import pyarrow as pa

    known = column.is_valid().to_numpy()
    values = np.zeros((len(column), width))
    for start in range(0, len(column), AT_ONCE):
        rows = start + np.flatnonzero(known[start : start + AT_ONCE])
        values[rows] = poses(column.slice(start, AT_ONCE))[:, :width]
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width, mask=pa.array(~known))
