"""Many photos, long videos, large photos: cameras of whole sets, drift of a loop, time of stages, peak memory.

python benchmarks/many_photos.py ../shared/data --write docs/many-photos.md

Each row runs in a process of its own, so that its peak memory is its own. Processor seconds stand beside seconds of the
clock, because other programs may share the machine. Limited rows may map only so much memory beyond what the process
has mapped with everything imported and the model loaded (RLIMIT_AS; what that is stands in brackets). ATE: root mean
square distance of the camera centres of the largest frame after a similarity, as a share of the farthest centre's
distance from the middle.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

ROWS = {
    "limited_500": "500 rendered frames of 320x240, once around a room, 2000 MB more than the imports",
    "limited_128": "128 of these frames, 900 MB more than the imports",
    "redkitchen": "redkitchen_000_499, all 100 frames",
    "hololens": "hololens_000_185, all 93 frames",
    "large": "30 photos of 4000x3000 (red kitchen, enlarged)",
    "loop": "the 500 rendered frames without a limit",
    "loop_open": "the same without pairs that look alike: no loop is closed",
}
LIMITS = {"limited_128": 900, "limited_500": 2000}
"""Megabytes beyond the imports."""
RENDERED = Path(tempfile.gettempdir()) / "manyview-loop-500.npz"
FOLDERS = {"redkitchen": "redkitchen_000_499", "hololens": "hololens_000_185"}


def posed(folder: Path) -> tuple[list[Path], np.ndarray]:
    """Photos and their true cam2world (V, 4, 4)."""
    frames = [f for f in json.loads((folder / "cameras.json").read_text())["frames"] if f.get("cam2world")]
    poses = np.array([np.array(f["cam2world"], float).reshape(4, 4) for f in frames])
    return [folder / f["file"] for f in frames], poses


def large(folder: Path, work: Path) -> tuple[list[Path], np.ndarray]:
    """30 photos of 12 megapixels."""
    paths, poses = posed(folder)
    made = []
    for path in paths[::3][:30]:
        made.append(work / path.name)
        with Image.open(path) as image:
            image.resize((4000, 3000), Image.Resampling.BICUBIC).save(made[-1], quality=92)
    return made, poses[::3][:30]


def loop(views: int = 500, size: tuple[int, int] = (240, 320), seed: int = 12) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames of a camera that goes around a furnished room and a bit further, and their true cam2world."""
    from manyview.data.synthetic import furnishing, trajectories
    from manyview.data.synthetic.scene import render_world
    from manyview.geometry import poses
    from manyview.geometry.cameras import intrinsics_matrix

    world = furnishing.build(seed, "room")
    width, depth, _ = world.size
    angle = torch.linspace(0, 2 * math.pi * 1.06, views, dtype=torch.float64)
    reach = 0.34 * (1 + 0.06 * torch.sin(5 * angle))
    height = 1.55 + 0.12 * torch.sin(3 * angle)
    eyes = [width * (0.5 + reach * angle.cos()), depth * (0.5 + reach * angle.sin()), height]
    eye = torch.stack(eyes, -1).float()
    look = torch.stack([(angle + 2.2).cos(), (angle + 2.2).sin(), 0.08 * torch.sin(7 * angle) - 0.18], -1).float()
    cam2world = poses.look_at(eye, eye + look)
    focal = max(size) / 2 / math.tan(math.radians(75) / 2)
    intrinsics = intrinsics_matrix(focal, focal, size[1] / 2, size[0] / 2).expand(views, 3, 3)
    frames: list[np.ndarray] = []
    for first in range(0, views, 25):
        path = trajectories.Path("loop", cam2world[first : first + 25], intrinsics[first : first + 25])
        images = render_world(world, path, size=size, rng=Random("sensor")).images
        frames += list((images.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().numpy())
    return frames, cam2world.double().numpy()


def render() -> None:
    """Make the rendered frames, unless they are there."""
    if not RENDERED.exists():
        frames, true = loop()
        np.savez(RENDERED, frames=np.stack(frames), true=true)


def mapped() -> int:
    """Bytes of addresses that this process has mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))


def limit(megabytes: int) -> None:
    """No more addresses than so many beyond those that the libraries have taken."""
    for library in ("cv2", "poselib", "scipy.optimize", "scipy.sparse.linalg", "scipy.spatial.transform"):
        importlib.import_module(library)
    most = mapped() + megabytes * 10**6
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def as_files(frames: list[np.ndarray], work: Path) -> list[Path]:
    """PNG files of pictures, so that these take no memory."""
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(work / f"{number:04d}.png")
    return sorted(work.glob("*.png"))


def measure(row: str, data: Path, model: str) -> dict[str, Any]:
    """One row, in this process."""
    import manyview as mv
    from manyview.cameras import pairs
    from manyview.evaluation.poses import pose_numbers

    with tempfile.TemporaryDirectory() as work:
        if row == "large":
            images, true = large(data / FOLDERS["redkitchen"], Path(work))
        elif row in FOLDERS:
            images, true = posed(data / FOLDERS[row])
        else:
            with np.load(RENDERED) as stored:
                images, true = list(stored["frames"]), stored["true"]
        if row in LIMITS:
            count = int(row.split("_")[1])
            step = len(images) // count
            images, true = as_files(images[::step][:count], Path(work)), true[::step][:count]
        if row == "loop_open":
            pairs.ALIKE = 0
        network = mv.load(model)
        addresses = mapped()
        if row in LIMITS:
            limit(LIMITS[row])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        clock, busy = time.perf_counter(), time.process_time()
        scene = mv.reconstruct(images, model=network)
        seconds, processor = time.perf_counter() - clock, time.process_time() - busy
    component = [view.component if view.registered else -1 for view in scene.views]
    poses = np.stack([np.eye(4) if view.cam2world is None else view.cam2world for view in scene.views])
    numbers = pose_numbers(poses, np.array(component), true)
    centres = true[:, :3, 3]
    reach = np.linalg.norm(centres - centres.mean(0), axis=1).max()
    return {
        "photos": len(true),
        **{name: numbers[name] for name in ("auc5", "auc30", "registered")},
        "ate": None if numbers["ate"] is None else numbers["ate"] / reach,
        "seconds": seconds,
        "processor": processor,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "before_mb": before / 1000,
        "mapped_mb": addresses / 1e6,
    }


def page(results: dict[str, dict[str, Any]], model: str) -> str:
    """The table as Markdown."""
    text = (__doc__ or "").split("\n\n")
    if len(results) < len(ROWS):
        text[1] = text[1].strip().replace(" --write", f" --only {' '.join(results)} --write")
    head = "| set | registered | AUC@5 | AUC@30 | ATE | seconds | processor seconds | peak MB (before) |"
    lines = ["# Many photos", "", f"Written by `{text[1].strip()}`, model `{model}`.", "", text[2].strip(), "", head]
    lines.append("|" + "---|" * 8)
    for row in (name for name in ROWS if name in results):
        r = results[row]
        if "failed" in r:
            lines.append(f"| {ROWS[row]} | failed: {r['failed']} |" + " |" * 6)
            continue
        name = ROWS[row] + (f" ({r['mapped_mb']:.0f} MB)" if row in LIMITS else "")
        ate = "" if r["ate"] is None else f"{100 * r['ate']:.2f} %"
        lines.append(
            f"| {name} | {r['registered']:.0%} | {r['auc5']:.3f} | {r['auc30']:.3f} | {ate} | "
            f"{r['seconds']:.0f} | {r['processor']:.0f} | {r['peak_mb']:.0f} ({r['before_mb']:.0f}) |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    from manyview.pipelines.options import RECONSTRUCTOR

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=RECONSTRUCTOR)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--one", choices=[*ROWS, "render"], help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=Path, help="a JSON file of rows: those in it are not measured again")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.one == "render":
        render()
        return
    if args.one:
        print(json.dumps(measure(args.one, args.data, args.model)))
        return
    command = [sys.executable, __file__, str(args.data), "--model", args.model, "--one"]
    subprocess.run([*command, "render"], check=True)  # in a process of its own, as everything that takes memory
    kept = json.loads(args.kept.read_text()) if args.kept and args.kept.exists() else {}
    results = {}
    for row in args.only:
        if row not in kept:
            done = subprocess.run([*command, row], capture_output=True, text=True, check=False)
            if done.returncode:
                kept[row] = {"failed": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]}
            else:
                kept[row] = json.loads(done.stdout.splitlines()[-1])
            print(row, json.dumps(kept[row]), flush=True)
            if args.kept:
                args.kept.write_text(json.dumps(kept))
        results[row] = kept[row]
        if args.write:  # after each row, for the rows take minutes
            args.write.write_text(page(results, args.model), encoding="utf-8")
    if not args.write:
        print(page(results, args.model))


if __name__ == "__main__":
    main()
