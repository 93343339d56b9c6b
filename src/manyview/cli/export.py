"""Write a reconstructed scene for other programs.

manyview export SCENE --to ply -o cloud.ply           points, colours, confidences
manyview export SCENE --to glb -o scene.glb           points and cameras, for any 3D viewer
manyview export SCENE --to colmap -o colmap/          images and a sparse model, for Gaussian splatting
manyview export SCENE --to nerfstudio -o nerf/        images, transforms.json, points.ply
manyview export --to colmap --help                    the options of one format
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from manyview.cli.options import add_options, value_of
from manyview.cli.output import Answer


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    from manyview.scene.exporters import EXPORTERS

    formats = "; ".join(f"{name}: {EXPORTERS.get(name).line}" for name in EXPORTERS.names())
    parser.add_argument("scene", type=Path, metavar="SCENE", help="a scene directory (manyview reconstruct)")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=formats)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="file or directory to write")
    parser.add_argument("--verify", action="store_true", help="first compare every file of SCENE with its digest")
    chosen = value_of(words, "--to")
    if chosen is not None:
        exporter = EXPORTERS.get(chosen)
        add_options(parser, exporter(), title=f"options of {chosen}", about=exporter.line, skip=("overwrite",))


def run(args: argparse.Namespace) -> Answer:
    from manyview.config import override
    from manyview.scene.exporters import EXPORTERS, write
    from manyview.scene.scene import Scene

    exporter = override(EXPORTERS.get(args.to)(overwrite=args.overwrite), args.settings)
    scene = Scene.load(args.scene, verify=args.verify)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        written = write(exporter, scene, args.out)
    notes = [str(one.message) for one in said]
    following = exporter.next_step(written)
    values = {"wrote": str(written), "to": args.to, "views": len(scene), "left_out": notes, "next": following}
    return Answer(
        values=values, lines=[f"wrote {written}"], notes=[f"warning: {note}" for note in notes], next=[following]
    )
