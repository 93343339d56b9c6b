"""The main job on an embedded default: render rooms, cache, train, reconstruct unseen rooms, report.

Every station is the one that the other commands use; interrupt it anywhere and run the same line again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manyview.files import write_json
from manyview.workfolder import WorkFolder

REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """Sizes of the default job: about six minutes on two cores."""

    scenes: int = 160
    """Procedural scenes to learn from."""
    test_scenes: int = 10
    """Procedural scenes with other seeds, reconstructed and judged."""
    kind: str = "room"
    """What the scenes are: room, tabletop or auto."""
    views: int = 4
    """Views per scene."""
    size: tuple[int, int] = (112, 154)
    """Height and width of the views."""
    steps: int = 260
    """Training steps."""
    seed: int = 7
    """Seed of the training scenes; the test scenes use other ones."""
    scratch: bool = False
    """Start from random weights instead of the bundled model."""


def quickstart(
    out: str | Path, *, config: QuickstartConfig | None = None, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Walk the whole road into the folder `out` and write `out/report.html`.

    Returns what the report's table holds. Raises UserError when `out` holds a job with other settings.
    """
    from manyview import zoo
    from manyview.cache.build import build
    from manyview.cache.store import Cache
    from manyview.config import to_dict
    from manyview.data.synthetic import write_scenes
    from manyview.pipelines.train import resume, train
    from manyview.teachers.sensor import Sensor
    from manyview.written import holds

    out, config, say = Path(out), config or QuickstartConfig(), say or (lambda line: None)
    started = time.perf_counter()
    WorkFolder(out, "quickstart", "quickstart.json").claim(to_dict(config))

    say(f"1/5 rendering {config.scenes} + {config.test_scenes} procedural scenes")
    make = partial(write_scenes, views=config.views, size=config.size, kind=config.kind, workers=2)
    make(out / "data/train", scenes=config.scenes, seed=config.seed)
    make(out / "data/test", scenes=config.test_scenes, seed=config.seed + 1_000_000)

    say("2/5 asking the teacher once and keeping its answers")
    manifest = out / "data/train/manifest.parquet"
    build(manifest, Sensor(), out / "cache", views=config.views, size=config.size)

    say(f"3/5 training the tiny student for {config.steps} steps")
    before = _student_before(config, out)
    run = out / "run"
    if not holds(run / "model", "model"):
        settings = [f"run.steps={config.steps}", "run.checkpoint_every=50"]
        settings += [] if config.scratch else ["run.lr=4e-4"]
        if (run / "config.json").is_file():
            trained = resume(run, cache=out / "cache", data=[manifest])
        else:
            trained = train(
                "distill3r",
                out=run,
                preset="tiny",
                data=[manifest],
                cache=out / "cache",
                init=before,
                settings=settings,
            )
        if trained.fit.stopped:
            raise KeyboardInterrupt

    say("4/5 reconstructing and judging rooms it never saw")
    after = zoo.load(run / "model")
    table = _judge(out, {"before training": zoo.load(before), "after training": after}, config)
    scenes = _reconstruct(out, after)

    say("5/5 writing the report")
    cache = Cache.open(out / "cache").info()
    seconds = time.perf_counter() - started
    _report(out, config, {"table": table, "cache": cache, "seconds": seconds}, scenes)
    result = {"report": str(out / REPORT), "seconds": round(seconds, 1), "table": table, "model": str(run / "model")}
    write_json(out / "result.json", result)
    return result


def _student_before(config: QuickstartConfig, out: Path) -> Path:
    """The weights that training starts from, as a model directory: bundled, or random by seed."""
    import torch

    from manyview import zoo

    path = out / ("random" if config.scratch else "bundled")
    if not path.is_dir():
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            zoo.save_model(zoo.build("manyview-tiny") if config.scratch else zoo.load("manyview-tiny"), path)
    return path


def _judge(out: Path, models: dict[str, Any], config: QuickstartConfig) -> dict[str, dict[str, float]]:
    """{row: {abs_rel, accuracy, completeness}} on the test scenes, with the best constant plane as the row to beat."""
    import torch

    from manyview.data.loading import load_views
    from manyview.data.manifest import Manifest
    from manyview.geometry.pointmaps import unproject
    from manyview.metrics import per_view_reconstruction
    from manyview.progress import track

    manifest = Manifest.load(out / "data/test/manifest.parquet")
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in [*models, "best constant plane"]}
    for indices in track(list(manifest.scenes().values()), label="judging", unit="scene"):
        views = load_views(manifest, indices, config.size)
        assert views.depth is not None
        assert views.intrinsics is not None
        true = unproject(views.depth, views.intrinsics)[0]
        plane = unproject(torch.ones_like(views.depth), views.intrinsics)[0]
        for name, model in models.items():
            with torch.inference_mode():
                local = model(views.images)["pointmap_local"][0]
            scores[name] += [per_view_reconstruction(p, t) for p, t in zip(local, true, strict=True)]
        scores["best constant plane"] += [_best_plane(p, t) for p, t in zip(plane, true, strict=True)]
    keys = ("abs_rel", "accuracy", "completeness")
    return {name: {k: float(np.mean([s[k] for s in rows])) for k in keys} for name, rows in scores.items()}


