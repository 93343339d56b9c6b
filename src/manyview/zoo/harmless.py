"""What a pickle may build beside tensors and plain containers: things that only hold values.

Stand-ins take the place of classes that do more: paths never look at the disk, numpy numbers become Python's.
"""

from __future__ import annotations

import argparse
import pathlib
import struct
from typing import Any

# numpy's letters for plain numbers -> struct's.
NUMBERS = {
    **{f"i{size}": code for size, code in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))},
    **{f"u{size}": code for size, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))},
    **{f"f{size}": code for size, code in ((2, "e"), (4, "f"), (8, "d"))},
    "b1": "?",
}


class NumberKind:
    """Stands for numpy.dtype: remembers the letter and the byte order."""

    def __init__(self, letter: str, *_: Any) -> None:
        self.letter, self.order = str(letter), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if isinstance(state, tuple) and ">" in state[1:2] else "<"


def number(kind: NumberKind, raw: bytes | str) -> int | float | bool:
    """Stands for numpy's scalar: the Python number. Raises ValueError for anything else."""
    if not isinstance(kind, NumberKind) or kind.letter not in NUMBERS:
        raise ValueError("a numpy value that is no plain number")
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    return struct.unpack(kind.order + NUMBERS[kind.letter], raw)[0]


# (what is built, under which name in the pickle), for torch.serialization.safe_globals
HARMLESS: tuple[Any, ...] = (
    argparse.Namespace,
    *((pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((pathlib.PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    *((number, f"{module}.scalar") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    (NumberKind, "numpy.dtype"),
)
