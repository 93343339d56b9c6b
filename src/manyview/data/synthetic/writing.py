"""Procedural scenes on disk: a folder per scene in the cameras.json layout, and one manifest over all of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.data.manifest import Frame, Manifest
from manyview.data.synthetic.models import CLASSES
from manyview.data.synthetic.scene import RenderedScene, check_request, render_scene
from manyview.errors import UserError
from manyview.files import parse_json
from manyview.images.exposure import Exposures, exposed
from manyview.progress import track
from manyview.written import one_file, refuse_other_file

MANIFEST = "manifest.parquet"
CAMERAS = "cameras.json"
VERSION = 2  # of the generator: raise it when the same seed gives other pixels
DEPTH_SCALE = 0.001
FILES = {"image": "file", "depth": "depth", "labels": "label", "instances": "instances"}  # manifest: cameras.json
CONVENTIONS = {
    "convention": "cam2world: 4x4, maps camera coordinates to world coordinates (x_world = cam2world @ x_cam). "
    "OpenCV camera axes: +x right, +y down, +z forward; the world's z axis points up. K in pixels for the stored "
    "image, pixel centres at +0.5 (top-left pixel centre = (0.5, 0.5)).",
    "pixel_centres": 0.5,
    "units": "metres",
    "depth_png": "uint16, 0 = no value, millimetres along the optical axis (z)",
    "label_names": list(CLASSES),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the pixels of a data set; a scene is also decided by its number."""

    seed: int = 0
    views: int = 8
    size: tuple[int, int] = (224, 518)  # H, W
    kind: str = "auto"
    trajectory: str = "auto"
    normals: bool = False  # also write normals/*.png
    gain: float = 0.0  # every frame's channels are brighter or darker by up to this share
    gamma: float = 0.0  # and their values get an exponent of exp(-gamma) to exp(gamma)

    @property
    def exposures(self) -> Exposures:
        return Exposures(self.gain, self.gamma)

    def of_scene(self, index: int) -> dict[str, Any]:
        """As kept beside every scene, to recognise it again."""
        choices = asdict(self) | {"seed": self.scene_seed(index), "size": list(self.size)}
        if not self.exposures:  # as before there were any
            del choices["gain"], choices["gamma"]
        return {"version": VERSION, **choices}

    def scene_seed(self, index: int) -> int:
        """Sets of different seeds share no scene."""
        return self.seed * 1_000_000 + index


def write_scenes(
    out: str | Path, *, scenes: int, workers: int = 1, device: str = "cpu", progress: bool | None = None, **choices: Any
) -> Path:
    """Render scenes 0 .. `scenes` - 1 into `out` and return the manifest's path.

    `choices` are the fields of Settings: seed, views, size, kind, trajectory, normals, gain, gamma.

    Scenes that are there already are kept, so an interrupted run goes on where it stopped and a larger number
    adds to a smaller one. Raises UserError when `out` holds scenes of other settings. `workers` processes work on
    one thread each.
    """
    out, settings = Path(out), Settings(**choices)
    if scenes < 1 or workers < 1:
        raise UserError(f"scenes={scenes}, workers={workers}: both must be at least 1")
    check_request(settings.views, settings.size, settings.kind, settings.trajectory)
    settings.exposures  # noqa: B018 - refuses what no frame could bear
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder to write scenes into")
    refuse_other_file(out / MANIFEST)
    out.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(scenes) if not _present(out, index, settings)]
    write = partial(write_scene, out, settings=settings, device=device)
    workers = min(workers, len(missing))
    done = _in_processes(write, missing, workers) if workers > 1 else map(write, missing)
    for _ in track(done, total=len(missing), label="scenes", unit="scene", enabled=progress):
        pass
    frames = [frame for index in range(scenes) for frame in _frames(out, index)]
    info = {"generator": "manyview data synth", "classes": list(CLASSES), "units": "metres", "seed": settings.seed}
    with one_file(out / MANIFEST):
        return Manifest(frames, out, info).save(out / MANIFEST)


def scene_name(index: int) -> str:
    return f"scene_{index:06d}"


