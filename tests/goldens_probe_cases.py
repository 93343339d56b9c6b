"""Adapters of the items on Map-free, normals, depth bins, and correspondences as Probe3D judges them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from manyview import metrics
from manyview.geometry.poses import matrix_from_quaternion
from manyview.metrics.mapfree import ScenePoses, judged_scene, mapfree_scores, read_poses
from manyview.models.dense_heads import binned_depth

Arrays = dict[str, np.ndarray]
Adapter = Callable[[Arrays, Arrays], dict[str, Any]]


def _cam2world(quaternion: np.ndarray, translation: np.ndarray) -> np.ndarray:
    poses = np.tile(np.eye(4), (len(quaternion), 1, 1))
    poses[:, :3, :3] = matrix_from_quaternion(torch.from_numpy(quaternion)).numpy()
    poses[:, :3, 3] = translation
    return poses


def vcre(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Rotation errors by the arc sine of the quaternion's vector part are ours, but for what rounding makes of them."""
    predicted, true = (_cam2world(inputs[f"q_{kind}"], inputs[f"t_{kind}"]) for kind in ("est", "gt"))
    size = float(inputs["W"]), float(inputs["H"])
    rotation = metrics.rotation_error(predicted[:, :3, :3], true[:, :3, :3])
    return {
        "reproj_err": metrics.virtual_correspondence_error(predicted, true, inputs["K"], size),
        "trans_err": np.linalg.norm(predicted[:, :3, 3] - true[:, :3, 3], axis=-1),
        "rot_err_sin": rotation,
        "grid": _sorted(np.pad(metrics.virtual_points(), ((0, 0), (0, 1)), constant_values=1), expected["grid"]),
    }


