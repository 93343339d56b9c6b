"""Photos held out of real scenes and found again, unrelated and mirrored ones refused, and an export read back.

python benchmarks/localise.py ../shared/data --write docs/localise.md

Every fourth photo is held out. The scene is made of the others with their true poses and unknown focal lengths; the
held-out ones are localised by the picture alone, their focal length unknown too. A photo counts as within 5 cm and 5
degrees, or as lost. Unrelated photos come from other sets; mirrored ones are the held-out ones, left to right, in
brackets how many of them fit by what is symmetric and are refused because their mirror image fits better.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import manyview as mv
from cameras import frames
from manyview.images.reading import list_images, read_image
from manyview.pipelines.options import RECONSTRUCTOR

# folder, photos, every
SETS = [
    ("redkitchen_000_499", 16, 4),
    ("hololens_000_185", 16, 1),
    ("strecha_Herz-Jesus-P25", 16, 1),
    ("strecha_fountain-P11", 11, 1),
]
STRANGERS = ("sacre_coeur10", "oxford_graf", "camvid_train", "co3d_apple", "hololens_000_185", "redkitchen_000_499")


def held_out(folder: Path, count: int, every: int, network: Any, strangers: list[Path]) -> dict[str, Any]:
    """Errors of held-out photos, and how many unrelated and mirrored ones were refused."""
    paths, true = frames(folder, count, every)
    out = list(range(2, len(paths), 4))
    kept = [index for index in range(len(paths)) if index not in out]
    scene = mv.reconstruct([paths[i] for i in kept], model=network, cam2world=true[kept])
    start = time.perf_counter()
    found = mv.localise([paths[i] for i in out], scene)
    seconds = (time.perf_counter() - start) / len(out)
    turn, shift = [], []
    for index, one in zip(out, found, strict=True):
        if one.camera is not None:
            off = np.linalg.inv(true[index]) @ one.camera.cam2world
            turn.append(float(np.degrees(np.arccos(np.clip((np.trace(off[:3, :3]) - 1) / 2, -1, 1)))))
            shift.append(float(np.linalg.norm(off[:3, 3])))
    mirrored = [np.ascontiguousarray(read_image(str(paths[i]))[:, ::-1]) for i in out]
    wrong = mv.localise(mirrored, scene)
    strange = mv.localise(strangers, scene)
    return {
        "photos": len(kept),
        "held out": len(out),
        "found": len(turn),
        "turn": float(np.median(turn)) if turn else float("nan"),
        "shift": float(np.median(shift)) if shift else float("nan"),
        "near": int(sum(a < 5 and b < 0.05 for a, b in zip(turn, shift, strict=True))),
        "error_px": float(np.median([one.camera.error_px for one in found if one.camera])) if turn else float("nan"),
        "mirrored refused": sum(not one.found for one in wrong),
        "mirrored that fit": sum(one.mirrored for one in wrong),
        "strangers refused": sum(not one.found for one in strange),
        "strangers": len(strange),
        "seconds": seconds,
    }


def unseen_errors(model: Path) -> np.ndarray:
    """Pixels, for every observation of a point in a COLMAP model, from where its other views alone say it is."""
    import pycolmap

    scene = pycolmap.Reconstruction(model)
    projections = {
        number: scene.cameras[image.camera_id].calibration_matrix() @ image.cam_from_world().matrix()
        for number, image in scene.images.items()
    }
    errors = []
    for point in scene.points3D.values():
        seen = [(e.image_id, scene.images[e.image_id].points2D[e.point2D_idx].xy) for e in point.track.elements]
        for left in range(len(seen) if len(seen) >= 3 else 0):
            rows = []
            for place, (number, uv) in enumerate(seen):
                if place != left:
                    matrix = projections[number]
                    rows += [uv[0] * matrix[2] - matrix[0], uv[1] * matrix[2] - matrix[1]]
            rows = [row / np.linalg.norm(row) for row in rows]
            xyzw = np.linalg.svd(np.array(rows))[2][-1]
            x = projections[seen[left][0]] @ xyzw
            errors.append(float(np.linalg.norm(x[:2] / x[2] - seen[left][1])))
    return np.array(errors)


def exported(folder: Path, network: Any) -> dict[str, float]:
    """A scene from photos alone, exported and read back."""
    paths, _ = frames(folder, 8, 6)
    scene = mv.reconstruct(paths, model=network)
    with tempfile.TemporaryDirectory() as work:
        errors = unseen_errors(scene.export_colmap(Path(work, "colmap")) / "sparse" / "0")
    return {"observations": len(errors), "median": float(np.median(errors)), "p90": float(np.quantile(errors, 0.9))}


def page(results: dict[str, dict[str, Any]], kitchen: dict[str, float], model: str) -> str:
    """The tables as Markdown."""
    text = (__doc__ or "").split("\n\n")
    lines = [
        "# Localising photos, and exports read back",
        "",
        f"Written by `{text[1].strip()}`, depth of `{model}`.",
        "",
        " ".join(text[2].split()),
        "",
        "| set | photos in the scene | held out | found | within 5 cm, 5° | median turn | median distance | error px "
        "| mirrored refused | unrelated refused |",
        "|" + "---|" * 10,
    ]
    for name, row in results.items():
        lines.append(
            f"| {name} | {row['photos']} | {row['held out']} | {row['found']} | {row['near']} | {row['turn']:.2f}° | "
            f"{100 * row['shift']:.1f} cm | {row['error_px']:.2f} | {row['mirrored refused']} of {row['held out']} "
            f"({row['mirrored that fit']}) | "
            f"{row['strangers refused']} of {row['strangers']} |"
        )
    lines += [
        "",
        "COLMAP export of redkitchen_000_499 (8 photos, every 6th, from photos alone), read back by pycolmap: each "
        f"observation of a point that three photos and more show lies {kitchen['median']:.2f} px (median; 90 %: "
        f"{kitchen['p90']:.2f} px) from where the *other* photos put it; {kitchen['observations']:,} observations.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=RECONSTRUCTOR)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    network = mv.load(args.model)
    kitchen = exported(args.data / "redkitchen_000_499", network)
    print(json.dumps(kitchen), flush=True)
    results = {}
    for name, count, every in SETS:
        strangers = [p for other in STRANGERS if other != name for p in list_images(args.data / other / "images")[:3]]
        results[name] = held_out(args.data / name, count, every, network, strangers)
        print(name, json.dumps(results[name]), flush=True)
    text = page(results, kitchen, args.model)
    if args.write:
        args.write.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
