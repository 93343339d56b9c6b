"""Write a reconstructed scene for other programs.

manyview export SCENE -o cloud.ply                    points, colours, confidences
manyview export SCENE -o scene.glb                    points and cameras, for any 3D viewer
manyview export SCENE --to colmap -o splat            images and a sparse model, for Gaussian splatting
manyview export SCENE -o scene-nerfstudio             images, transforms.json, points.ply
manyview export --to colmap --help                    the options of one format
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from manyview.cli.options import add_options, value_of
from manyview.cli.output import Answer
from manyview.errors import UserError


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    from manyview.scene.exporters import EXPORTERS, format_of

    formats = "; ".join(f"{name}: {EXPORTERS.get(name).line}" for name in EXPORTERS.names())
    parser.add_argument("scene", type=Path, metavar="SCENE", help="a scene directory (manyview reconstruct)")
    parser.add_argument("--to", metavar="FORMAT", help=f"{formats}; default: what OUT ends in")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="file or directory to write")
    parser.add_argument("--verify", action="store_true", help="first compare every file of SCENE with its digest")
    parser.set_defaults(settings=[])
    out = value_of(words, "--out") or value_of(words, "-o")
    chosen = value_of(words, "--to")
    if chosen is None and out is not None:
        with suppress(UserError):  # `run` says it
            chosen = format_of(Path(out))
    if chosen is not None:
        exporter = EXPORTERS.get(chosen)
        add_options(parser, exporter(), title=f"options of {chosen}", about=exporter.line, skip=("overwrite",))


def run(args: argparse.Namespace) -> Answer:
    from manyview.config import override
    from manyview.scene.exporters import EXPORTERS, format_of, write
    from manyview.scene.scene import Scene

    to = args.to or format_of(args.out)
    exporter = override(EXPORTERS.get(to)(overwrite=args.overwrite), args.settings)
    scene = Scene.load(args.scene, verify=args.verify)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        written = write(exporter, scene, args.out)
    notes = [str(one.message) for one in said]
    following = exporter.next_step(written)
    values = {"wrote": str(written), "to": to, "views": len(scene), "left_out": notes, "next": following}
    return Answer(
        values=values, lines=[f"wrote {written}"], notes=[f"warning: {note}" for note in notes], next=[following]
    )
