"""Procedural scenes on disk: a folder per scene in the cameras.json layout, and one manifest over all of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyview.data.manifest import Frame, Manifest
from manyview.data.synthetic.models import CLASSES
from manyview.data.synthetic.scene import RenderedScene, check_request, render_scene
from manyview.errors import UserError
from manyview.progress import track

MANIFEST = "manifest.parquet"
CAMERAS = "cameras.json"
VERSION = 2  # of the generator: raise it when the same seed gives other pixels
DEPTH_SCALE = 0.001
CONVENTION = (
    "cam2world: 4x4, maps camera coordinates to world coordinates (x_world = cam2world @ x_cam). OpenCV camera axes: "
    "+x right, +y down, +z forward; the world's z axis points up. K in pixels for the stored image, pixel centres at "
    "+0.5 (top-left pixel centre = (0.5, 0.5))."
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the pixels of a data set; a scene is also decided by its number."""

    seed: int = 0
    views: int = 8
    size: tuple[int, int] = (224, 518)  # H, W
    kind: str = "auto"
    trajectory: str = "auto"
    normals: bool = False  # also write normals/*.png

    def of_scene(self, index: int) -> dict[str, Any]:
        """As kept beside every scene, to recognise it again."""
        return {
            "version": VERSION, "seed": self.scene_seed(index), "views": self.views, "size": list(self.size),
            "kind": self.kind, "trajectory": self.trajectory, "normals": self.normals,
        }  # fmt: skip

    def scene_seed(self, index: int) -> int:
        """Sets of different seeds share no scene."""
        return self.seed * 1_000_000 + index


def write_scenes(
    out: str | Path,
    *,
    scenes: int,
    workers: int = 1,
    device: str = "cpu",
    progress: bool | None = None,
    **choices: Any,
) -> Path:
    """Render scenes 0 .. `scenes` - 1 into `out` and return the manifest's path.

    `choices` are the fields of Settings: seed, views, size, kind, trajectory, normals.

    Scenes that are there already are kept, so an interrupted run goes on where it stopped and a larger number adds
    to a smaller one. Raises UserError when `out` holds scenes of other settings. `workers` processes work on one
    thread each.
    """
    out, settings = Path(out), Settings(**choices)
    if scenes < 1 or workers < 1:
        raise UserError(f"scenes={scenes}, workers={workers}: both must be at least 1")
    check_request(settings.views, settings.size, settings.kind, settings.trajectory)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder to write scenes into")
    out.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(scenes) if not _present(out, index, settings)]
    done = _in_processes if workers > 1 and len(missing) > 1 else _one_by_one
    for _ in track(
        done(out, missing, settings, workers, device),
        total=len(missing),
        label="scenes",
        unit="scene",
        enabled=progress,
    ):
        pass
    frames = [frame for index in range(scenes) for frame in _frames(out, index)]
    info = {
        "generator": "manyview data synth",
        "classes": list(CLASSES),
        "units": "metres",
        "seed": settings.seed,
    }
    path = out / MANIFEST
    Manifest(frames, out, info).save(path)
    return path


def scene_name(index: int) -> str:
    return f"scene_{index:06d}"


def _present(out: Path, index: int, settings: Settings) -> bool:
    """Whether a scene is there. Raises UserError when it was made with other settings."""
    file = out / scene_name(index) / CAMERAS
    if not file.exists():
        return False
    try:
        found = json.loads(file.read_bytes())["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} was not written by manyview data synth; choose an empty folder") from error
    wanted = settings.of_scene(index)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise UserError(
                f"{file.parent} was made with {key}={found.get(key)}, not {value}; "
                "use the same settings to go on, or another folder"
            )
    return True


def _one_by_one(
    out: Path, missing: list[int], settings: Settings, workers: int, device: str
) -> Iterator[int]:
    for index in missing:
        write_scene(out, index, settings, device)
        yield index


