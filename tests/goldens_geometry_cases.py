"""Adapters of the geometry items: conventions are converted here (pixel centres at 0 or 0.5), tolerances
never.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from goldens_metrics import Error
from goldens_metrics_cases import Adapter, Arrays
from manyview import metrics
from manyview.geometry import alignment, cameras, pointmaps, poses

HALF = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])  # pixel centres at 0 -> at +0.5


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).double()


def aligned_recon(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Similarity over pixel correspondences, weight 1 where the confidence reaches its view's quantile."""
    valid, confidence = inputs["valid"], inputs["conf"]
    source, target = _tensor(inputs["pred"][valid]), _tensor(inputs["gt"][valid])
    answers: dict[str, Any] = {}
    for percent in (0, 85):
        views = zip(confidence, valid, strict=True)
        levels = [np.quantile(c, percent / 100) for c, v in views]
        weights = np.concatenate([(c >= q)[v] for c, v, q in zip(confidence, valid, levels, strict=True)]).astype(
            np.float64
        )
        fit = alignment.similarity(source, target, _tensor(weights))
        moved = alignment.apply_similarity(fit, source)
        prefix = f"fast3r_p{percent}_"
        found = metrics.cloud_metrics(moved, target)
        answers |= {f"{prefix}s": fit.scale.numpy(), f"{prefix}R": fit.rotation.numpy()}
        answers |= {f"{prefix}t": fit.translation.numpy()}
        for theirs, ours in (("acc", "accuracy"), ("comp", "completeness")):
            answers |= {f"{prefix}{theirs}": found[ours], f"{prefix}{theirs}_median": found[f"{ours}_median"]}
    return answers


def pointmap(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    depth, intrinsics = _tensor(inputs["depth"]), _tensor(HALF @ inputs["K"])
    local = pointmaps.unproject(depth, intrinsics)
    world = pointmaps.transform(_tensor(inputs["c2w"]), local)
    return {"cam": local.numpy(), "world": world.numpy(), "valid": (depth > 0).numpy()}


def reference_alignment(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """View 0's measured depth fixes the scale, its pose the world: X_w = R (s X_ref) + t."""
    points, depth, pose = inputs["pointmaps_in_ref_cam"], inputs["gt_depth_ref"], inputs["gt_c2w_ref"]
    valid = np.isfinite(depth) & (depth > 0) & np.isfinite(points[0]).all(-1) & (points[0, ..., 2] > 0)
    truth = np.stack([np.zeros_like(depth), np.zeros_like(depth), depth], -1)
    answers: dict[str, Any] = {}
    for how in ("least_squares", "median_of_ratios", "ratio_of_medians"):
        scale = metrics.scale_factor(points[0], truth, valid, how=how)
        answers[f"scale_{how}"] = scale
        answers[f"world_{how}"] = pointmaps.transform(_tensor(pose), _tensor(scale * points)).numpy()
    return answers


def camera_models(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Pinhole models only: the package has no lens distortion. COLMAP's pixel origin is ours."""
    model, params = str(inputs["model"]), inputs["params"]
    if model not in ("SIMPLE_PINHOLE", "PINHOLE"):
        return {}
    fx, fy, cx, cy = params if model == "PINHOLE" else (params[0], *params)
    intrinsics = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    answers: dict[str, Any] = {"K_colmap": intrinsics.numpy(), "K_opencv": np.linalg.inv(HALF) @ intrinsics.numpy()}
    uv, depth = cameras.project(_tensor(inputs["X_cam"]), intrinsics)
    if bool((depth > 0).all()):
        back = (uv - intrinsics[:2, 2]) / torch.tensor([fx, fy])
        answers |= {"uv_colmap": uv.numpy(), "uv_opencv_pixel": uv.numpy() - 0.5, "cam_from_img": back.numpy()}
    return {name: value for name, value in answers.items() if name in expected}


def pose_conventions(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """PyTorch3D poses are left out: the package does not write them. Quaternions agree up to their sign."""
    world2cam = _tensor(inputs["w2c"])
    cam2world = poses.invert(world2cam)
    quaternion = poses.quaternion_from_matrix(world2cam[:, :3, :3]).numpy()
    sign = np.sign((quaternion * expected["colmap_qvec_wxyz"]).sum(-1, keepdims=True))
    sign_xyzw = np.sign((quaternion[:, [1, 2, 3, 0]] * expected["pycolmap_quat_xyzw"]).sum(-1, keepdims=True))
    return {
        "c2w": cam2world.numpy(),
        "c2w_opengl": poses.opengl_from_opencv(cam2world).numpy(),
        "centre": cam2world[:, :3, 3].numpy(),
        "colmap_qvec_wxyz": sign * quaternion,
        "colmap_tvec": inputs["w2c"][:, :3, 3],
        "pycolmap_quat_xyzw": sign_xyzw * quaternion[:, [1, 2, 3, 0]],
        "cam_i_from_cam_0": (world2cam @ cam2world[:1]).numpy(),
    }


def focal(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """The source counts pixels from 0 where we count from 0.5: half a pixel goes into the principal point.

    The source sets non-finite x/z to 0 and keeps points behind the camera, both of which pull its fit; we
    leave such points out. Cases with any are therefore checked against nothing.
    """
    points = inputs["pointmap"]
    if not (np.isfinite(points).all() and (points[..., 2] > 1e-6).all()):
        return {}
    height, width = points.shape[:2]
    centre, given = (width / 2 + 0.5, height / 2 + 0.5), tuple(float(v) + 0.5 for v in inputs["pp"])
    cloud = _tensor(points)
    return {
        "weiszfeld_centre": np.array([alignment.focal_from_pointmap(cloud, principal=centre)]),
        "weiszfeld_given": np.array([alignment.focal_from_pointmap(cloud, principal=given)]),
    }


def pnp(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Our pose against the true one; the yardstick is the worst library that found one."""
    fit = alignment.pose_from_pointmap(
        _tensor(inputs["pointmap"]), _tensor(HALF @ inputs["K"]), torch.from_numpy(inputs["mask"])
    )
    found = [name for name in ("cv2", "poselib", "pycolmap") if bool(expected[f"{name}_ok"])]
    if not fit.ok or not found:
        return {"cv2_ok": np.array(fit.ok)}
    true, ours = expected["true_c2w"], fit.cam2world.double().numpy()
    rotation = float(metrics.rotation_error(ours[:3, :3], true[:3, :3]))
    shift = float(np.linalg.norm(ours[:3, 3] - true[:3, 3]))
    errors = {kind: np.nanmax([float(expected[f"{n}_{kind}"]) for n in found]) for kind in ("rot_err_deg", "t_err")}
    return {
        "cv2_rot_err_deg": Error(rotation, errors["rot_err_deg"]),
        "cv2_t_err": Error(shift, errors["t_err"]),
        "cv2_ok": np.array(True),
    }


ADAPTERS: dict[str, Adapter] = {
    "aligned_recon": aligned_recon,
    "pointmap": pointmap,
    "reference_alignment": reference_alignment,
    "camera_models": camera_models,
    "pose_conventions": pose_conventions,
    "focal": focal,
    "pnp": pnp,
}
