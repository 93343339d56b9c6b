"""Sequences of frames that see the same things: chunks of ordered data, chains through photo collections.

MuM, appendix "Data": ordered scenes are cut into chunks; MegaDepth is chained by D2-Net's overlap matrices from
random anchors; MegaScenes by shared 3D points, IoU * 4 cos(1 - cos) of the angle between the views (CroCo), from
the images that see most points. The released script for MegaDepth takes an anchor's nearest neighbours instead,
and the one for MegaScenes does not chain at all but dumps whole models.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.columns import Groups, by_scene
from manyview.data.manifest import Manifest
from manyview.errors import UserError

GROUPS, CHUNK, MADE_FOR = "groups", "chunk", "groups_frames"
"""Keys of a manifest's info: lists of row numbers, or frames of a chunk; how many rows the groups are for."""


def chunks(count: int, size: int) -> list[list[int]]:
    """0 ... count-1 cut into runs of `size`; the last takes the rest."""
    if size < 1:
        raise UserError(f"chunks of {size} frames: give at least 1")
    starts = [*range(0, count - size + 1, size)] or [0]
    return [list(range(a, b)) for a, b in zip(starts, [*starts[1:], count], strict=True)] if count else []


def chains(
    score: np.ndarray,
    *,
    length: int,
    minimum: int = 2,
    seed: int = 0,
    count: int | None = None,
    starts: Sequence[int] | None = None,
) -> list[list[int]]:
    """Greedy chains through a (N, N) score, each next image the best unused one for the current; <= 0 ends it.

    `count` chains from random anchors (default: every image once, in random order), images used again by other
    chains; or, with `starts`, one from each of these in turn, and no image is in two chains. Chains have at most
    `length` images, those of fewer than `minimum` are left out.
    """
    score = np.asarray(score)
    if score.ndim != 2 or score.shape[0] != score.shape[1]:
        raise UserError(f"scores have shape {score.shape}; they must be (N, N), one row per image")
    if not 1 <= minimum <= length:
        raise UserError(f"chains of {minimum} to {length} images: give at least 1, and no fewer at most")
    anchors: Sequence[int] | np.ndarray = () if starts is None else starts
    if starts is None and len(score):
        rng, wanted = np.random.default_rng(seed), len(score) if count is None else count
        rounds = [rng.permutation(len(score)) for _ in range(-(-wanted // len(score)))]  # each image once in a round
        anchors = np.concatenate([*rounds, np.empty(0, np.int64)])[:wanted]
    taken = np.zeros(len(score), bool)
    linked = []
    for anchor in anchors:
        if taken[anchor]:
            continue
        chain, used = [int(anchor)], taken.copy()
        used[anchor] = True
        while len(chain) < length:
            row = np.where(used, -np.inf, score[chain[-1]])
            best = int(row.argmax())
            if not row[best] > 0:
                break
            chain.append(best)
            used[best] = True
        if len(chain) >= minimum:
            linked.append(chain)
            if starts is not None:
                taken[chain] = True
    return linked


def point_iou(seen: Sequence[np.ndarray]) -> np.ndarray:
    """(N, N) float32: shared over all 3D points of two images, from the ids each image sees. 0 on the diagonal."""
    from scipy.sparse import csr_array

    counts = np.array([len(ids) for ids in seen], np.int64)
    _, columns = np.unique(np.concatenate([*seen, np.empty(0, np.int64)]), return_inverse=True)
    rows = np.repeat(np.arange(len(seen)), counts)
    shape = (len(seen), int(columns.max(initial=-1)) + 1)
    incidence = csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    shared = (incidence @ incidence.T).toarray()
    together = counts[:, None] + counts[None] - shared
    iou = np.divide(shared, together, out=np.zeros_like(shared), where=together > 0)
    np.fill_diagonal(iou, 0)
    return iou


def view_angles(cam2world: np.ndarray) -> np.ndarray:
    """(N, 4, 4) poses -> (N, N) degrees between the optical axes."""
    axes = np.asarray(cam2world, np.float64)[:, :3, 2]
    return np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1)))


