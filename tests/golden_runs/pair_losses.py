"""The losses of DUSt3R and MASt3R, their parts, and the gradients that reach a network's outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.geometry import pointmaps, poses
from manyview.losses.confident import confident_regression, point_distances, sum_of_views
from manyview.losses.matching import at_matches, info_nce, matching_loss
from manyview.types import Signal

Outputs = Iterator[tuple[str, dict[str, np.ndarray]]]

PREDICTED = {"pts3d": "points", "conf": "confidence", "desc": "descriptors", "desc_conf": "descriptor_confidence"}
REGRESSIONS: dict[str, dict[str, Any]] = {
    "dust3r/ConfLoss(Regr3D(L21,avg_dis),alpha=0.2)": {"alpha": 0.2},
    "dust3r/Regr3D(L21,avg_dis)": {},
    "dust3r/Regr3D_ScaleShiftInv(L21,gt_scale)": {"alignment": "median", "name": "Regr3D_ScaleShiftInv"},
    "mast3r/ConfLoss(Regr3D(L21,?avg_dis),alpha=0.2)": {"alpha": 0.2, "metric": True, "sky": True},
    "mast3r/ConfLoss(Regr3D(L21,avg_dis),alpha=0.2)": {"alpha": 0.2, "sky": True},
}
MATCHINGS: dict[str, dict[str, Any]] = {
    "mast3r/ConfMatchingLoss(proper,T=0.05,alpha=10,mean)": {"alpha": 10.0},
    "mast3r/MatchingLoss(proper,T=0.05)": {},
    "mast3r/MatchingLoss(all,T=0.07)": {"temperature": 0.07, "normaliser": "all"},
    "mast3r/MatchingLoss(dual,T=0.07)": {"temperature": 0.07},  # another way to write the proper one
}


def run_pair_losses(stored: Any, config: dict) -> Outputs:
    """Every criterion alone, the sum that MASt3R trains with, and InfoNCE per match."""
    arrays = {key: torch.from_numpy(stored[key]) for key in stored.files}
    for tag, options in REGRESSIONS.items():
        pred = _predictions(arrays)
        loss, details = _regression(arrays, pred, **options)
        yield tag, _outputs(stored, tag, loss, details, pred)
    for tag, options in MATCHINGS.items():
        pred = _predictions(arrays)
        loss, details = _matching(arrays, pred, **options)
        yield tag, _outputs(stored, tag, loss, details, pred)
    pred = _predictions(arrays)
    regression, details = _regression(arrays, pred, alpha=0.2, metric=True, sky=True)
    matching, more = _matching(arrays, pred, alpha=10.0)
    tag = "mast3r/total_train_criterion"
    yield tag, _outputs(stored, tag, regression + 0.075 * matching, details | more, pred)
    valid = arrays["infonce/valid"]
    inputs = {key: arrays[f"infonce/{key}"] for key in ("desc1", "desc2", "valid")}
    for name in ("proper", "all", "dual"):
        normaliser = "all" if name == "all" else "proper"
        cost = info_nce(inputs["desc1"], inputs["desc2"], normaliser=normaliser)  # type: ignore[arg-type]
        inputs[f"{name}_T0.05_per_match"] = cost[valid]
    yield "infonce", {key: value.numpy() for key, value in inputs.items()}


def _predictions(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Both views of every output as one tensor (B, 2, ...)."""
    pred = {}
    for theirs, ours in PREDICTED.items():
        second = "pts3d_in_other_view" if theirs == "pts3d" else theirs
        views = [arrays[f"pred1/{theirs}"], arrays[f"pred2/{second}"]]
        pred[ours] = torch.stack(views, dim=1).requires_grad_()
    return pred


def _both(arrays: dict[str, Tensor], name: str) -> Tensor:
    return torch.stack([arrays[f"gt1/{name}"], arrays[f"gt2/{name}"]], dim=1)


def _regression(
    arrays: dict[str, Tensor],
    pred: dict[str, Tensor],
    *,
    alpha: float | None = None,
    metric: bool = False,
    sky: bool = False,
    alignment: Any = "mean",
    name: str = "Regr3D",
) -> tuple[Tensor, dict[str, Tensor]]:
    first_from_world = poses.invert(arrays["gt1/camera_pose"])[:, None]
    truth = Signal(pointmaps.transform(first_from_world, _both(arrays, "pts3d")), valid=_both(arrays, "valid_mask"))
    distances, known = point_distances(
        pred["points"],
        truth,
        metric=arrays["gt1/is_metric_scale"] if metric else None,
        sky=_both(arrays, "sky_mask") if sky else None,
        alignment=alignment,
    )
    sums, counts = distances.sum((2, 3)), known.sum((2, 3))
    details = {f"{name}_pts3d_{view + 1}": sums.sum(0)[view] / counts.sum(0)[view] for view in range(2)}
    if alpha is None:
        return sum_of_views(sums, counts), details
    sums, counts = confident_regression(distances, known, pred["confidence"], alpha=alpha)
    for view, label in enumerate(("conf_loss_1", "conf_loss2")):
        details[label] = sums.sum(0)[view] / counts.sum(0)[view]
    return sum_of_views(sums, counts), details


def _matching(
    arrays: dict[str, Tensor], pred: dict[str, Tensor], *, alpha: float | None = None, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    matches = Signal(torch.stack([arrays["gt1/corres"], arrays["gt2/corres"]], 2), valid=arrays["gt1/valid_corres"])
    sums, counts = matching_loss(pred["descriptors"], None, matches, **options)
    details = {"MatchingLoss": sums.sum() / counts.sum()}
    if alpha is None:
        return details["MatchingLoss"], details
    sums, counts = matching_loss(pred["descriptors"], pred["descriptor_confidence"], matches, alpha=alpha, **options)
    details["matching_conf_loss"] = sums.sum() / counts.sum()
    for view, values in enumerate(at_matches(pred["descriptor_confidence"], matches)):
        details[f"Conf{view + 1}_std"] = values.std()
    return details["matching_conf_loss"], details


def _outputs(
    stored: Any, tag: str, loss: Tensor, details: dict[str, Tensor], pred: dict[str, Tensor]
) -> dict[str, np.ndarray]:
    """The loss, its details and the gradients that are stored of this criterion."""
    loss.backward()
    outputs = {"loss": loss} | {f"detail/{name}": value for name, value in details.items()}
    for key in stored.files:
        if key.startswith((f"{tag}/grad1/", f"{tag}/grad2/")):
            view, name = key.removeprefix(f"{tag}/grad").split("/")
            gradient = pred[PREDICTED[name.removesuffix("_in_other_view")]].grad
            assert gradient is not None, key
            outputs[key.removeprefix(f"{tag}/")] = gradient[:, int(view) - 1]
    return {name: value.detach().numpy() for name, value in outputs.items()}


LOSSES = {"dust3r_mast3r_loss": run_pair_losses}
