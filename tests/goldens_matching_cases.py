"""Adapters of the items on dense features: RoMa's benchmark (`published` warps and masks), the kernel matcher,
segmentation and its nearest patches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from manyview.evaluation.dense_labels import confusion, segmentation_scores
from manyview.evaluation.patch_fit import neighbours, voted
from manyview.geometry.matching import PosedDepth, decode, kernel_log_probabilities, warp
from manyview.metrics.matching import end_point_errors, matching_scores

Arrays = dict[str, np.ndarray]
Adapter = Callable[[Arrays, Arrays], dict[str, Any]]


def dense_match(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Camera 1 is the world's origin. Where no place is seen the true warp is not compared.

    Left out: masks by nearest depth and with the looser tolerance of RoMa's docstring.
    """
    depth1, depth2, k, second_from_first = (
        torch.from_numpy(inputs[name]).double() for name in ("depth1", "depth2", "K", "T_1to2")
    )
    size = np.array(depth1.shape[::-1])
    first = PosedDepth(depth1, k, torch.eye(4).double())
    second = PosedDepth(depth2, k, torch.linalg.inv(second_from_first))
    uv, valid = warp(first, second, published=True)
    predicted = (inputs["matches"][..., 2:].astype(np.float64) + 1) / 2 * size
    errors = end_point_errors(predicted, uv, valid)
    scores = matching_scores(errors)
    hidden = np.broadcast_to(~valid.numpy()[..., None], uv.shape)
    return {
        "gt_warp": np.ma.masked_array(2 * uv.numpy() / size - 1, hidden),
        "mask": valid.numpy(),
        "gd": errors,
        "n_valid": np.int64(valid.sum()),
        "epe": scores["epe"],
        "robust32": scores["robustness"],
        **{f"pck{t}": scores[f"pck_{t}"] for t in (1, 3, 5)},
    }


def kernel_nn(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Normalised positions are pixels of an image of 2 by 2, less one. Left out: tiny RoMa's inner product."""
    a, b = (torch.from_numpy(inputs[name]).flatten(2).transpose(1, 2) for name in ("feat0", "feat1"))
    grid = inputs["feat1"].shape[-2], inputs["feat1"].shape[-1]
    scores = kernel_log_probabilities(a, b, 1 / float(inputs["inv_temperature"]))
    positions = decode(scores, grid, (2, 2), "expectation") - 1
    return {
        "log_probs": scores.reshape(expected["log_probs"].shape).numpy(),
        "warp_cos": positions.reshape(expected["warp_cos"].shape).numpy(),
    }


def segmentation(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Left out: CAPI's and torchmetrics' means, which count classes that are nowhere."""
    classes, true = int(inputs["num_classes"]), inputs["gt"].astype(np.int64)
    true = np.where(true == inputs["ignore_index"], -1, true)
    counts = confusion(inputs["pred"].astype(np.int64), true, classes)
    scores, hits = segmentation_scores(counts), np.diag(counts)
    return {
        "area_intersect": hits,
        "area_union": counts[:, :-1].sum(0) + counts.sum(1) - hits,
        "area_pred": counts[:, :-1].sum(0),
        "area_label": counts.sum(1),
        "aAcc": scores["accuracy"],
        "IoU": np.array([np.nan if value is None else value for value in scores["iou"]]),
        "mIoU": scores["miou"],
    }


def knn_seg(inputs: Arrays, expected: Arrays) -> dict[str, Any]:
    """Left out: the inner product, which is no distance of ours."""
    distance = str(inputs["distance"])
    if distance not in ("cosine", "L2"):
        return {}
    known, asked, labels = (torch.from_numpy(inputs[name]) for name in ("train_X", "test_X", "train_y"))
    rows = neighbours(asked, known, count=int(inputs["k"]), distance=distance)  # type: ignore[arg-type]
    return {"pred": voted(labels.long()[rows], int(labels.max()) + 1).numpy()}


ADAPTERS: dict[str, Adapter] = {
    "dense_match": dense_match,
    "kernel_nn": kernel_nn,
    "segmentation": segmentation,
    "knn_seg": knn_seg,
}
