"""Two cameras in one set of photos of one size: rooms where their focal lengths are told apart, and rooms where not.

python benchmarks/two_lenses.py --write docs/two-lenses.md

Six rendered photos of a room (320x240), every other one with a focal length 1.6 times as long; nothing is known of
them. Found: median error of the focal lengths, and in brackets how many lenses. Largest error in degrees: of rotations
and directions between all pairs; "apart" where a photo is not in the frame of the others. Beside it the same photos as
if one lens had taken them all, the true focal lengths given, and the control: the same way of the camera with one lens.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import manyview as mv
from manyview.cameras import solve
from manyview.cameras.sharing import Placement
from manyview.data.synthetic import furnishing, trajectories
from manyview.data.synthetic.scene import render_world
from manyview.metrics.pose import relative_pose_errors
from manyview.pipelines.options import RECONSTRUCTOR
from manyview.scene.scene import Scene

SIZE, ZOOM = (240, 320), 1.6
BAD = 10.0
"""Largest error in degrees past which cameras are called bad."""


def photos(seed: int, zooms: list[float]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Photos of a room, true intrinsics (V, 3, 3) and cam2world (V, 4, 4)."""
    world = furnishing.build(seed, "room")
    path = trajectories.choose(world, Random(seed), views=len(zooms), size=SIZE, name="orbit", look=False)
    matrices = path.intrinsics.clone()
    matrices[:, [0, 1], [0, 1]] *= torch.tensor(zooms)[:, None]
    scene = render_world(world, replace(path, intrinsics=matrices), size=SIZE, rng=Random(seed))
    images = (scene.images.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().numpy()
    return list(images), matrices.double().numpy(), scene.cam2world.double().numpy()


def largest(scene: Scene, true: np.ndarray) -> float:
    """Degrees of rotation or direction; infinite where a photo is not in the frame of the others."""
    if any(not view.registered or view.component for view in scene.views):
        return float("inf")
    ours = np.stack([view.pose for view in scene.views])
    turn, shift, _ = relative_pose_errors(np.linalg.inv(ours), np.linalg.inv(true))
    return float(np.maximum(turn, shift).max())


def as_one(shared: Placement, *_: Any) -> Placement:
    """What by_own_lenses gives where it never tells lenses apart."""
    return shared


def room(seed: int, network: Any) -> dict[str, Any]:
    """All numbers of one room."""
    images, intrinsics, true = photos(seed, [1.0, ZOOM] * 3)
    found = mv.reconstruct(images, model=network)
    focals = np.array([view.source.intrinsics[0, 0] for view in found.views])
    given = mv.reconstruct(images, model=network, intrinsics=list(intrinsics))
    own_lenses, solve.by_own_lenses = solve.by_own_lenses, as_one
    try:
        shared = mv.reconstruct(images, model=network)
    finally:
        solve.by_own_lenses = own_lenses
    images, _, same = photos(seed, [1.0] * 6)
    alike = mv.reconstruct(images, model=network)
    return {
        "off": float(np.median(np.abs(focals / intrinsics[:, 0, 0] - 1))),
        "lenses": len(np.unique(focals)),
        "found": largest(found, true),
        "shared": largest(shared, true),
        "given": largest(given, true),
        "control": largest(alike, same),
        "control lenses": len({view.source.intrinsics[0, 0] for view in alike.views}),
    }


def page(rooms: dict[int, dict[str, Any]], model: str) -> str:
    """The table as Markdown."""
    text = (__doc__ or "").split("\n\n")
    lines = ["# Two lenses", "", f"Written by `{text[1].strip()}`, depth of `{model}`.", "", text[2].strip(), ""]
    kinds = ("found", "shared", "given", "control")
    lines += ["| room | focal lengths off (lenses) | found | as one lens | given | control: one lens (lenses) |"]
    lines.append("|" + "---|" * 6)
    for seed, one in rooms.items():
        cells = [f"{one[kind]:.1f}°" if np.isfinite(one[kind]) else "apart" for kind in kinds]
        cells[-1] += f" ({one['control lenses']})"
        lines.append(f"| {seed} | {one['off']:.0%} ({one['lenses']}) | {' | '.join(cells)} |")
    bad = [sum(one[kind] > BAD for one in rooms.values()) for kind in kinds]
    lines.append(f"| bad (over {BAD:.0f}° or apart) | | {' | '.join(f'{count} of {len(rooms)}' for count in bad)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=10)
    parser.add_argument("--model", default=RECONSTRUCTOR)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    network, rooms = mv.load(args.model), {}
    for seed in range(args.rooms):
        rooms[seed] = room(seed, network)
        print(seed, rooms[seed], flush=True)
    text = page(rooms, args.model)
    if args.write:
        args.write.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
