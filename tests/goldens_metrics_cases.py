"""Adapters of the metric items: inputs of a golden case -> our answers under the names of its outputs.

An adapter converts conventions (percent, which transform a pair's pose is) and leaves out what the package
does not define; it never changes numbers to fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from manyview import metrics
from manyview.metrics.located import DIRECTIONS

Arrays = dict[str, np.ndarray]
Adapter = Callable[[Arrays, Arrays], dict[str, Any]]


def pair_pose_error(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Rotation angles and sign-free translation angles. Zero baselines: NaN for SuperGlue, 90 for the others.

    Left out: what float32 rounding makes of them, and the rotation of PoseDiffusion's linear continuation.
    """
    rotation = metrics.rotation_error(inputs["R_pred"], inputs["R_gt"])
    translation = metrics.translation_error(inputs["t_pred"], inputs["t_gt"])
    answers: dict[str, Any] = {"sg_eR": rotation, "vggt_eR_f64": rotation, "mapfree_eR": rotation}
    answers["sg_et"] = metrics.translation_error(inputs["t_pred"], inputs["t_gt"], zero=float("nan"))
    answers["mapfree_t_euc"] = np.linalg.norm(inputs["t_pred"] - inputs["t_gt"], axis=-1)
    return answers | {"vggt_et_f64": translation}


