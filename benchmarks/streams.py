"""How fast procedural scenes come for a run that is trained on them: scenes a second and core, into docs/streams.md.

    python benchmarks/streams.py --write docs/streams.md

CPU seconds of one process, so that others on the machine count little; everything that a loading process does for a
batch is in them: the world, the camera's path, the pictures, windows by overlap.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import torch
from results_page import write_section

from manyview.batches.worlds import Streaming, WorldBatches
from manyview.data.synthetic.scene import render_scene
from manyview.evaluation.tables import markdown_table

SIZES = ("64x64", "112x154", "168x224")
STREAMS = ("abstract", "outdoors", "rooms", "worlds")


def seconds_of(stream: str, size: str, scenes: int) -> float:
    """CPU seconds a scene of 8 views, the median of batches of two."""
    batches = WorldBatches([f"{stream}:5"], Streaming(sizes=(size,)), scenes=2, seed=0)
    batches.load(0)
    spent = []
    for index in range(1, 1 + scenes // 2):
        before = time.process_time()
        batches.load(index)
        spent.append((time.process_time() - before) / 2)
    return sorted(spent)[len(spent) // 2]


def thumbnails(scenes: int) -> float:
    """What it costs a room at 64x64 to look at paths in thumbnails before one is taken, as a ratio."""
    sums = [0.0, 0.0]
    for seed in range(scenes):
        for way in (0, 1):
            before = time.process_time()
            render_scene(7000 + seed, views=8, size=(64, 64), kind="room", thumbnails=bool(way))
            sums[way] += time.process_time() - before
    return sums[1] / sums[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=16, help="of each kind and size")
    parser.add_argument("--write", type=Path, metavar="MD")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for stream in STREAMS:
        rates = [1 / seconds_of(stream, size, args.scenes) for size in SIZES]
        rows.append([f"`{stream}`", *(f"{rate:.1f}" for rate in rates), f"{8 * rates[-1]:.0f}"])
    machine = f"{os.cpu_count()} {platform.machine()} cores, torch {torch.__version__.partition('+')[0]}"
    text = "\n\n".join(
        [
            "## How fast scenes come",
            f"Written by `python benchmarks/streams.py --write docs/streams.md`. Machine: {machine}. Scenes of 8 views "
            "a second and core, by CPU time, at three sizes; views a second at the last:",
            markdown_table(["stream", *SIZES, f"views, {SIZES[-1]}"], rows),
            "A room whose path is looked at in thumbnails first, as `data synth` does it, takes "
            f"{thumbnails(args.scenes):.2f} times as long at 64x64 as one whose path is taken unseen.",
        ]
    )
    print(text)
    if args.write:
        write_section(args.write, "speed", text)


if __name__ == "__main__":
    main()
