"""Predicted warps as pictures: B's pixels put where a method says that A sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from manyview.evaluation import store
from manyview.evaluation.pictures import PAPER
from manyview.geometry.matching import PosedDepth, upsample_warp, warp

Picture = tuple[str, np.ndarray]


def read_measured(out: Path, index: int) -> PosedDepth:
    """Depth and camera of a test frame, as the export kept them."""
    arrays = store.load_arrays(out / "measured" / f"{index:06d}.npz")
    return PosedDepth(**{name: torch.from_numpy(value) for name, value in arrays.items()})


def rows_of_pictures(out: Path, methods: Sequence[tuple[str, str]]) -> list[list[Picture]]:
    """For a few pairs: A, B, and B seen through the true warp and through those of (method, caption)."""
    file = out / "measured" / "pictures.npz"
    if not file.is_file():
        return []
    known, items = store.load_arrays(file), store.read_json(out / "items.json")
    (height, width), (rows, columns) = items["size"], items["grid"]
    grid, size = (rows, columns), (height, width)
    found = []
    for number, (first, second) in zip(known["pairs"].tolist(), known["images"], strict=True):
        pair = items["pairs"]["test"][number]
        true, valid = warp(read_measured(out, pair["a"]), read_measured(out, pair["b"]))
        row = [
            ("A", first),
            ("B", second),
            ("B through the true warp", through(second, true.numpy(), valid.numpy())),
        ]
        for method, caption in methods:
            uv = store.load_arrays(out / "predictions" / f"{method}.npz")["uv"][number]
            fine = upsample_warp(torch.from_numpy(uv)[None], grid, size)[0]
            row.append((f"B through: {caption}", through(second, fine.numpy(), valid.numpy())))
        found.append(row)
    return found


def through(picture: np.ndarray, uv: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 sampled at pixels uv (H, W, 2), paper-coloured where not valid (H, W)."""
    import cv2

    places = (uv - 0.5).astype(np.float32)  # OpenCV's centres are at integers
    sampled = cv2.remap(
        picture, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.where(valid[..., None], sampled, np.array(PAPER, np.uint8)).astype(np.uint8)