def pose_auc(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    rotation, translation = inputs["r_err"], inputs["t_err"]
    largest = np.maximum(rotation, translation)
    answers: dict[str, Any] = {
        "sg_auc_5_10_20": np.array([metrics.pose_auc(largest, t) for t in (5, 10, 20)]),
        "sg_auc_R": np.array([metrics.pose_auc(rotation, t) for t in (5, 10, 20)]),
        "sg_auc_t": np.array([metrics.pose_auc(translation, t) for t in (5, 10, 20)]),
        "exact_min_RRA_RTA_mAA_30": metrics.paper_average_accuracy(rotation, translation),
        "exact_joint_mAA_30": metrics.exact_average_accuracy(rotation, translation),
    }
    for t in (3, 5, 15, 30):
        answers[f"hist_auc_{t}"] = metrics.mean_average_accuracy(rotation, translation, t)
    for t in (5, 15, 30):
        answers[f"RRA_{t}"] = metrics.pose_accuracy(rotation, t)
        answers[f"RTA_{t}"] = metrics.pose_accuracy(translation, t)
    return answers


def sequence_pose(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """A: world-to-camera as given; B: the same pairs read backwards."""
    rotation, translation, pairs = metrics.relative_pose_errors(inputs["w2c_pred"], inputs["w2c_gt"])
    backwards = [poses[::-1] for poses in (inputs["w2c_pred"], inputs["w2c_gt"])]
    back_rotation, back_translation, back_pairs = metrics.relative_pose_errors(*backwards)
    count = len(inputs["w2c_gt"])
    coincide = np.linalg.norm(
        _centres(inputs["w2c_gt"])[pairs[:, 0]] - _centres(inputs["w2c_gt"])[pairs[:, 1]], axis=-1
    )
    undefined = coincide < 1e-9  # no direction: the source's angles there are rounding noise
    position = {(count - 1 - j, count - 1 - i): k for k, (i, j) in enumerate(back_pairs)}
    order = [position[int(i), int(j)] for i, j in pairs]
    return {
        "A_eR": rotation,
        "A_et": np.ma.masked_array(translation, undefined),
        "B_eR": back_rotation[order],
        "B_et": np.ma.masked_array(back_translation[order], undefined),
        "A_RRA15": metrics.pose_accuracy(rotation, 15),
        "A_RTA15": metrics.pose_accuracy(translation, 15),
        "A_mAA30_hist": metrics.mean_average_accuracy(rotation, translation),
        "pair_i": pairs[:, 0],
        "pair_j": pairs[:, 1],
    }


def _centres(world2cam: np.ndarray) -> np.ndarray:
    return np.linalg.inv(world2cam)[:, :3, 3]


def ate_umeyama(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    predicted, true = inputs["c2w_pred"], inputs["c2w_gt"]
    answers: dict[str, Any] = {}
    for name, align in (("none", "none"), ("se3", "rigid"), ("sim3", "similarity"), ("scale_only", "scale")):
        found = metrics.trajectory_error(predicted, true, align=align)
        answers |= {f"ate_{kind}_{name}": value for kind, value in found.items()}
    drift = metrics.relative_trajectory_error(predicted, true)
    answers |= {"rpe_rmse_trans": drift["translation"], "rpe_rmse_rot_deg": drift["rotation"]}
    answers["mapanything_ate_mean_noscale"] = answers["ate_mean_se3"]
    singular = np.linalg.svd(predicted[:, :3, 3] - predicted[:, :3, 3].mean(0), compute_uv=False)
    if bool(expected["umeyama_ok"]) and singular[2] > 1e-3 * singular[0]:  # else R is not unique
        scale, rotation, shift = metrics.align_centres(predicted[:, :3, 3], true[:, :3, 3])
        answers |= {"umeyama_s": scale, "umeyama_R": rotation, "umeyama_t": shift}
        weighted = metrics.align_centres(predicted[:, :3, 3], true[:, :3, 3], weights=inputs["weights"])
        answers |= {f"roma_w_{name}": value for name, value in zip("sRt", weighted, strict=True)}
    return answers


OURS = {"absrel": "abs_rel", "sqrel": "sq_rel", "logrmse": "log_rmse", "n": "pixels"}
OURS |= {"rmse": "rmse", "d1": "delta_1", "d2": "delta_2", "d3": "delta_3"}


def depth_metrics(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Left out: images without a valid pixel (CUT3R and probe3d say 0, we say NaN); robustmvd's counting of a
    NaN prediction as no error; infinite measurements, which we leave out and the sources do not; and scale
    and shift of a constant prediction, which nothing determines and every source chooses otherwise. And the
    L1 scale: its ten steps do not converge, and where they stop hangs on float32 rounding by more than the
    tolerance (with the very same formula, float32 and float64 differ by 1.3 times it in the affine case).
    """
    predicted, true = inputs["pred"], inputs["gt"]
    answers: dict[str, Any] = {}
    settings = {
        "cut3r_metric": ("none", None, (None, None)),
        "cut3r_median": ("lower_median", None, (None, None)),
        "cut3r_lstsq": ("scale_shift", None, (None, None)),
        "cut3r_median_max70_clip70": ("lower_median", 70.0, (None, 70.0)),
    }
    infinite = bool(np.isinf(true).any())
    for prefix, (align, most, clip) in settings.items():
        if infinite and most is None:
            continue
        valid = metrics.valid_depth(true, most=most)
        errors = metrics.depth_errors(predicted, true, valid, align=align, clip=clip)
        names = OURS if errors["pixels"] else {"n": "pixels"}
        answers |= {f"{prefix}_{theirs}": errors[ours] for theirs, ours in names.items()}
    used = predicted[metrics.valid_depth(true)]
    varied = used.size > 0 and used.min() < used.max()
    if not infinite and used.size:
        for prefix, align in (("probe3d", "none"), ("probe3d_si", "scale_shift"))[: 2 if varied else 1]:
            errors = metrics.depth_errors(predicted, true, align=align)
            answers |= {f"{prefix}_{k}": np.array([errors[OURS[k]]]) for k in ("d1", "d2", "d3", "rmse")}
    return answers | _robustmvd(predicted, expected, varied)


def _robustmvd(predicted: np.ndarray, expected: Arrays, varied: bool) -> dict[str, Any]:
    """Percent; the prediction clipped to [0.1, 100] after the alignment."""
    true = expected["rmvd_gt_used"]
    valid = metrics.valid_depth(true)
    if not (np.isfinite(predicted).all() and (predicted > 0).all() and valid.any()):
        return {}
    answers: dict[str, Any] = {}
    alignments = (("none", "none"), ("median", "median"), ("lsq_inv", "inverse_scale_shift"))
    for name, align in alignments[: 3 if varied else 2]:
        for clip, limits in (("clip", (0.1, 100.0)), ("noclip", (None, None))):
            errors = metrics.depth_errors(predicted, true, align=align, clip=limits)
            answers[f"rmvd_{name}_{clip}_absrel"] = 100 * errors["abs_rel"]
            answers[f"rmvd_{name}_{clip}_inlier103"] = 100 * errors["inlier_103"]
    if not varied:
        return answers
    scale, shift = metrics.inverse_fit(predicted, true)
    return answers | {"rmvd_lsq_inv_scale": scale, "rmvd_lsq_inv_shift": shift}


def depth_nyu_style(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    predicted, true = inputs["pred"].astype(np.float32), inputs["gt"].astype(np.float32)
    valid = np.ones(true.shape, bool)
    if "EIGEN" in str(inputs["crop"]):
        valid = np.zeros(true.shape, bool)
        valid[metrics.eigen_crop(*true.shape)] = True
    limits = (float(inputs["min_depth"]), float(inputs["max_depth"]))
    valid = metrics.valid_depth(true, valid)
    valid &= (true > limits[0]) & (true < limits[1])
    answers: dict[str, Any] = {"mask_sum": int(valid.sum())}
    if not valid.any():
        return answers
    errors = metrics.depth_errors(predicted, true, valid, clip=limits)
    names = {"a1": "delta_1", "a2": "delta_2", "a3": "delta_3", "rmse_log": "log_rmse"}
    same = ("abs_rel", "log_10", "mae", "rmse", "sq_rel")
    answers["silog"] = 100 * errors["silog"]
    return answers | {theirs: errors[ours] for theirs, ours in (names | {k: k for k in same}).items()}


def cloud_metrics(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    predicted, true = inputs["pred"], inputs["gt"]
    found = metrics.cloud_metrics(predicted, true)
    answers = {
        "acc": found["accuracy"],
        "comp": found["completeness"],
        "acc_median": found["accuracy_median"],
        "comp_median": found["completeness_median"],
        "overall": found["chamfer"],
        "chamfer_half": found["chamfer"],
        "chamfer_sum": metrics.chamfer(predicted, true, kind="sum"),
        "chamfer_sq": metrics.chamfer(predicted, true, kind="squared"),
    }
    answers["acc_dist"], answers["comp_dist"] = metrics.cloud_distances(predicted, true)
    for output in expected:
        threshold = re.fullmatch(r"(fscore|precision|recall)_(\d+)p(\d+)", output)
        if threshold:
            scores = metrics.f_score(predicted, true, float(f"{threshold[2]}.{threshold[3]}"))
            answers[output] = scores[threshold[1].replace("fscore", "f_score")]
        elif output in ("fscore", "precision", "recall"):  # empty clouds: the same at any threshold
            answers[output] = metrics.f_score(predicted, true, 1.0)[output.replace("fscore", "f_score")]
    unique = len(np.unique(predicted, axis=0)) == len(predicted) and len(np.unique(true, axis=0)) == len(true)
    if unique and "pred_normals" in inputs:  # else another nearest neighbour, with another normal, is as good
        normals = metrics.normal_consistency(predicted, true, inputs["pred_normals"], inputs["gt_normals"])
        answers |= {k.replace("_", "", 1): v for k, v in normals.items() if k != "nc"}
    return {name: value for name, value in answers.items() if name in expected}


def scale_factor(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    valid = inputs["valid"]
    answers: dict[str, Any] = {}
    for kind in ("gt", "pred"):
        points = inputs[kind]
        joint = metrics.mean_distance(points, valid)
        answers |= {
            f"avg_dis_joint_{kind}": joint,
            f"dust3r_avg_dis_{kind}": joint,
            f"avg_dis_first_{kind}": metrics.mean_distance(points, valid, first_view_only=True),
            f"median_center_{kind}": metrics.median_centre(points, valid),
            f"median_scale_{kind}": metrics.median_distance(points, valid),
            f"median_scale_uncentered_{kind}": metrics.median_distance(points, valid, centred=False),
            f"median_z_{kind}": metrics.median_depth(points, valid),
        }
    answers["ratio_avg_dis"] = metrics.scale_factor(inputs["pred"], inputs["gt"], valid, how="mean_distance")
    answers["ratio_median_scale"] = metrics.scale_factor(inputs["pred"], inputs["gt"], valid, how="median_distance")
    return {name: np.reshape(value, expected[name].shape) for name, value in answers.items() if name in expected}


def map_and_locate(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """The paper's completeness runs from predicted to true points; the other direction is given as well."""
    classes, void = [int(number) for number in inputs["classes"]], int(inputs["void"])
    points = [inputs[name] for name in ("pred", "pred_label", "gt", "gt_label")]
    try:
        found = metrics.map_and_locate(*points, classes=classes, void=void)
    except ValueError:  # nothing to judge: the source says so in a word
        return {name: np.bool_(True) for name in expected if name == "undefined"}
    each = [found["per_class"][number] for number in classes]
    return {
        "transferred_label": found["transferred"],
        "inter": np.array([one["hits"] for one in each]),
        "union": np.array([one["union"] for one in each]),
        "gt_count": np.array([one["true"] for one in each]),
        "iou_per_class": np.array([one["iou"] for one in each]),
        "acc_per_class": np.array([one["accuracy"] for one in each]),
        "miou_gt_present": found["miou"],
        "miou_union_present": found["miou_union"],
        "acc_micro": found["accuracy"],
        "acc_macro_gt_present": found["accuracy_macro"],
        "per_label_pred2gt_mean_median_gt2pred_mean_median": np.array([[one[k] for k in DIRECTIONS] for one in each]),
        "comp_paper_text_pred2gt": found["pred_to_true"],
        "comp_median_paper_text_pred2gt": found["pred_to_true_median"],
        "comp_conventional_gt2pred": found["true_to_pred"],
        "comp_median_conventional_gt2pred": found["true_to_pred_median"],
        "n_labels_with_both": np.int64(found["both"]),
    }


ADAPTERS: dict[str, Adapter] = {
    "map_and_locate": map_and_locate,
    "pair_pose_error": pair_pose_error,
    "pose_auc": pose_auc,
    "sequence_pose": sequence_pose,
    "ate_umeyama": ate_umeyama,
    "depth_metrics": depth_metrics,
    "depth_nyu_style": depth_nyu_style,
    "cloud_metrics": cloud_metrics,
    "scale_factor": scale_factor,
}