def croco_score(
    iou: np.ndarray, degrees: np.ndarray, *, least_iou: float = 0.1, least_angle: float = 10.0
) -> np.ndarray:
    """(N, N): IoU * 4 cos(1 - cos), largest at 60 degrees; 0 for too little overlap or too equal views."""
    cosine = np.cos(np.radians(degrees))
    score = iou * 4 * cosine * (1 - cosine)
    return np.where((iou >= least_iou) & (degrees >= least_angle), np.maximum(score, 0), 0)


def point_chains(
    seen: Sequence[np.ndarray], cam2world: np.ndarray, *, length: int = 256, minimum: int = 24, **limits: float
) -> list[list[int]]:
    """MuM's sequences of a COLMAP model: chains by CroCo's score, from the images that see most points."""
    score = croco_score(point_iou(seen), view_angles(cam2world), **limits)
    starts = sorted(range(len(seen)), key=lambda i: (-len(seen[i]), i))
    return chains(score, length=length, minimum=minimum, starts=starts)


def groups_of(manifest: Manifest, *, chunk: int | None = None) -> Groups:
    """Row numbers of the frames that are looked at together.

    The groups a scan of a photo collection wrote; else each scene in natural order, cut every `chunk` frames
    (default: what the data set's scan says; without any, whole scenes).
    """
    info = manifest.info
    if info.get(GROUPS):
        if info.get(MADE_FOR, len(manifest)) != len(manifest):
            raise UserError(
                f"the manifest's groups are for {info[MADE_FOR]} frames, it has {len(manifest)}: a selection; "
                "scan the data again with --frames, --stride or --max-frames instead"
            )
        return Groups.of(info[GROUPS])
    size = chunk or info.get(CHUNK)
    _, scenes = by_scene(manifest.frames)
    if not size:
        return scenes
    lengths = [len(piece) for count in scenes.lengths.tolist() for piece in chunks(count, int(size))]
    return Groups(scenes.order, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


@dataclass(frozen=True)
class SceneInfo:
    """What D2-Net's preprocessing wrote of one MegaDepth scene."""

    names: list[str | None]
    """The images' file names; None for one whose undistorted image was missing."""
    overlap: np.ndarray
    """(N, N): shared 3D points over the smaller image's, -1 where not measured."""
    world2cam: list[np.ndarray | None]
    intrinsics: list[np.ndarray | None]


def read_scene_info(path: Path) -> SceneInfo:
    """An NNNN.K.npz of D2-Net (megadepth_utils/preprocess_scene.py). Raises ValueError for other content.

    Its lists are pickled; nothing but plain numpy arrays is unpickled.
    """
    with zipfile.ZipFile(path) as file:
        images, poses, lenses = (_array(file, key) for key in ("image_paths", "poses", "intrinsics"))
        overlap = _array(file, "overlap_matrix")
    count = len(images)
    if overlap.shape != (count, count):
        raise ValueError(f"overlap_matrix is {overlap.shape} for {count} images")
    return SceneInfo(
        names=[None if name is None else str(name).rsplit("/", 1)[-1] for name in images],
        overlap=overlap,
        world2cam=[None if pose is None else np.asarray(pose, np.float64).reshape(4, 4) for pose in poses],
        intrinsics=[None if lens is None else np.asarray(lens, np.float64).reshape(3, 3) for lens in lenses],
    )


_PLAIN = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _Arrays(pickle.Unpickler):
    """Unpickles numpy arrays of plain values, and refuses anything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise ValueError(f"it holds a pickled {module}.{name}, which is not read")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _array(file: zipfile.ZipFile, key: str) -> np.ndarray:
    try:
        data = io.BytesIO(file.read(f"{key}.npy"))
    except KeyError:
        raise ValueError(f"it has no {key}") from None
    version = np.lib.format.read_magic(data)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = header(data)
    if not kind.hasobject:
        data.seek(0)
        return np.load(data, allow_pickle=False)
    return np.asarray(_Arrays(data).load()).reshape(shape)
