"""Find where photos were taken in a scene that is reconstructed already, by their matches with its points.

manyview localise new.jpg --in scene                         pose, matches that agree, error; or not found (exit 2)
manyview localise new/ --in scene -o cameras.json            written as reconstruct --cameras-from reads it
manyview reconstruct new/ --into scene -o larger             add photos to a scene: a new one, the old cameras stay
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from manyview.cli.output import Answer, table
from manyview.errors import UserError


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="image files or folders")
    add("--in", dest="scene", type=Path, required=True, metavar="SCENE", help="scene directory (manyview reconstruct)")
    add("-o", "--out", type=Path, metavar="FILE", help="cameras.json to write, of the photos that were found")
    add("--intrinsics", metavar="FX,FY,CX,CY", help="known camera of all these photos, in their pixels")
    add("--overwrite", action="store_true", help="replace FILE, or a file of --json, where there is one")


def run(args: argparse.Namespace) -> Answer:
    from manyview.cli.reconstruct import _intrinsics
    from manyview.images.reading import list_images
    from manyview.pipelines.localise import localise, lost

    if args.out is not None and args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} is there already; name another file, or add --overwrite")
    answers = localise(list_images(args.photos), args.scene, intrinsics=_intrinsics(args.intrinsics), out=args.out)
    photos = [
        {
            "path": one.path or one.name,
            "found": one.found,
            "component": one.component if one.found else None,
            "cam2world": one.camera.cam2world.tolist() if one.camera else None,
            "intrinsics": one.camera.intrinsics.tolist() if one.camera else None,
            "inliers": one.camera.inliers if one.camera else 0,
            "error_px": one.camera.error_px if one.camera else None,
            "matched": one.matched,
            "mirrored": one.mirrored,
        }
        for one in answers
    ]
    cells: list[tuple[str, ...]] = [("photo", "x", "y", "z", "agree", "of", "error px", "set")]
    for one in answers:
        if one.camera is None:
            cells.append((one.name, "not found", "", "", "", str(one.matched), "", ""))
            continue
        place = [f"{value:.3f}" for value in one.camera.cam2world[:3, 3]]
        cells.append(
            (
                one.name,
                *place,
                str(one.camera.inliers),
                str(one.matched),
                f"{one.camera.error_px:.2f}",
                str(one.component),
            )
        )
    lines = table(cells, right=range(1, 8))
    if args.out is not None:
        lines.append(f"wrote {args.out}")
    return Answer(values={"scene": str(args.scene), "photos": photos}, lines=lines, problem=lost(answers))
