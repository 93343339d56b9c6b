"""Depth and confidence of reconstructed photos against measured depth: by scale, tied to points, and what is believed.

python benchmarks/dense.py ../shared/data --write docs/dense.md

Depth is compared with the sensor's after one scale for the whole scene (AbsRel, mean over views). Rank correlation:
Spearman's, of confidence with less error; a shuffled confidence must be at 0. The correction and its numbers were
chosen on the red kitchen, every 6th frame; that views which rest on depth are not compared, on every frame of it (from
one place all views err alike: there calibration took the correlation from 0.41 to 0.26). Hololens had no part in that.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr

import manyview as mv
from manyview.images.fit import longest
from manyview.images.inputs import Take, gather
from manyview.pipelines.answers import ask
from manyview.pipelines.evidence import solved, views_at
from manyview.pipelines.options import ReconstructOptions
from manyview.scene.agreement import compare
from manyview.scene.views import SceneView

SETS = [("redkitchen_000_499", 6), ("redkitchen_000_499", 1), ("hololens_000_185", 2), ("hololens_000_185", 4)]
FRAMES = 8


def measured(view: SceneView, path: Path) -> np.ndarray:
    """(H, W) metres at the view's pixels, 0 for none."""
    sensor = np.asarray(Image.open(path)).astype(np.float64) / 1000
    height, width = view.depth.shape
    every = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5, [1.0]), -1).reshape(-1, 3)
    column, row = (every @ np.linalg.inv(view.source.affine).T)[:, :2].astype(int).T
    found: np.ndarray = sensor[row.clip(0, len(sensor) - 1), column.clip(0, sensor.shape[1] - 1)]
    return found.reshape(height, width)


def errors(views: list[SceneView], true: list[np.ndarray]) -> list[np.ndarray]:
    """Per view (H, W) relative errors after one scale for all; NaN where nothing was measured or said."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [np.where((t > 0) & view.valid, t / view.depth, np.nan) for view, t in zip(views, true, strict=True)]
        scale = np.nanmedian(np.concatenate([ratio.ravel() for ratio in ratios]))
        return [np.abs(scale / ratio - 1) for ratio in ratios]


def run(folder: Path, every: int, network: object) -> dict[str, float]:
    """The numbers of one row."""
    rows = json.loads((folder / "cameras.json").read_text())["frames"][::every][:FRAMES]
    patch, side = int(network.config.patch_size), int(np.max(network.config.image_size))
    paths = [folder / row["file"] for row in rows]
    photos, _ = gather(paths, lambda size: longest(size, long_side=side, multiple=patch), Take(), strict=True)
    maps = ask(network, photos, [None] * len(photos), torch.device("cpu"))
    found = solved(photos, maps, None, ReconstructOptions())
    numbers: dict[str, float] = {}
    kept = [index for index, camera in enumerate(found.cameras) if camera.registered and camera.component == 0]
    for name, bent in (("scale", False), ("tied", True)):
        views = views_at(photos, maps, found, bent=bent)
        chosen = [views[index] for index in kept]
        true = [measured(view, folder / "depth" / f"{paths[i].stem}.png") for view, i in zip(chosen, kept, strict=True)]
        off = errors(chosen, true)
        numbers[name] = float(np.mean([np.nanmean(error) for error in off]))
    wrong, raw = np.concatenate([e.ravel() for e in off]), np.concatenate([v.confidence.ravel() for v in chosen])
    compare(views, found.tracks)
    sure = np.concatenate([view.confidence.ravel() for view in chosen])
    denied = np.concatenate([view.denied.ravel() for view in chosen])
    known = np.isfinite(wrong)
    shuffled = np.random.default_rng(0).permutation(sure[known])
    for name, values in (("raw", raw[known]), ("calibrated", sure[known]), ("shuffled", shuffled)):
        numbers[name] = float(spearmanr(values, -wrong[known])[0])
    numbers |= {"kept": float(1 - denied[known].mean()), "of_kept": float(wrong[known & ~denied].mean())}
    numbers |= {"of_denied": float(wrong[known & denied].mean()), "views": len(kept)}
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="manyview-small")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    network = mv.load(args.model)
    keys = ("scale", "tied", "raw", "calibrated", "shuffled", "kept", "of_kept", "of_denied")
    heads = ["AbsRel, a scale per view", "AbsRel, tied to points", "rank correlation, raw confidence", "calibrated"]
    heads += ["shuffled", "pixels not contradicted", "their error", "error of contradicted ones"]
    lines = [f"| set | views | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 2)]
    for name, every in SETS:
        numbers = run(args.data / name, every, network)
        cells = " | ".join(f"{numbers[key]:.3f}" if np.isfinite(numbers[key]) else "–" for key in keys)
        lines.append(f"| {name}, {FRAMES}, every {every} | {numbers['views']} | {cells} |")
        print(lines[-1], flush=True)
    text = (__doc__ or "").split("\n\n")
    page = ["# Depth and confidence", "", f"Written by `{text[1].strip()}`, model `{args.model}`.", "", text[2].strip()]
    if args.write:
        args.write.write_text("\n".join([*page, "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