def _best_plane(plane: Any, true: Any) -> dict[str, float]:
    """Each metric at the constant depth that is best for it in this view: the oracle's plane."""
    from manyview.metrics import median_distances

    depth, points = true[..., 2].flatten(), true.reshape(-1, 3)
    constants = np.quantile(depth, np.linspace(0.05, 0.95, 19))
    errors = [float(((c - depth).abs() / depth).mean()) for c in constants]
    thin = slice(None, None, 7)
    clouds = [median_distances(c * plane.reshape(-1, 3)[thin], points[thin]) for c in constants]
    return {"abs_rel": min(errors), "accuracy": min(a for a, _ in clouds), "completeness": min(c for _, c in clouds)}


def _reconstruct(out: Path, model: Any) -> list[tuple[Any, Any]]:
    """Scenes from the test pictures alone (no cameras given), saved and exported; with the truth beside each."""
    import warnings

    from manyview.data.loading import load_views
    from manyview.data.manifest import Manifest
    from manyview.pipelines.options import ReconstructOptions
    from manyview.pipelines.reconstruct import reconstruct

    by_model = ReconstructOptions(cameras="model")  # what the student says; these pictures are too small to match
    manifest = Manifest.load(out / "data/test/manifest.parquet")
    found = []
    for number, indices in enumerate(list(manifest.scenes().values())[:3]):
        chosen = indices[:4]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the scene keeps them, and the report shows them
            pictures = [manifest.path(manifest[i].image) for i in chosen]
            scene = reconstruct(pictures, model=model, device="cpu", options=by_model)
        scene.save(out / f"scenes/{number}")
        scene.export(out / f"scenes/{number}.ply")
        scene.export(out / f"scenes/{number}.glb")
        found.append((scene, load_views(manifest, chosen, scene.views[0].image.shape[:2])))
    return found


def _report(out: Path, config: QuickstartConfig, facts: dict[str, Any], scenes: list[tuple[Any, Any]]) -> None:
    """out/report.html: pictures first, numbers after, and what to type next."""
    from manyview.engine.track import lines_of
    from manyview.pages.charts import line_chart
    from manyview.pages.page import Page

    start = "random weights" if config.scratch else "the bundled manyview-tiny"
    page = Page(
        "manyview quickstart",
        f"{config.scenes} procedural scenes, {config.steps} steps from {start}, "
        f"{facts['seconds']:.0f} s in all. None of the rooms below was in the training data.",
    )
    for number, (scene, truth) in enumerate(scenes):
        page.heading(f"Room {number + 1}: what the student makes of {len(scene.views)} pictures")
        _show_scene(page, scene, truth)
    page.heading("Before, after, and the trivial answer")
    page.text(
        "Means over all test views after one scale factor per view; lower is better. AbsRel: mean relative depth "
        "error. Accuracy and completeness: median distance in centimetres from the prediction to the true "
        "surface, and back. The plane is a wall at the constant depth that is best for each view and "
        "number."
    )
    rows = [
        (name, *(f"{row[k]:.3f}" if k == "abs_rel" else f"{row[k]:.1f}" for k in row))
        for name, row in facts["table"].items()
    ]
    page.table(["method", "AbsRel", "accuracy, cm", "completeness, cm"], rows, bold=_better(facts["table"]))
    page.text("Bold: the better of before and after, where it is better than the plane too.", note=True)
    page.heading("Training")
    lines = lines_of(out / "run")
    series = {key: ([r["step"] for r in lines], [r[key] for r in lines]) for key in ("loss", "global", "local")}
    page.svg(line_chart(series, x_label="step", y_label="loss", log=True))
    page.heading("The teacher cache")
    shown = [(key.replace("_", " "), _plain(value)) for key, value in facts["cache"].items() if _plain(value)]
    page.table(["what", "value"], shown)
    page.heading("Next")
    page.code(
        f"manyview reconstruct photos/ --model {out / 'run/model'} -o scene\n"
        f"manyview export {out / 'scenes/0'} --to colmap -o colmap\n"
        "manyview train distill3r --help"
    )
    page.write(out / REPORT)


def _better(table: dict[str, dict[str, float]]) -> set[tuple[int, int]]:
    """Cells of the table that are the best of their column, the trivial answer's last row included."""
    rows = [list(numbers.values()) for numbers in table.values()]
    best = [min(range(len(rows)), key=lambda row: rows[row][column]) for column in range(len(rows[0]))]
    return {(row, column + 1) for column, row in enumerate(best) if row < len(rows) - 1}


