"""Cameras from photos alone, judged against true ones: ours, ours with parts left out, the network's, COLMAP's.

python benchmarks/cameras.py ../shared/data --write docs/cameras.md

Intrinsics are unknown to every row; a cameras.json is read only to judge. AUC@30: area under the recall of the larger
of rotation and translation error over all pairs of photos, up to 30 degrees; a pair that is not registered together
counts as 180 degrees. Without matches nothing says where photos stand but the network's own poses: one column for both.
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
from manyview.images.fit import longest
from manyview.images.inputs import Take, gather
from manyview.metrics.pose import pose_auc, relative_pose_errors
from manyview.pipelines.answers import ask
from manyview.pipelines.evidence import solved
from manyview.pipelines.given import nothing_given
from manyview.pipelines.options import RECONSTRUCTOR, ReconstructOptions
from manyview.pipelines.own_matches import token_matches

# folder, photos, every, AUC@30 and registered photos asked for
SETS = [
    ("redkitchen_000_499", 8, 6, 0.60, 8),
    ("redkitchen_000_499", 8, 1, 0.45, 8),
    ("hololens_000_185", 8, 1, 0.60, 8),
    ("hololens_000_185", 8, 4, 0.27, 6),
    ("strecha_Herz-Jesus-P25", 8, 1, 0.92, 8),
    ("strecha_Herz-Jesus-P25", 8, 3, 0.92, 8),
    ("strecha_fountain-P11", 8, 1, 0.97, 8),
    ("middlebury_templeR", 12, 1, 0.45, 12),
    ("co3d_apple", 10, 2, 0.45, 9),
]
ROWS = {
    "ours": "matches + depth, adjusted",
    "tokens": "with the model's tokens where SIFT links no pair",
    "no_depth": "without depth",
    "no_adjustment": "without bundle adjustment",
    "network": "network alone, without matches",
    "colmap": "COLMAP's mapper",
    "identity": "every camera the same",
}


def frames(folder: Path, count: int, every: int) -> tuple[list[Path], np.ndarray]:
    """Photos and their true cam2world (V, 4, 4)."""
    rows = [f for f in json.loads((folder / "cameras.json").read_text())["frames"] if f.get("cam2world")]
    chosen = rows[::every][:count]
    poses = np.array([np.array(f["cam2world"], float).reshape(4, 4) for f in chosen])
    return [folder / f["file"] for f in chosen], poses


def judge(cam2world: list[np.ndarray | None], frame: list[int], true: np.ndarray) -> dict[str, float]:
    """AUC@30 and the share registered; None or another frame is not registered together."""
    ours = np.stack([np.eye(4) if pose is None else pose for pose in cam2world])
    turn, shift, pairs = relative_pose_errors(np.linalg.inv(ours), np.linalg.inv(true))
    place = np.array(
        [f if pose is not None else -1 - n for n, (pose, f) in enumerate(zip(cam2world, frame, strict=True))]
    )
    together = place[pairs[:, 0]] == place[pairs[:, 1]]
    errors = np.where(together, np.maximum(turn, shift), 180.0)
    largest = max(np.bincount(place[place >= 0]).max(initial=0), 0)
    return {"auc30": pose_auc(errors, 30), "registered": int(largest)}


def colmap(photos: list[Path], true: np.ndarray) -> dict[str, float] | None:
    """COLMAP's incremental mapper as pycolmap runs it; None where pycolmap is not installed."""
    try:
        import pycolmap
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as work:
        images = Path(work, "images")
        images.mkdir()
        for number, photo in enumerate(photos):
            (images / f"{number:04d}.jpg").write_bytes(photo.read_bytes())
        database = Path(work, "database.db")
        pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE)
        pycolmap.match_exhaustive(database)
        models = pycolmap.incremental_mapping(database, images, work)
    poses: list[np.ndarray | None] = [None] * len(photos)
    if models:
        best = max(models.values(), key=lambda model: model.num_reg_images())
        for image in best.images.values():
            if image.has_pose:
                matrix = np.eye(4)
                matrix[:3] = image.cam_from_world().matrix()
                poses[int(Path(image.name).stem)] = np.linalg.inv(matrix)
    return judge(poses, [0] * len(photos), true)