def _sorted(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Our points in the order of theirs: the order of virtual points means nothing."""
    nearest = np.linalg.norm(ours[None] - theirs[:, None], axis=-1).argmin(1)
    assert len(set(nearest.tolist())) == len(ours)
    return ours[nearest]


def mapfree_benchmark(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    scenes: list[ScenePoses] = []
    for scene in sorted(name.removeprefix("poses_") for name in inputs if name.startswith("poses_")):
        truth = {
            number: pose for number, (pose, _) in read_poses(str(inputs[f"poses_{scene}"]), confidences=False).items()
        }
        lens, size = {}, (0.0, 0.0)
        for line in str(inputs[f"intrinsics_{scene}"]).splitlines():
            if line.strip() and "#" not in line:
                name, *words = line.split()
                fx, fy, cx, cy, *size = map(float, words)
                lens[int(name[-9:-4])] = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        text = inputs.get(f"est_{scene}")
        estimates = None if text is None else read_poses(str(text), confidences=True)
        scenes.append(judged_scene(estimates, truth, lens, (size[0], size[1])))
    scores = mapfree_scores(scenes)
    names = {
        "Average_Median_Translation_Error": "median_translation",
        "Average_Median_Rotation_Error": "median_rotation",
        "Average_Median_Reprojection_Error": "median_reprojection",
        "Precision_Pose_Error_25_0cm_5deg": "precision_pose",
        "AUC_Pose_Error_25_0cm_5deg": "auc_pose",
        "Estimates_for_of_frames": "estimated",
        **{
            f"{kind}_VCRE_{limit}px": f"{kind.lower()}_vcre_{limit}"
            for kind in ("Precision", "AUC")
            for limit in (45, 90)
        },
    }
    answers = {theirs: scores[ours] for theirs, ours in names.items()}
    per_frame = {"reproj": "reprojection", "trans": "translation", "rot": "rotation", "conf": "confidence"}
    for theirs, ours in per_frame.items():
        answers[f"per_frame_{theirs}"] = np.concatenate([getattr(scene, ours) for scene in scenes])
    answers["failures"] = sum(scene.failures for scene in scenes)
    return {name: value for name, value in answers.items() if name in expected}


def precision_recall(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    precision, recall, area = metrics.precision_recall(inputs["conf"], inputs["tp"], int(inputs["failures"]))
    return {"precision": precision, "recall": recall, "ap": area}


def normal_metrics(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """A picture without a valid pixel has zeros in the source and NaN here. A fourth channel is uncertainty."""
    rows, pooled = [], []
    for predicted, true, valid in zip(inputs["pred"], inputs["gt"], inputs["valid"], strict=True):
        maps = [np.moveaxis(maps[:3], 0, -1) for maps in (predicted, true)]
        rows.append(metrics.normal_errors(*maps, valid[0]))
        pooled.append([part[valid[0]] for part in maps])
    empty = np.array([row["pixels"] == 0 for row in rows])
    names = {"d1": "below_11", "d2": "below_22", "d3": "below_30", "rmse": "rmse"}
    answers: dict[str, Any] = {
        theirs: np.ma.masked_array([row[ours] for row in rows], empty) for theirs, ours in names.items()
    }
    first, second = (np.concatenate(parts)[:, None] for parts in zip(*pooled, strict=True))
    together = metrics.normal_errors(first, second, np.ones(len(first), bool)[:, None])
    if together["pixels"]:
        names = {"1125": "below_11", "225": "below_22", "30": "below_30", "rmse": "rmse", "mean": "mean"}
        answers |= {f"pooled_{theirs}": together[ours] for theirs, ours in names.items()}
        answers["pooled_median_numpy"] = together["median"]
    return answers


def normals_from_geometry(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Left out: Probe3D's normals, whose principal point is the first pixel, and normals without a mask."""
    normals, known = metrics.normals_from_points(inputs["points"], inputs["depth"] > 0)
    theirs = expected["pm_mask"]
    return {"pm_mask": known, "pm_normal_masked": np.ma.masked_array(normals, ~np.repeat(theirs[..., None], 3, -1))}


def depth_bins(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    logits = torch.from_numpy(inputs["logits"])
    centres = torch.linspace(float(inputs["min_depth"]), float(inputs["max_depth"]), logits.shape[1])
    how: Any = str(inputs["norm"])
    return {"depth": binned_depth(logits, centres, how)[:, None].numpy(), "bins": centres.numpy()}


def ratio_test(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Which rows were taken is compared by their weights: near ties may swap. Left out: the largest distances, which
    the source keeps without a ratio.
    """
    both = "rev_weight" in expected
    count = int(inputs["num_corr"])
    weight = metrics.ratio_matches(inputs["feat0"], inputs["feat1"], count // 2 if both else count)[2]
    answers: dict[str, Any] = {"weight": weight}
    if both:
        answers["rev_weight"] = metrics.ratio_matches(inputs["feat1"], inputs["feat0"], count // 2)[2]
    return answers


def navi_correspondence(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    views = []
    for number in "01":
        points = torch.from_numpy(inputs[f"xyz_grid{number}"])
        features = torch.from_numpy(inputs[f"feat{number}"])
        size = (points.shape[-2], points.shape[-1])
        fine = F.interpolate(features[None], size, mode="bicubic", align_corners=False)[0]
        kept = points[2] > 0
        views.append((fine[:, kept].T.numpy(), points[:, kept].T.numpy()))
    count = int(inputs["num_corr"])
    found = metrics.surface_matches(views[0], views[1], inputs["Rt_01"], inputs["K"], count)
    angle = metrics.rotation_error(inputs["Rt_01"][None, :, :3], np.eye(3)[None])
    answers = {"weight": found["weight"], "rel_angle_deg": angle}
    answers["recall3d_pct"] = np.array([100 * (found["error_3d"] < limit).mean() for limit in (0.01, 0.02, 0.05)])
    return answers | {"recall2d_pct": np.array([100 * (found["error_2d"] < limit).mean() for limit in (5, 25, 50)])}


def scannet_correspondence(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Recall is compared where weights say which matches are the best, and not where they are equal at the cut."""
    lens, views = inputs["K"], []
    for number in "01":
        depth = inputs[f"depth{number}"]
        v, u = np.nonzero(depth > 0)
        pixels = np.stack([u + 0.5, v + 0.5, np.ones(len(u))], -1)
        points = depth[v, u][:, None] * (pixels @ np.linalg.inv(lens).T)
        where = 2 * pixels[:, :2] / [depth.shape[1], depth.shape[0]] - 1
        features = torch.from_numpy(inputs[f"feat{number}"])
        sampled = F.grid_sample(features[None], torch.from_numpy(where)[None, None], align_corners=False)
        views.append((sampled[0, :, 0].T.numpy(), points))
    found = metrics.surface_matches(views[0], views[1], inputs["Rt_01"], lens, int(inputs["num_corr"]))
    recall = np.array([100 * (found["error_2d"] < limit).mean() for limit in (5, 10, 20)])
    every = metrics.ratio_matches(views[0][0], views[1][0], len(views[0][0]))[2]
    tied = len(every) > len(found["weight"]) and every[len(found["weight"])] == found["weight"][-1]
    return {"weight": found["weight"], **({} if tied else {"recall2d_pct": recall})}


def binned(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    return {"binned": metrics.binned_means(inputs["y"], inputs["x"], inputs["bins"].tolist())}


def spair(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    keys = [inputs[f"kps_{side}"] for side in "ij"]
    places = [key[:, :2].astype(np.float32) / float(inputs["image_size"]) for key in keys]
    errors = metrics.semantic_errors(inputs["feat_i"], inputs["feat_j"], *places, published=True)
    errors = errors / float(inputs["thresh_scale"])
    seen = [key[:, 2] > 0 for key in keys]
    both = np.flatnonzero(seen[0] & seen[1])
    same = errors[both, both]
    near = np.where(seen[1][None], errors, np.inf)[both]
    answers: dict[str, Any] = {
        "index_same": both,
        "error_same": same,
        "error_nn": near.min(1),
        "index_nn": near.argmin(1),
    }
    return answers | ({"pck_0p1_pct": 100 * (same < 0.1).mean()} if len(same) else {})


ADAPTERS: dict[str, Adapter] = {
    "vcre": vcre,
    "mapfree_benchmark": mapfree_benchmark,
    "precision_recall": precision_recall,
    "normal_metrics": normal_metrics,
    "normals_from_geometry": normals_from_geometry,
    "depth_bins": depth_bins,
    "ratio_test": ratio_test,
    "navi_correspondence": navi_correspondence,
    "scannet_correspondence": scannet_correspondence,
    "binned": binned,
    "spair": spair,
}