def _in_processes(
    out: Path, missing: list[int], settings: Settings, workers: int, device: str
) -> Iterator[int]:
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    workers = min(workers, len(missing))
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        futures = [pool.submit(write_scene, out, index, settings, device) for index in missing]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def write_scene(out: Path, index: int, settings: Settings, device: str = "cpu") -> int:
    """Render one scene into `out`: its folder appears when it is complete."""
    scene = render_scene(
        settings.scene_seed(index), views=settings.views, size=settings.size, kind=settings.kind,
        trajectory=settings.trajectory, device=device,
    )  # fmt: skip
    partial = out / f".{scene_name(index)}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    _write_maps(partial, scene, normals=settings.normals)
    entries = []
    for view in range(len(scene.images)):
        file = f"{view:04d}.png"
        entry = {
            "file": f"images/{file}", "size": [settings.size[1], settings.size[0]],
            "K": scene.intrinsics[view].tolist(), "cam2world": scene.cam2world[view].tolist(),
            "depth": f"depth/{file}", "label": f"labels/{file}", "instances": f"instances/{file}",
        }  # fmt: skip
        entries.append(entry | ({"normals": f"normals/{file}"} if settings.normals else {}))
    content = {
        "convention": CONVENTION, "pixel_centres": 0.5, "units": "metres",
        "depth_png": "uint16, 0 = no value, millimetres along the optical axis (z)",
        "label_names": list(CLASSES), "kind": scene.kind, "trajectory": scene.trajectory,
        "settings": settings.of_scene(index), "frames": entries,
    }  # fmt: skip
    (partial / CAMERAS).write_text(json.dumps(content), encoding="utf-8")
    target = out / scene_name(index)
    if target.exists():  # without its cameras.json: not one of ours, or cut off by hand
        raise UserError(f"{target} exists but has no {CAMERAS}; move it away, or choose another folder")
    partial.rename(target)
    return index


def _write_maps(folder: Path, scene: RenderedScene, *, normals: bool) -> None:
    """images, depth (16-bit millimetres), labels (8-bit), instances (16-bit), maybe normals ((n + 1) / 2, camera)."""
    maps = {
        "images": (scene.images.permute(0, 2, 3, 1).flip(-1) * 255 + 0.5)
        .clamp(0, 255)
        .to(torch.uint8),  # BGR
        "depth": (scene.depth / DEPTH_SCALE + 0.5).clamp(1, 65535).to(torch.int32),
        "labels": scene.labels,
        "instances": scene.instances.to(torch.int32),
    }
    if normals:
        maps["normals"] = ((scene.normals.flip(-1) + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8)
    for name, values in maps.items():
        (folder / name).mkdir(parents=True)
        array = values.cpu().numpy()
        if name in ("depth", "instances"):
            array = array.astype(np.uint16)
        for view, picture in enumerate(array):
            _write_png(folder / name / f"{view:04d}.png", picture)


def _write_png(path: Path, picture: np.ndarray) -> None:
    import cv2

    _, content = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 2])
    path.write_bytes(content.tobytes())


def _frames(out: Path, index: int) -> Iterator[Frame]:
    """The manifest's rows of a scene, from its cameras.json."""
    name = scene_name(index)
    for entry in json.loads((out / name / CAMERAS).read_bytes())["frames"]:
        (fx, _, cx), (_, fy, cy), _ = entry["K"]
        yield Frame(
            dataset="manyview-synth", scene=name, frame=Path(entry["file"]).stem, split="train",
            image=f"{name}/{entry['file']}", width=entry["size"][0], height=entry["size"][1],
            fx=fx, fy=fy, cx=cx, cy=cy, cam2world=tuple(value for row in entry["cam2world"] for value in row),
            depth=f"{name}/{entry['depth']}", depth_scale=DEPTH_SCALE, labels=f"{name}/{entry['label']}",
            instances=f"{name}/{entry['instances']}",
        )  # fmt: skip