def run(
    folder: Path, count: int, every: int, network: object, patch: int, side: int, *, tokens: bool
) -> dict[str, dict[str, float]]:
    """Every row of the table for one set; that of `tokens` if asked."""
    import torch

    paths, true = frames(folder, count, every)
    options = ReconstructOptions()
    photos, _ = gather(paths, lambda size: longest(size, long_side=side, multiple=patch), Take(), strict=True)
    maps = ask(network, photos, [None] * len(photos), torch.device("cpu"))
    results: dict[str, dict[str, float]] = {}
    rows: dict[str, dict[str, Any]] = {
        "ours": {},
        "no_depth": {"options": ReconstructOptions(cameras="matches")},
        "no_adjustment": {"adjust": False},
    }
    if tokens:
        own = token_matches(network, photos, torch.device("cpu"))
        rows["tokens"] = {"options": ReconstructOptions(matches="both"), "own": own}
    for row, changed in rows.items():
        start = time.perf_counter()
        cameras = solved(photos, maps, nothing_given(photos), **{"options": options, **changed}).cameras
        poses = [camera.cam2world if camera.registered else None for camera in cameras]
        results[row] = judge(poses, [camera.component for camera in cameras], true)
        results[row]["seconds"] = time.perf_counter() - start
        if row == "ours":
            results[row]["focal"] = float(cameras[0].intrinsics[0, 0])
    scene = mv.reconstruct(paths, model=network, options=ReconstructOptions(cameras="model"))
    results["network"] = judge([view.cam2world for view in scene.views], [0] * len(paths), true)
    results["identity"] = judge([np.eye(4)] * len(paths), [0] * len(paths), true)
    by_colmap = colmap(paths, true)
    if by_colmap is not None:
        results["colmap"] = by_colmap
    return results


def page(results: dict[str, dict[str, dict[str, float]]], model: str) -> str:
    """The table as Markdown."""
    rows = [row for row in ROWS if any(row in r for r in results.values())]
    head = ["set", "asked", *(ROWS[row] for row in rows)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, count, every, least, registered in SETS:
        result = results.get(f"{name}/{every}")
        if result is None:
            continue
        cells = [f"{result[row]['auc30']:.3f} ({result[row]['registered']})" if row in result else "" for row in rows]
        lines.append(f"| {name}, {count}, every {every} | {least:.2f} ({registered}) | {' | '.join(cells)} |")
    text = (__doc__ or "").split("\n\n")
    return "\n".join(
        [
            "# Cameras from photos",
            "",
            f"Written by `{text[1].strip()}`, depth of `{model}`.",
            "",
            text[2].strip(),
            "",
            "The spread of predicted depth (0.3) and the points that keep two views joined (10) were chosen after "
            "seeing these sets; other numbers were not.",
            "",
            "AUC@30, in brackets how many photos share the largest frame:",
            "",
            *lines,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=RECONSTRUCTOR)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--tokens", action="store_true", help=f"also a row {ROWS['tokens']} (--matches both)")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    network = mv.load(args.model)
    patch, side = int(network.config.patch_size), int(np.max(network.config.image_size))
    results = {}
    for name, count, every, _, _ in SETS:
        if args.only and not any(word in name for word in args.only):
            continue
        results[f"{name}/{every}"] = run(args.data / name, count, every, network, patch, side, tokens=args.tokens)
        print(name, every, json.dumps(results[f"{name}/{every}"]), flush=True)
    if args.write:
        args.write.write_text(page(results, args.model), encoding="utf-8")
    else:
        print(page(results, args.model))


if __name__ == "__main__":
    main()
