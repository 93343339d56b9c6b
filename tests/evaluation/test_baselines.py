"""Answers without learning, against exhaustive search and against scenes where they are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyview.data.manifest import Manifest
from manyview.evaluation import baselines
from manyview.evaluation.base import evaluate
from manyview.evaluation.baselines import MeasuredView
from manyview.evaluation.recon_per_view import ReconPerView
from manyview.geometry.cameras import intrinsics_matrix, rays
from manyview.metrics import abs_rel, median_distances, per_view_reconstruction

SIZE = (112, 154)

RAYS = rays(intrinsics_matrix(14.0, 14.0, 8.0, 6.0), 12, 16).double().numpy()


def wavy(seed: int) -> MeasuredView:
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:12, :16]
    depth = 2 + np.sin(u / 4 + seed) + 0.3 * (v > 5) + 0.02 * rng.random((12, 16))
    depth[:2, :3] = 0
    return MeasuredView(depth, RAYS)


def test_constant_planes_against_exhaustive_search():
    views = [wavy(0), wavy(1)]
    found = baselines.constant_planes(views)
    constants = np.geomspace(0.5, 5, 800)
    curves = np.array(
        [[median_distances(c * RAYS[view.valid], view.pointmap[view.valid]) for c in constants] for view in views]
    )
    errors = np.array([[np.mean(np.abs(c / view.depth[view.valid] - 1)) for c in constants] for view in views])
    for row, curve, error in zip(found["constant_plane"], curves, errors, strict=True):
        assert row["accuracy"] == pytest.approx(curve[:, 0].min(), rel=0.02)
        assert row["completeness"] == pytest.approx(curve[:, 1].min(), rel=0.02)
        assert row["abs_rel"] == pytest.approx(error.min(), rel=1e-3)
        assert row["abs_rel"] <= error.min()  # found exactly, not searched
    for column, metric in enumerate(("accuracy", "completeness")):
        mean = np.mean([row[metric] for row in found["constant_plane_one"]])
        assert mean == pytest.approx(curves[..., column].mean(0).min(), rel=0.02)
    constants_used = {row["abs_rel_constant"] for row in found["constant_plane_one"]}
    assert len(constants_used) == 1


def test_an_oracle_per_view_is_never_worse_than_one_for_all():
    found = baselines.constant_planes([wavy(seed) for seed in range(4)])
    for metric in baselines.METRICS:
        per_view = np.mean([row[metric] for row in found["constant_plane"]])
        assert per_view <= np.mean([row[metric] for row in found["constant_plane_one"]]) + 1e-9
    assert baselines.constant_planes([]) == {"constant_plane": [], "constant_plane_one": []}


@pytest.mark.parametrize("robust", [False, True])
def test_a_tilted_plane_is_found_exactly(robust):
    depth = 1 / (RAYS @ np.array([0.1, -0.05, 0.4]))
    depth[3:5, 3:5] = 0
    view = MeasuredView(depth, RAYS)
    assert baselines.tilted_plane(view, robust=robust)[view.valid] == pytest.approx(depth[view.valid])


def test_the_robust_plane_resists_a_box_in_front():
    plane = 1 / (RAYS @ np.array([0.1, -0.05, 0.4]))
    depth = plane.copy()
    depth[4:9, 5:9] = 0.8
    view = MeasuredView(depth, RAYS)
    errors = [np.median(np.abs(baselines.tilted_plane(view, robust=robust) / plane - 1)) for robust in (False, True)]
    assert errors[1] < 0.01 < errors[0]


def test_a_plane_never_lies_behind_the_camera():
    view = wavy(0)
    steep = np.where(RAYS[..., 0] > 0, 0.3, 30.0)
    for robust in (False, True):
        depth = baselines.tilted_plane(MeasuredView(steep, RAYS), robust=robust)
        assert (depth > 0).all()
        assert np.isfinite(per_view_reconstruction(RAYS * depth[..., None], view.pointmap)["abs_rel"])


def test_mean_and_looked_up_maps():
    depths = np.array([[[2.0, 0, 0]], [[4.0, 3, 0]]])
    assert baselines.mean_map(depths).tolist() == [[3, 3, 3]]  # the never-measured pixel gets the map's mean
    assert baselines.without_holes(depths, np.array([[9.0, 8, 7]])).tolist() == [[[2, 8, 7]], [[4, 3, 7]]]
    candidates = np.stack([wavy(seed).depth + (wavy(seed).depth == 0) for seed in range(4)])
    assert baselines.lowest_abs_rel(wavy(2), 3 * candidates) == 2  # whatever the scale


def test_thumbnails_find_the_same_picture_brighter():
    rng = np.random.default_rng(0)
    images = rng.random((5, 3, 30, 41))
    thumbnails = np.stack([baselines.thumbnail(image) for image in images])
    assert baselines.nearest_image(baselines.thumbnail(0.5 * images[3] + 0.2), thumbnails) == 3
    assert np.isfinite(baselines.thumbnail(np.ones((3, 30, 41)))).all()


def test_the_protocol_reports_all_of_them(world, reader, tmp_path):
    train = Manifest(world.frames[:3], world.root)
    test = Manifest(world.frames[2:], world.root)
    protocol = ReconPerView(views=1, baselines=True, train=train)
    summary = evaluate(protocol, reader(noise=0.02), test, tmp_path / "out")
    methods = {row["method"]: row for row in summary["rows"]}
    assert set(methods) == {"model", *baselines.LABELS} - {"untrained"}
    assert summary["left_out"] == {"untrained": "this model cannot be built afresh from its config"}
    assert methods["model"]["abs_rel"] < methods["retrieved_map"]["abs_rel"]
    assert methods["retrieved_map"]["abs_rel"] <= methods["nearest_frame"]["abs_rel"]
    assert methods["constant_plane"]["abs_rel"] <= methods["constant_plane_median"]["abs_rel"]
    ratio = summary["ratios"]["mean_map"]["abs_rel"]
    assert ratio == pytest.approx(methods["model"]["abs_rel"] / methods["mean_map"]["abs_rel"])
    without = evaluate(ReconPerView(views=1, baselines=True), reader(), test, tmp_path / "without")
    assert without["left_out"]["mean_map"] == "needs --train TRAIN.parquet"


def test_an_untrained_student_is_asked_for_a_real_model(world, tmp_path):
    from manyview import zoo

    model = zoo.build("manyview-tiny", size="debug", seed=1, image_size=42).eval()
    with torch.inference_mode():
        summary = evaluate(ReconPerView(views=2, baselines=True), model, world, tmp_path / "out")
    rows = {row["method"]: row for row in summary["rows"]}
    assert rows["untrained"]["views"] == 5
    assert rows["untrained"]["abs_rel"] != rows["model"]["abs_rel"]


def test_looked_up_maps_on_real_frames(shared):
    """A trial published with the task: mean map 0.232 and retrieved map 0.163 AbsRel on frames 80..99."""
    from manyview.data.loading import load_depth
    from manyview.data.sources import ScanOptions, scan
    from manyview.geometry.cameras import apply_affine
    from manyview.images.fit import cover

    source = shared / "data" / "redkitchen_000_499"
    if not source.is_dir():
        pytest.skip(f"needs {source}")
    data, _ = scan(source, format="manyview", options=ScanOptions())
    train = np.stack([load_depth(data, frame, SIZE).numpy() for frame in data.frames[:60]])
    intrinsics = apply_affine(cover((480, 640), SIZE).affine, torch.from_numpy(data[0].intrinsics))
    camera_rays = rays(intrinsics, *SIZE).numpy()
    mean = baselines.mean_map(train)
    train = baselines.without_holes(train, mean)
    errors = []
    for frame in data.frames[80:100]:
        view = MeasuredView(load_depth(data, frame, SIZE).numpy(), camera_rays)
        best = train[baselines.lowest_abs_rel(view, train)]
        errors.append([abs_rel(depth, view.depth, align="median_of_ratios") for depth in (mean, best)])
    assert np.mean(errors, axis=0) == pytest.approx([0.232, 0.163], abs=0.0006)
