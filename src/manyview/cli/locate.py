"""Find things by their names in a scene, or in photos: points, boxes, photos with what was found, or "not there".

manyview locate scene "a chair" lamp -o found              a scene of `reconstruct` with a model that has features
manyview locate photos/ "sofa | couch" "something to read" -o found     photos; words between | mean the same
manyview locate scene chair -o found --threshold 0.7       surer answers only
manyview locate scene chair -o found --background "wall, floor, table"  what else may be there

Every query is asked by itself. A pixel shows it where it is more probable than everything else that might be there
(--threshold 0.5), which is what a softmax over the query and a hundred everyday words says. OUT gets located.json,
overlays/ (photos with what was found), points.ply and points.glb, and queries/ with the points of each query.
"""

from __future__ import annotations

import argparse
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyview.cli.options import add_device, add_options
from manyview.cli.output import Answer, table
from manyview.errors import UserError


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    from manyview.scene.options import MODEL, LocateOptions

    add = parser.add_argument
    add("place", metavar="SCENE|IMAGES", help="a scene directory, or a folder of photos, a photo, a video")
    add("queries", nargs="+", metavar="QUERY", help="what to look for, in English")
    add("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for what was found")
    add("--model", default=MODEL, metavar="NAME|DIR", help=f"for photos, a model with feature heads; default: {MODEL}")
    add_device(parser)
    add_options(parser, LocateOptions(), title="what counts as found", flat=True)


def run(args: argparse.Namespace) -> Answer:
    from manyview.config import override
    from manyview.pipelines.locate import locate
    from manyview.scene.located import WHAT, write_located
    from manyview.scene.options import LocateOptions
    from manyview.scene.store import is_scene
    from manyview.written import refuse_other_files

    place = Path(args.place)
    if not place.exists():
        raise UserError(f"there is no {place}; name a scene directory or photos first, then what to look for")
    if place.is_dir() and args.out.resolve() == place.resolve():
        raise UserError(f"-o {args.out} is where the pictures come from; choose another folder")
    refuse_other_files(args.out, WHAT, overwrite=args.overwrite)  # before the work, not after it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the scene keeps them
        options = override(LocateOptions(), args.settings)
        located = locate(args.place, args.queries, model=args.model, device=args.device, options=options)
    write_located(located, args.out, overwrite=args.overwrite)
    scene = place
    if not is_scene(place):
        scene = located.scene.save(args.out / "scene", overwrite=args.overwrite)
    return _report(located, args.out, scene)


def _report(located: Any, out: Path, scene: Path) -> Answer:
    cells = [["", "there", "confidence", "places", "photos", f"surest position ({located.unit})"]]
    for one in located.found:
        first = " ".join(f"{value:.2f}" for value in one.places[0].position) if one.places else "-"
        counts = [str(len(one.places)), str(len(one.sights))]
        cells.append([one.short, "yes" if one.there else "no", f"{one.confidence:.2f}", *counts, first])
    made = sorted(file.name + "/" * file.is_dir() for file in out.iterdir() if not file.name.startswith("."))
    return Answer(
        values={"out": str(out), "scene": str(scene), **located.to_json()},
        lines=[*table(cells, indent=0, right=(2, 3, 4)), f"wrote {out}: {', '.join(made)}"],
        notes=[f"note: {note}" for note in located.notes],
        next=[f"manyview view {shlex.quote(str(scene))}"],
    )
