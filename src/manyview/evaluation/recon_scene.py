"""The points of many views together against measured ones (MuM, Table 3: DTU, ETH3D; VGGT, Pi3), nothing trained.

All views are seen at once, in the first one's frame. The points are moved onto the measured ones by one similarity over
the pixels that have both (Umeyama), and, where asked for, by ICP. Accuracy: from a point to the nearest measured one;
completeness: the other way round; in the unit of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.pairs import is_measured
from manyview.errors import UserError
from manyview.evaluation.base import (
    PROTOCOLS,
    Answer,
    Item,
    Method,
    Model,
    Number,
    Protocol,
    Row,
    Summary,
    Work,
    skipped,
)
from manyview.evaluation.published import wanted
from manyview.evaluation.views import scene_sizes
from manyview.evaluation.work import Skipped
from manyview.geometry import pointmaps, poses
from manyview.geometry.alignment import apply_similarity, similarity
from manyview.images.reading import ImageProblem
from manyview.metrics.cloud import cloud_metrics
from manyview.metrics.reconstruction import FEWEST_PIXELS
from manyview.models.model import Reconstructs, Role, device_of
from manyview.pipelines.answers import told
from manyview.pipelines.picture_table import places
from manyview.progress import track

ROUNDS = 30
"""Of ICP, at most."""
KEYS = ("accuracy", "accuracy_median", "completeness", "completeness_median")


@PROTOCOLS.add("recon-scene")
@dataclass(frozen=True, kw_only=True)
class ReconScene(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "recon-scene"
    line: ClassVar[str] = "accuracy and completeness of many views' points together (MuM, Table 3: DTU)"
    needs: ClassVar[type[Role]] = Reconstructs
    next_step: ClassVar[str] = "reconstruct IMAGES -o scene"
    unit: ClassVar[str] = "scenes"
    title: ClassVar[str] = "points of many views"
    labels: ClassVar[Mapping[str, str]] = {"model": "model", "untrained": "the same, random weights"}
    numbers: ClassVar[tuple[Number, ...]] = tuple(
        Number(key, key.replace("_", ", ") if "_" in key else f"{key}, mean") for key in KEYS
    )

    stride: int = 5
    """Every so many-th frame of a scene is a view."""
    views: int = 16
    """At most so many of these, evenly spread."""
    icp: float = 0.0
    """Also by ICP, between points at most so far apart (published: 100 for DTU's millimetres, 0.1 in metres); 0: no."""
    most: int = 50_000
    """Points of either side that are compared, drawn at random; 0 for all."""
    surest: float = 1.0
    """Share of each view's points that count, those first that the model is surest of."""
    baselines: bool = True
    """Also the same model with random weights."""
    seed: int = 0
    """Seed of the points that are drawn, and of the random weights."""

    def __post_init__(self) -> None:
        if self.stride < 1 or self.views < 1 or not 0 < self.surest <= 1:
            raise UserError(f"stride={self.stride}, views={self.views}, surest={self.surest:g}: give 1 or more, 0 to 1")

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        items: list[Item] = []
        sizes = scene_sizes(model, data)
        for scene, rows in track(list(data.scenes().items()), label="measurements", unit="scene"):
            usable = [row for row in rows if is_measured(data[row])][:: self.stride]
            if not usable:
                continue
            chosen = [usable[place] for place in places(len(usable), self.views)]
            key, why = f"{len(items):06d}", None
            try:
                views = load_views(data, chosen, sizes[scene])
            except ImageProblem as problem:
                why = str(problem)
            else:
                assert views.depth is not None
                assert views.intrinsics is not None
                assert views.cam2world is not None
                local = pointmaps.unproject(views.depth[0].double(), views.intrinsics[0].double())
                first = poses.invert(views.cam2world[0, :1].double()) @ views.cam2world[0].double()
                valid = (views.depth[0] > 0).numpy()
                points = pointmaps.transform(first, local).float().numpy()
                why = None if valid.sum() >= FEWEST_PIXELS else f"fewer than {FEWEST_PIXELS} measured pixels"
                work.keep_measured(key, points=np.where(valid[..., None], points, 0), valid=valid)
            about = {"rows": chosen, "size": list(sizes[scene])}
            items.append(Item(key, scene, {"views": len(chosen)}, about, skipped=why))
        if not items or all(item.skipped for item in items):
            why = items[0].skipped if items else "no frame has depth, pose and intrinsics"
            raise UserError(f"no scene can be judged: {why}; scan data that has them: {wanted('dtu', 'scannet')}")
        return items

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        methods: dict[str, Method] = {"model": partial(_answers, model, data)}
        if self.baselines and hasattr(model, "untrained"):
            methods["untrained"] = partial(_answers, model.untrained(self.seed), data)
        return methods

    def truth(self, item: Item, work: Work) -> dict[str, np.ndarray]:
        return work.measured(item.key)

    def judge(self, item: Item, answer: Answer, truth: dict[str, np.ndarray]) -> Row:
        points, valid = answer["points"].astype(np.float64), truth["valid"].copy()
        valid &= np.isfinite(points).all(-1)
        levels = np.quantile(answer["confidence"].reshape(len(points), -1), 1 - self.surest, axis=1)
        valid &= answer["confidence"] >= levels[:, None, None]
        if valid.sum() < FEWEST_PIXELS:
            return {"failed": "too few finite points where there is a measurement"}
        said, true = (torch.from_numpy(maps[valid].astype(np.float64)) for maps in (points, truth["points"]))
        fit = similarity(said, true)
        if not np.isfinite(float(fit.scale)):
            return {"failed": "no similarity brings the points onto the measured ones"}
        moved = apply_similarity(fit, said).numpy()
        every = truth["points"][truth["valid"]].astype(np.float64)
        rng = np.random.default_rng(self.seed)
        moved, every = (_drawn(cloud, self.most, rng) for cloud in (moved, every))
        if self.icp:
            moved = closest(moved, every, self.icp)
        found = cloud_metrics(moved, every)
        return {**{key: found[key] for key in KEYS}, "scale": float(fit.scale)}

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        return {self.unit: len(work.items), "skipped": skipped(work)}

    def sections(self, summary: Summary) -> list[str]:
        by = f"one similarity and ICP within {self.icp:g}" if self.icp else "one similarity"
        return [
            f"{summary[self.unit]} scenes, at most {self.views} views of each; moved by {by}; in the unit of the data.",
            *super().sections(summary),
            *(f"Not judged: {scene}: {why}." for scene, why in list(summary["skipped"].items())[:20]),
        ]


@torch.no_grad()
def _answers(model: Model, data: Manifest, items: Sequence[Item]) -> Iterator[tuple[Item, Answer | Skipped]]:
    for item in items:
        if item.skipped:
            continue
        images = load_views(data, item.about["rows"], tuple(item.about["size"]), depth=False).images[0]
        said = told(model, list(images.to(device_of(model))))
        maps = {"points": "pointmap", "confidence": "confidence"}
        yield item, {name: np.stack([one[key].float().cpu().numpy() for one in said]) for name, key in maps.items()}


def _drawn(cloud: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return cloud if not most or len(cloud) <= most else cloud[rng.choice(len(cloud), most, replace=False)]


def closest(cloud: np.ndarray, target: np.ndarray, within: float) -> np.ndarray:
    """A cloud (N, 3) moved rigidly onto another (M, 3) by point-to-point ICP, from where it is."""
    from scipy.spatial import cKDTree

    tree, before = cKDTree(target), np.inf
    for _ in range(ROUNDS):
        distance, rows = tree.query(cloud, distance_upper_bound=within)
        near = np.isfinite(distance)
        if near.sum() < 3:
            break
        fit = similarity(torch.from_numpy(cloud[near]), torch.from_numpy(target[rows[near]]), with_scale=False)
        cloud = apply_similarity(fit, torch.from_numpy(cloud)).numpy()
        error = float(np.square(distance[near]).mean())
        if abs(before - error) < 1e-9 * max(before, 1e-12):
            break
        before = error
    return cloud