def _present(out: Path, index: int, settings: Settings) -> bool:
    """Whether a scene is written already. Raises UserError when it was made with other settings."""
    file = out / scene_name(index) / CAMERAS
    if not file.exists():
        return False
    try:
        made_with = dict(parse_json(file.read_bytes())["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} was not written by manyview data synth; choose an empty folder") from error
    for key, value in settings.of_scene(index).items():
        if made_with.get(key) != value:
            raise UserError(
                f"{file.parent} was made with {key}={made_with.get(key)}, not {value}; "
                "use the same settings to go on, or another folder"
            )
    return True


def _in_processes(write: Callable[[int], None], indices: list[int], workers: int) -> Iterator[None]:
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import active_children, get_context

    others = set(active_children())
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        futures = [pool.submit(write, index) for index in indices]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(active_children()) - others:  # what they have not finished the next run begins anew
                process.terminate()
            raise


def write_scene(out: Path, index: int, settings: Settings, device: str = "cpu") -> None:
    """Render one scene into `out`: its folder appears when it is complete."""
    seed, path = settings.scene_seed(index), settings.trajectory
    scene = render_scene(
        seed, views=settings.views, size=settings.size, kind=settings.kind, trajectory=path, device=device
    )
    draft, target = out / f".{scene_name(index)}.partial", out / scene_name(index)
    shutil.rmtree(draft, ignore_errors=True)
    maps = _maps(scene, settings, seed)
    for (folder, _), pictures in maps.items():
        (draft / folder).mkdir(parents=True)
        for view, picture in enumerate(pictures):
            _write_png(draft / folder / f"{view:04d}.png", picture)
    frames = [
        {key: f"{folder}/{view:04d}.png" for folder, key in maps}
        | {"size": [settings.size[1], settings.size[0]], "K": K.tolist(), "cam2world": pose.tolist()}
        for view, (K, pose) in enumerate(zip(scene.intrinsics, scene.cam2world))
    ]
    content = CONVENTIONS | {"kind": scene.kind, "trajectory": scene.trajectory}
    content |= {"settings": settings.of_scene(index), "frames": frames}
    (draft / CAMERAS).write_text(json.dumps(content), encoding="utf-8")
    if target.exists():  # without its cameras.json: another program made it, or somebody took it away
        raise UserError(f"{target} exists but has no {CAMERAS}; move it away, or choose another folder")
    draft.rename(target)


def _maps(scene: RenderedScene, settings: Settings, seed: int) -> dict[tuple[str, str], np.ndarray]:
    """What is stored, by folder and key in cameras.json.

    BGR pictures, depth (16-bit millimetres), labels (8-bit), instances (16-bit), and, if wanted, normals in the camera
    frame as (n + 1) / 2.
    """
    depth = (scene.depth / DEPTH_SCALE + 0.5).clamp(1, 65535)
    images = _bytes(scene.images.permute(0, 2, 3, 1) * 255)
    if settings.exposures:
        frames = enumerate(images)
        images = np.stack([exposed(image, settings.exposures.of(f"{view}", seed)) for view, image in frames])
    maps = {
        ("images", "file"): np.ascontiguousarray(images[..., ::-1]),
        ("depth", "depth"): depth.to(torch.int32).cpu().numpy().astype(np.uint16),
        ("labels", "label"): scene.labels.cpu().numpy(),
        ("instances", "instances"): scene.instances.cpu().numpy().astype(np.uint16),
    }
    return maps | ({("normals", "normals"): _bytes((scene.normals.flip(-1) + 1) * 127.5)} if settings.normals else {})


def _bytes(values: Tensor) -> np.ndarray:
    return (values + 0.5).clamp(0, 255).to(torch.uint8).cpu().numpy()


def _write_png(path: Path, picture: np.ndarray) -> None:
    import cv2

    _, content = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 2])
    path.write_bytes(content.tobytes())


def _frames(out: Path, index: int) -> list[Frame]:
    """The manifest's rows of a scene, from its cameras.json. Raises UserError for a damaged one."""
    try:
        return list(_entries(out, index))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        folder = out / scene_name(index)
        raise UserError(f"{folder / CAMERAS} is damaged; remove {folder} and run the same line again") from error


def _entries(out: Path, index: int) -> Iterator[Frame]:
    name = scene_name(index)
    for entry in parse_json((out / name / CAMERAS).read_bytes())["frames"]:
        (fx, _, cx), (_, fy, cy), _ = entry["K"]
        files = {field: f"{name}/{entry[key]}" for field, key in FILES.items()}
        yield Frame(
            "manyview-synth",
            name,
            Path(entry["file"]).stem,
            "train",
            files["image"],
            width=entry["size"][0],
            height=entry["size"][1],
            fx=fx,
            fy=fy,
            cx=cx,
            cy=cy,
            cam2world=tuple(value for row in entry["cam2world"] for value in row),
            depth=files["depth"],
            depth_scale=DEPTH_SCALE,
            labels=files["labels"],
            instances=files["instances"],
        )
