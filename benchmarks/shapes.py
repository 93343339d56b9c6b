"""Cameras from landscape, portrait and square crops of the same photos: no shape may cost what another gives.

python benchmarks/shapes.py ../shared/data --write docs/shapes.md

Of every photo the square in its middle, and of that the middle three quarters across and upright: the same area. AUC@30
as in benchmarks/cameras.py, intrinsics unknown. Mixed: every other photo of a set upright; two neighbours then share
but the part that both crops show, three quarters of what they share otherwise. Inner, the control, has that part alone.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np

import manyview as mv
from cameras import SETS, frames, judge
from manyview.images.reading import read_image
from manyview.pipelines.options import RECONSTRUCTOR

SHAPES = ("landscape", "portrait", "square", "mixed", "inner")


def cropped(photo: np.ndarray, shape: str) -> np.ndarray:
    """The middle of a photo (H, W, 3)."""
    side = min(photo.shape[:2])
    height = side * 3 // 4 if shape in ("landscape", "inner") else side
    width = side * 3 // 4 if shape in ("portrait", "inner") else side
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    return photo[top : top + height, left : left + width]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=RECONSTRUCTOR)
    parser.add_argument("--only", nargs="*", default=[], help="words that names of sets contain")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    network = mv.load(args.model)
    lines, every = [f"| set | {' | '.join(SHAPES)} |", "|" + "---|" * (len(SHAPES) + 1)], []
    for name, count, step, *_ in SETS:
        if args.only and not any(word in f"{name}/{step}" for word in args.only):
            continue
        paths, true = frames(args.data / name, count, step)
        photos = [read_image(str(path)) for path in paths]
        row = []
        for shape in SHAPES:
            kinds = ["landscape", "portrait"] * len(photos) if shape == "mixed" else [shape] * len(photos)
            crops = [cropped(photo, kind) for photo, kind in zip(photos, kinds, strict=False)]
            views = mv.reconstruct(crops, model=network).views
            poses = [view.cam2world if view.registered else None for view in views]
            row.append(judge(poses, [view.component for view in views], true)["auc30"])
        every.append(row)
        lines.append(f"| {name}, {count}, every {step} | {' | '.join(f'{value:.3f}' for value in row)} |")
        print(lines[-1], flush=True)
    means = np.mean(every, 0)
    lines.append(f"| mean | {' | '.join(f'{value:.3f}' for value in means)} |")
    print(lines[-1])
    text = (__doc__ or "").split("\n\n")
    if args.only:
        text[1] = text[1].strip().replace(" --write", f" --only {' '.join(args.only)} --write")
    page = ["# Shapes of photos", "", f"Written by `{text[1].strip()}`, depth of `{args.model}`.", "", text[2].strip()]
    if args.write:
        args.write.write_text("\n".join([*page, "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
