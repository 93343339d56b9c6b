"""Write a reconstructed scene for other programs.

manyview export SCENE --to ply -o cloud.ply           points, colours, confidences
manyview export SCENE --to glb -o scene.glb           points and cameras, for any 3D viewer
manyview export SCENE --to colmap -o colmap/          images and a sparse model, for Gaussian splatting
manyview export SCENE --to nerfstudio -o nerf/        images, transforms.json, points.ply
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from manyview.errors import UserError

FORMATS = ("ply", "glb", "colmap", "nerfstudio")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scene", type=Path, metavar="SCENE", help="a scene directory (manyview reconstruct)")
    parser.add_argument("--to", choices=FORMATS, required=True, help="which format")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT", help="file (ply, glb) or directory"
    )
    parser.add_argument(
        "--min-confidence", type=float, metavar="C", help="keep points of at least this confidence"
    )
    parser.add_argument(
        "--quantile", type=float, metavar="Q",
        help="leave out this share of the least confident points (default: 0.1, or 0 with --min-confidence)",
    )  # fmt: skip
    parser.add_argument(
        "--size", choices=("original", "model"), default="original",
        help="colmap, nerfstudio: cameras and images at the original size (default) or at the model's",
    )  # fmt: skip
    parser.add_argument("--depth", action="store_true", help="nerfstudio: also write depth maps")
    parser.add_argument(
        "--max-points", type=int, default=50_000, metavar="N", help="colmap: at most N points"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def run(args: argparse.Namespace) -> int:
    from manyview.scene.scene import Scene

    scene = Scene.load(args.scene)
    limits = {"min_confidence": args.min_confidence, "quantile": args.quantile}
    if args.to == "colmap":
        wrote = scene.export_colmap(args.out, size=args.size, most=args.max_points, **limits)
    elif args.to == "nerfstudio":
        wrote = scene.export_nerfstudio(args.out, size=args.size, depth=args.depth, **limits)
    else:
        wrote = scene.export(_with_suffix(args.out, args.to), **limits)
    after = following(args.to, wrote)
    if args.json:
        print(json.dumps({"wrote": str(wrote), "to": args.to, "views": len(scene), "next": after}))
    else:
        print(f"wrote {wrote}\nnext: {after}")
    return 0


def _with_suffix(path: Path, to: str) -> Path:
    if not path.suffix:
        return path.with_suffix(f".{to}")
    if path.suffix.lower() != f".{to}":
        raise UserError(f"--to {to} writes a .{to} file, -o says {path}; change one of them")
    return path


def following(to: str, path: Path) -> str:
    """The next sensible step with what was written."""
    quoted = shlex.quote(str(path))
    return {
        "ply": f"open {quoted} in MeshLab, CloudCompare or Blender",
        "glb": f"open {quoted} in any glTF viewer",
        "colmap": f"colmap gui --import_path {quoted}/sparse/0 --image_path {quoted}/images; or a splat",
        "nerfstudio": f"ns-train splatfacto --data {quoted}",
    }[to]
