"""Reconstruct photos or a video: cameras, points and confidences, in one scene directory.

manyview reconstruct photos/ -o scene                             a folder, with the bundled model
manyview reconstruct a.jpg b.jpg c.jpg -o scene                   files (one works too)
manyview reconstruct walk.mp4 --fps 2 --max-frames 60 -o scene    a video
manyview reconstruct photos/ --cameras-from sparse/0 -o scene     cameras that are known, of some photos or of all
manyview reconstruct photos/ --model runs/mine/model -o scene     a model of yours
manyview reconstruct photos/ --model mast3r-vitl16 -o scene        a pair model, asked about pairs of them

Of up to 40 photos every pair is matched. Of more, each is matched with the 6 next ones in order and the 10 that look
most alike, which closes loops; groups of photos are placed alone, joined by the points they share, and adjusted
together. The network is asked about as many photos at once as memory allows, in groups that overlap. Photos that
nothing joins are looked at once more as seen from aside, if they are few. What does not fit the memory is said before
the work, with the number of photos that would; --max-frames, --stride and --image-size need less.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from manyview.cli.options import add_device, add_options
from manyview.cli.output import Answer, rows
from manyview.errors import UserError

FIRST_EXPORTS = {"glb": ".glb", "colmap": "-colmap"}
"""Formats that are proposed after a reconstruction, and how their names end."""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    from manyview.pipelines.options import RECONSTRUCTOR, ReconstructOptions

    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGES", help="a folder, image files, or one video")
    add("-o", "--out", type=Path, required=True, metavar="SCENE", help="scene directory to write")
    add("--model", default=RECONSTRUCTOR, metavar="NAME|DIR", help=f"default: {RECONSTRUCTOR}")
    add_device(parser)
    add("--intrinsics", metavar="FX,FY,CX,CY", help="known camera of all photos, in pixels of the originals")
    add(
        "--cameras-from",
        type=Path,
        metavar="PATH",
        help="known cameras, kept unless --refine: a cameras.json, a transforms.json or a COLMAP model's folder; "
        "matched to the photos by file name, and some may be missing",
    )
    add(
        "--into",
        type=Path,
        metavar="SCENE",
        help="add the photos to those of this scene, whose cameras stay; with a new -o",
    )
    text = "images named like the photos; what is bright, or not transparent, is used"
    add("--masks", type=Path, metavar="DIR", help=text)
    add("--no-report", action="store_true", help="leave out SCENE/report.html")
    add_options(parser, ReconstructOptions(), title="how the scene is put together", flat=True)


def run(args: argparse.Namespace) -> Answer:
    from manyview.config import override
    from manyview.images.reading import list_images
    from manyview.pipelines.localise import joined
    from manyview.pipelines.options import ReconstructOptions
    from manyview.pipelines.reconstruct import reconstruct
    from manyview.scene.report import REPORT, write_report
    from manyview.scene.scene import Scene
    from manyview.scene.store import WHAT
    from manyview.written import add as add_file
    from manyview.written import refuse_other_files

    refuse_other_files(args.out, WHAT, overwrite=args.overwrite)  # before the work, not after it
    images = args.images[0] if len(args.images) == 1 else list_images(args.images)
    intrinsics, cam2world = _intrinsics(args.intrinsics), None
    if args.into is not None:
        if args.out.resolve() == args.into.resolve() and not args.overwrite:
            raise UserError(f"-o {args.out} is the scene itself; name another one, or add --overwrite to replace it")
        if intrinsics is not None or args.cameras_from is not None:
            raise UserError("--into takes the scene's cameras; leave --intrinsics and --cameras-from out")
        images, intrinsics, cam2world = joined(Scene.load(args.into), args.images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the scene keeps them; they are printed below
        scene = reconstruct(
            images,
            model=args.model,
            device=args.device,
            intrinsics=intrinsics,
            cam2world=cam2world,
            cameras_from=args.cameras_from,
            masks=args.masks,
            options=override(ReconstructOptions(), args.settings),
        )
    _save(scene, args)
    report = None
    if not args.no_report:
        write = partial(write_report, scene, of=args.out)
        report = add_file(args.out, WHAT, REPORT, write, overwrite=args.overwrite)
    return _report(scene, args.out, report)


def _save(scene: Any, args: argparse.Namespace) -> None:
    """Save the scene; where that fails after all the work, it is kept in a temporary folder, and the error says so."""
    try:
        scene.save(args.out, overwrite=args.overwrite)
    except (UserError, OSError) as error:
        from manyview.written import reason

        try:
            kept = scene.save(Path(tempfile.mkdtemp(prefix="manyview-scene-")))
        except (UserError, OSError):
            raise error from None
        raise UserError(f"{args.out}: {reason(error)}; the scene is kept in {kept}: move it from there") from error


def _intrinsics(text: str | None) -> Any:
    if text is None:
        return None
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--intrinsics takes FX,FY,CX,CY, got {text!r}") from None
    return [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]


def _report(scene: Any, out: Path, report: Path | None) -> Answer:
    import numpy as np

    quoted = shlex.quote(str(out))
    height, width = scene.views[0].depth.shape
    next_steps = [f"manyview view {quoted}"]
    next_steps += [f"manyview export {quoted} --to {to} -o {quoted}{end}" for to, end in FIRST_EXPORTS.items()]
    if all(view.cam2world is None for view in scene.views):
        next_steps = []
    values = {
        "scene": str(out),
        "report": None if report is None else str(report),
        "model": scene.info["model"],
        "precision": scene.info["precision"],
        "views": [
            {
                "path": view.source.path or view.name,
                "registered": view.registered,
                "rests_on": view.rests_on,
                "component": view.component,
                "inliers": view.inliers,
                "error_px": view.error_px,
            }
            for view in scene.views
        ],
        "components": scene.components,
        "size": [height, width],
        "points": sum(int(view.valid.sum()) for view in scene.views),
        "scale": scene.scale,
        "scale_source": scene.scale_source,
        "median_focal": float(np.median([view.source.intrinsics[0, 0] for view in scene.views])),
        "skipped": scene.info["skipped"],
        "warnings": scene.info["warnings"],
        "next": next_steps,
    }
    registered = [view for view in scene.views if view.registered]
    errors = [view.error_px for view in registered if view.error_px is not None]
    seen = sum(view.inliers for view in registered)
    kinds = Counter(view.rests_on for view in scene.views)
    error = f"{np.median(errors):.2f} px of the originals over {seen:,} observations" if errors else "not measured"
    lines = rows(
        {
            "views": f"{len(scene)} at {width}x{height} (first), by {scene.info['model']} in {scene.info['precision']}",
            "points": f"{values['points']:,}",
            "scale": f"{scene.scale} ({scene.scale_source})",
            "focal length": f"{values['median_focal']:.1f} px of the original (median)",
            "cameras": f"{len(registered)} of {len(scene)} registered; "
            + ", ".join(f"{count} rest on {kind}" for kind, count in kinds.items()),
            "error": error,
        }
    )
    notes = [f"left out: {line}" for line in scene.info["skipped"]]
    notes += [f"warning: {line}" for line in scene.info["warnings"]]
    written = f"wrote {out}/ (scene.json, images, maps{', report.html: open it in a browser' if report else ''})"
    return Answer(values=values, lines=[written, *lines], notes=notes, next=next_steps)