def _show_scene(page: Any, scene: Any, truth: Any) -> None:
    from manyview.pages.pictures import colour_map, depth_range, grid, two_sides

    rows, scales, nearest, farthest = [], [], [], []
    for index, view in enumerate(scene.views):
        true = truth.depth[0, index].numpy()
        scale = float(np.median(true[view.valid] / view.depth[view.valid])) if view.valid.any() else 1.0
        scales.append(scale)
        low, high = depth_range(true)
        nearest.append(low)
        farthest.append(high)
        error = np.abs(scale * view.depth - true) / true
        sure = view.confidence
        rows.append(
            [
                view.image,
                colour_map(scale * view.depth, low, high, view.valid),
                colour_map(true, low, high),
                colour_map(error, 0, 0.3, palette="INFERNO"),
                colour_map(sure, sure.min(), sure.max(), palette="VIRIDIS"),
            ]
        )
    page.pictures(
        [("input · predicted depth · true depth · relative error · confidence, a row per picture", grid(rows))], zoom=2
    )
    depths = f"{np.mean(nearest):.1f} m to {np.mean(farthest):.1f} m"
    page.legend(
        [("#30123b", "near, and"), ("#7a0403", f"far: about {depths}")]
        + [("#000000", "no error, and"), ("#fcffa4", "30 % or more")]
        + [("#440154", "unsure, and"), ("#fde725", "sure")]
    )
    scale = float(np.median(scales))
    xyz, rgb = scene.points()
    true, colours = _true_cloud(truth)
    sides = [two_sides(scale * xyz, rgb, like=true), two_sides(true, colours)]
    places = ("from the upper left", "from the upper right")
    page.pictures(
        [
            (f"{what} {place}", picture)
            for place, of in zip(places, zip(*sides, strict=True), strict=True)
            for what, picture in zip(("the answer", "the truth"), of, strict=True)
        ]
    )
    _show_cameras(page, scene, truth, scale)
    notes = [str(w) for w in scene.info.get("warnings", [])]
    if notes:
        page.text("warnings: " + "; ".join(notes), note=True)


TRUE, FOUND = "#222222", "#d1495b"
"""Colours of the cameras."""


def _show_cameras(page: Any, scene: Any, truth: Any, scale: float) -> None:
    """Where the cameras are said to be and where they are, in the first one's frame, and by how much they differ."""
    from dataclasses import replace

    from manyview.metrics.pose import rotation_error
    from manyview.pages.charts import Wedge, plan_chart
    from manyview.scene.drawing import pyramid, pyramid_length

    first = truth.cam2world[0, 0].double().numpy()
    true = {index: np.linalg.inv(first) @ pose for index, pose in enumerate(truth.cam2world[0].double().numpy())}
    found = {index: view.pose.copy() for index, view in enumerate(scene) if view.cam2world is not None}
    for pose in found.values():
        pose[:3, 3] *= scale
    length = max(0.1, pyramid_length([replace(view, cam2world=true[index]) for index, view in enumerate(scene)]))
    wedges = []
    for way, (colour, poses) in enumerate(((TRUE, true), (FOUND, found))):
        for index, pose in poses.items():
            corners = pyramid(replace(scene[index], cam2world=pose), length)
            wedges.append(Wedge(corners[[0, 1, 2]][:, [0, 2]], colour, index + 1, way))
    plan = plan_chart(wedges, np.empty((0, 2)), unit="m")
    page.charts([("cameras from above; both ways begin in the first one", plan)])
    page.legend([(TRUE, "where they are"), (FOUND, "where the student says they are")])
    rows = []
    for index, pose in true.items():
        if index == 0:
            continue
        still = (_turn(rotation_error, np.eye(4), pose), f"{100 * np.linalg.norm(pose[:3, 3]):.0f}")
        off = ("no answer", "no answer")
        if index in found:
            apart = 100 * np.linalg.norm(found[index][:3, 3] - pose[:3, 3])
            off = (_turn(rotation_error, found[index], pose), f"{apart:.0f}")
        rows.append((str(index + 1), off[0], still[0], off[1], still[1]))
    if rows:
        heads = ["camera", "rotation off by, °", "if it had not turned", "position off by, cm", "if it had not moved"]
        page.table(heads, rows)


def _turn(error: Callable[..., Any], one: np.ndarray, other: np.ndarray) -> str:
    return f"{float(error(one[None, :3, :3], other[None, :3, :3])[0]):.1f}"


def _true_cloud(truth: Any) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) in the first view's frame and colours (N, 3) of views with measured depth and poses."""
    from manyview.geometry import pointmaps, poses

    first_from_camera = poses.invert(truth.cam2world[:, :1]) @ truth.cam2world
    points = pointmaps.transform(first_from_camera, pointmaps.unproject(truth.depth, truth.intrinsics))
    colours = (truth.images.movedim(2, -1) * 255).byte()
    return points.reshape(-1, 3).numpy(), colours.reshape(-1, 3).numpy()


def _plain(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return ""
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def say_to_stderr(line: str) -> None:
    """Progress of the stations, for people."""
    print(line, file=sys.stderr, flush=True)
