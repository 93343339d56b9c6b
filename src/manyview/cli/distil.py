"""From a phone video or photos of a place to a student of that place.

Chooses frames by motion and sharpness, finds their cameras from matches, makes depth from the photos alone (and, where
they show nothing to compare, from the student's own depth, bent to what was found; or asks a model), trains the bundled
student on it and judges it on frames it did not see. Interrupted, the same line goes on.

manyview distil walk.mp4 -o place                                a video, with nobody's licence but yours
manyview distil photos/ -o place --teacher fast3r-vitl16         a folder of photos in order, a network as teacher
manyview distil frames.parquet -o place --teacher sensor         a manifest with measured depth and poses
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from manyview.cli.options import add_device, add_options
from manyview.cli.output import Answer, table


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    from manyview.pipelines.options import DistilOptions

    parser.add_argument("images", nargs="+", metavar="IMAGES", help="a video, a folder, image files, or a manifest")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to write")
    add_device(parser)
    add_options(parser, DistilOptions(), title="how the place is learned", flat=True)


def run(args: argparse.Namespace) -> Answer:
    from manyview.config import override
    from manyview.pipelines.distil import distil
    from manyview.pipelines.options import DistilOptions

    result = distil(
        args.images[0] if len(args.images) == 1 else args.images,
        args.out,
        config=override(DistilOptions(), args.settings),
        device=args.device,
        say=lambda line: print(line, file=sys.stderr),
    )
    cells = [("relative depth error against", "before", "after", "change")]
    for against, row in result["abs_rel"].items():
        change = f"{row['after'] / row['before'] - 1:+.0%}"
        cells.append((against, f"{row['before']:.3f}", f"{row['after']:.3f}", change))
    written = f"wrote {result['model']} and {result['report']}; judged on {result['held_out']} frames it did not see"
    return Answer(
        values=result,
        lines=[*(table(cells, right=(1, 2, 3)) if result["abs_rel"] else ()), written],
        next=[f"manyview reconstruct photos/ --model {result['model']} -o scene"],
    )
