"""report.html of a scene: what was found, what it rests on and what failed, in one file that needs nothing else."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from manyview.cameras.tracks import RestsOn
from manyview.pages.charts import MANY, Wedge, link_chart, plan_chart
from manyview.pages.page import Page
from manyview.pages.pictures import colour_map, depth_range, grid
from manyview.scene.drawing import cloud_and_cameras, level_from_scene, pair_picture, pyramid, pyramid_length
from manyview.scene.scene import Scene
from manyview.scene.trust import COLOURS, MEANING, failures, parts, shared_points, trust, verdict
from manyview.version import __version__

REPORT = "report.html"
MOST_PHOTOS, MOST_PARTS = 30, 4
"""So many photos and so many separate scenes are shown as pictures; tables and charts hold all."""
MOST_REFUSED = 40
"""So many pairs of photos that matched and were refused are drawn and listed: those with most matches."""
STRIP = 200
"""Width in pixels of each picture in the strip of depths."""


def write_report(scene: Scene, path: str | Path, *, of: Path | None = None) -> Path:
    """Write the report of a scene as one HTML file: pictures inside, no scripts, nothing fetched; returns its path.

    of: the scene's directory, for the commands to go on with; none is the folder of `path`. Raises UserError when the
    place cannot be written.
    """
    path, worth, shared = Path(path), trust(scene), shared_points(scene)
    page = Page(f"Scene of {len(scene)} photo{'s' if len(scene) > 1 else ''}", verdict(scene), plain=True)
    kinds = [kind for kind in COLOURS if kind in worth]
    page.legend([(COLOURS[kind], f"{kind}: {MEANING[kind]}") for kind in kinds])
    page.heading("What failed")
    page.items(failures(scene) or ["Nothing that this program can notice."])
    placed = parts(scene)
    if not placed:
        page.heading("Cloud and cameras")
        page.text("Not drawn: photos without cameras have no common space. Their depths, each for itself, are below.")
    for number, (component, members) in enumerate(list(placed.items())[:MOST_PARTS]):
        _show_part(page, scene, component, members, number, len(placed))
    if len(placed) > MOST_PARTS:
        page.text(f"{len(placed) - MOST_PARTS} smaller scenes are not drawn.", note=True)
    if len(scene) > 1:
        _show_matches(page, scene, worth, shared)
    _show_depths(page, scene, worth)
    page.heading("Every photo")
    header = ["photo", "rests on", "scene", "observations", "error, px of the original", "shares most points with"]
    rows = [_row(scene, worth, shared, index) for index in range(len(scene))]
    page.table(header, rows, dots=[COLOURS[kind] for kind in worth])
    page.heading("Settings and versions")
    page.table(["setting", "value"], _settings(scene))
    page.heading("Next")
    if not placed:
        page.text("Take photos that overlap by half or more, a step aside between one and the next, and try again.")
    else:
        page.code("\n".join(_next_steps(of or path.parent)))
    page.write(path)
    return path


def _show_part(page: Page, scene: Scene, component: int, members: Sequence[int], number: int, of: int) -> None:
    views, worth = [scene.views[index] for index in members], trust(scene)
    which = f" {number + 1} of {of}: {len(members)} photos" if of > 1 else ""
    page.heading(f"Cloud and cameras{which}")
    if not any(view.registered for view in views):
        guess = "one photo" if len(views) == 1 else "each photo's depth where the network says that it stands"
        page.text(f"A guess, drawn as the network says it and checked by nothing: {guess}.", note=True)
    elif not all(view.registered for view in views):
        page.text("Red cameras and their points are the network's word, checked by nothing.", note=True)
    cloud = scene.cloud(component=component, most=150_000)
    left, right = cloud_and_cameras(scene, cloud, members)
    page.pictures([("from the upper left", left), ("from the upper right", right)])
    level, length = level_from_scene(views), pyramid_length(views)
    points = cloud.xyz[:: max(1, len(cloud) // 2500)] @ level.T
    unit = "m" if scene.scale == "metric" else "units (their length in metres is not known)"
    corners = [pyramid(view, length) @ level.T for view in views]
    charts = []
    for axes, ends in (((0, 2), (1, 2)), ((2, 1), (1, 4))):  # seen from above; seen from the right
        sign = np.array([1.0, 1.0 if axes == (0, 2) else -1.0])
        wedges = [
            Wedge(corner[[0, *ends]][:, axes] * sign, COLOURS[worth[index]], index)
            for index, corner in zip(members, corners, strict=True)
        ]
        charts.append(plan_chart(wedges, points[:, axes] * sign, unit=unit))
    page.charts([("the way of the camera from above", charts[0]), ("from the side, forward is right", charts[1])])


def _show_matches(page: Page, scene: Scene, worth: Sequence[RestsOn], shared: np.ndarray) -> None:
    page.heading("Which photos share what")
    refused = _refused(scene)
    if not shared.any():
        without = "No two photos share a verified match." if scene.tracks is not None else "Photos were not matched."
        page.text(without)
    if not shared.any() and not refused:
        return
    page.text(
        "A line joins photos that share points of verified matches; pointing at it says how many. A gap in the circle "
        "separates scenes that nothing joins."
        + (" Of so many photos each keeps its six thickest lines." if len(scene) > MANY else "")
        + (" A dashed line joins photos that matched but were refused; pointing at it says why." if refused else "")
    )
    drawn = {pair: f"{found} matches, {why}" for pair, (found, _, why) in refused.items()}
    groups = [view.component for view in scene.views]
    chart = link_chart(shared, [COLOURS[kind] for kind in worth], groups, refused=drawn)
    page.charts([("numbers are those of the photos below", chart)])
    if refused:
        page.table(
            ["refused pair", "matches", "that agree", "why"],
            [[f"{i} and {j}", *map(str, values)] for (i, j), values in refused.items()],
        )
        more = len(scene.info["unlinked"]) - len(refused)
        if more > 0:
            page.text(f"{more} more, with fewer matches, are in scene.json (info, unlinked).", note=True)
    if not shared.any():
        return
    between = np.triu(shared, 1)
    strongest = divmod(int(between.argmax()), len(scene))
    whole = shared - np.diag(np.diag(shared))
    tied = [index for index in range(len(scene)) if whole[index].any()]
    loosest = min(tied, key=lambda index: int(whole[index].max()))
    pairs = {tuple(sorted(strongest)), tuple(sorted((loosest, int(whole[loosest].argmax()))))}
    shown = [(i, j, *pair_picture(scene, i, j)) for i, j in sorted(pairs, key=lambda ij: -int(shared[ij]))]
    names = ["the pair that shares most", "what ties the loosest photo"]
    page.pictures([(f"{name}: {i} and {j}, {n:,} points", p) for name, (i, j, p, n) in zip(names, shown, strict=False)])


def _refused(scene: Scene) -> dict[tuple[int, int], tuple[int, int, str]]:
    """Pairs that matched and tie nothing: how many matches, how many of them agree, and why; those with most first."""
    number = {view.name: index for index, view in enumerate(scene.views)}
    found: dict[tuple[int, int], tuple[int, int, str]] = {}
    for pair in scene.info.get("unlinked", [])[:MOST_REFUSED]:
        one, other = (number.get(name) for name in pair["views"])
        if one is not None and other is not None:
            found[one, other] = pair["matches"], pair["agreeing"], pair["why"]
    return found


def _show_depths(page: Page, scene: Scene, worth: Sequence[RestsOn]) -> None:
    import cv2

    page.heading("Depth and confidence")
    page.text(
        "Photo, depth (blue near, red far, grey none; photos of one scene share the colours) and the network's "
        "confidence (dark unsure)."
    )
    chosen = np.unique(np.linspace(0, len(scene) - 1, min(len(scene), MOST_PHOTOS)).round().astype(int)).tolist()
    if len(chosen) < len(scene):
        page.text(f"{len(chosen)} of {len(scene)} photos, evenly chosen.", note=True)
    pooled = np.concatenate([view.confidence[view.valid][::17] for view in scene.views])
    low, high = np.percentile(pooled, [2, 98]) if len(pooled) else (0.0, 1.0)
    ranges: dict[int, tuple[float, float]] = {}
    figures = []
    for index in chosen:
        view = scene.views[index]
        if view.component not in ranges:
            same = [other.depth[::4, ::4].ravel() for other in scene.views if other.component == view.component]
            ranges[view.component] = depth_range(np.concatenate(same))
        depth = colour_map(view.depth, *ranges[view.component], view.valid)
        sure = colour_map(view.confidence, low, high, view.valid, palette="VIRIDIS")
        height = round(view.image.shape[0] * STRIP / view.image.shape[1])
        strip = [cv2.resize(p, (STRIP, height), interpolation=cv2.INTER_AREA) for p in (view.image, depth, sure)]
        figures.append((f"{index}: {view.name}, rests on {worth[index]}", grid([strip])))
    page.pictures(figures, least=300)


def _row(scene: Scene, worth: Sequence[RestsOn], shared: np.ndarray, index: int) -> list[str]:
    view, others = scene.views[index], shared[index].copy()
    others[index] = 0
    best = [other for other in np.argsort(-others, kind="stable")[:3].tolist() if others[other]]
    error = "not measured" if view.error_px is None else f"{view.error_px:.2f}"
    ties = ", ".join(f"{other} ({others[other]:,})" for other in best) or "none"
    place = "none" if worth[index] == "nothing" else str(view.component)
    return [f"{index}: {view.name}", worth[index], place, f"{view.inliers:,}", error, ties]


def _settings(scene: Scene) -> list[tuple[str, str]]:
    """How the scene was made, and with what this page was."""
    height, width = scene.views[0].depth.shape
    rows = {
        "made by": scene.info.get("made_by", "not recorded"),
        "model": scene.info.get("model", "not recorded"),
        "size for the model": f"{width}x{height} (first photo)",
        "scale": f"{scene.scale} ({scene.scale_source})",
        "frame": scene.frame.replace("_", " "),
        **_flat(scene.info.get("options", {})),
        "this page": f"manyview {__version__}, Python {platform.python_version()}, {_versions()}",
    }
    return [(key.replace("_", " "), str(value)) for key, value in rows.items()]


def _flat(options: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = "none" if value is None else value
    return flat


def _versions() -> str:
    found = []
    for name in ("torch", "numpy", "opencv-python-headless", "poselib", "scipy"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _next_steps(folder: Path) -> list[str]:
    where = shlex.quote(str(folder))
    exports = (("glb", ".glb"), ("colmap", "-colmap"))
    steps = [f"manyview export {where} --to {to} -o {where}{end}" for to, end in exports]
    return [f"manyview view {where}", *steps]
