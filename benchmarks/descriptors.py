"""Nearest descriptors of two maps: an index against comparing all with all, time, recall and precision.

python benchmarks/descriptors.py --size 192 256 --write docs/descriptors.md

Maps with 24 channels: smooth random functions of the place in the world that a pixel shows, with
noise, as a trained model's would be, of two cameras in a room. Recall and precision are of the mutual nearest pairs,
against those of comparing all with all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from manyview.cameras.descriptors import exact_nearest, nearest
from manyview.data.synthetic.scene import render_scene
from manyview.geometry import pointmaps


def maps(size: tuple[int, int], channels: int = 24, noise: float = 0.05, seed: int = 0) -> list[torch.Tensor]:
    """Two descriptor maps (H * W, D) of unit length."""
    scene = render_scene(seed, views=2, size=size)
    rng = torch.Generator().manual_seed(seed)
    waves, phase = 6 * torch.randn(3, channels, generator=rng), 6.28 * torch.rand(channels, generator=rng)
    found = []
    for depth, matrix, pose in zip(scene.depth, scene.intrinsics, scene.cam2world, strict=True):
        world = pointmaps.transform(pose, pointmaps.unproject(depth, matrix)).reshape(-1, 3).float()
        values = torch.sin(world @ waves + phase)
        found.append(F.normalize(values + noise * torch.randn(values.shape, generator=rng), dim=1))
    return found


def by_faiss(queries: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    import faiss

    quantizer = faiss.IndexFlatIP(others.shape[1])
    index = faiss.IndexIVFFlat(quantizer, others.shape[1], 256, faiss.METRIC_INNER_PRODUCT)
    index.train(others[::12].numpy())
    index.add(others.numpy())
    index.nprobe = 4
    return torch.from_numpy(index.search(queries.numpy(), 1)[1][:, 0])


def mutual(search: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> tuple:
    start = time.perf_counter()
    forward, backward = search(a, b), search(b, a)
    taken = time.perf_counter() - start
    rows = torch.arange(len(a))
    good = backward[forward] == rows
    return {*zip(rows[good].tolist(), forward[good].tolist(), strict=True)}, taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), metavar=("H", "W"))
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    a, b = maps(tuple(args.size))
    ways = {"all with all": exact_nearest, "our index (torch)": nearest, "faiss, 256 lists, 4 probed": by_faiss}
    true, lines, base = set(), [], 0.0
    for name, search in ways.items():
        try:
            found, taken = mutual(search, a, b)
        except ImportError:
            print("faiss is not installed: pip install faiss-cpu")
            continue
        true, base = true or found, base or taken
        same = len(found & true)
        lines.append(
            f"| {name} | {base / taken:.0f} | {len(found):,} | {same / len(true):.3f} | {same / len(found):.3f} |"
        )
        print(name, f"{taken:.1f} s", lines[-1], flush=True)
    text = (__doc__ or "").split("\n\n")
    head = ["| way | times as fast | mutual pairs | recall | precision |", "|---|---|---|---|---|"]
    page = ["# Nearest descriptors", "", f"Written by `{text[1].strip()}`.", "", text[2].strip(), "", *head, *lines, ""]
    if args.write:
        args.write.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    np.random.default_rng(0)
    main()
