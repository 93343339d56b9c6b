"""ONNX files of encoders and of many-view reconstructors, each compared with PyTorch before it is handed over.

The graph takes [0, 1] images and normalises them itself. Height and width are fixed, so position tables and
rotations become constants; the numbers of images, scenes and views stay free unless they are given.

    encoder        images (N, 3, H, W)    -> patches (N, h*w, D), cls (N, D)
    reconstructor  images (B, V, 3, H, W) -> pointmap, pointmap_local (B, V, H, W, 3), confidence, confidence_local
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.files import fresh_file, writing
from manyview.layers.patches import patch_grid
from manyview.models.family import require, require_name
from manyview.models.model import EncodesImages
from manyview.models.reconstructor.network import Reconstructor
from manyview.models.vit import EncoderConfig
from manyview.version import __version__
from manyview.zoo.cards import card_of
from manyview.zoo.models import load

TOLERANCE = 1e-3
ONE_FILE = 2**31  # bytes; a larger ONNX file needs a second one beside it


@dataclass(frozen=True)
class Exported:
    """An ONNX file and how far it is from PyTorch."""

    path: Path
    kind: str
    """encoder or reconstructor."""
    size: tuple[int, int]
    """Rows and columns in pixels that the file takes."""
    outputs: tuple[str, ...]
    bytes: int
    largest_difference: dict[str, float]
    """Per output, over all checked shapes: largest |onnx - torch|."""
    relative_difference: dict[str, float]
    """The same divided by the largest |torch|; at most 1e-3, or there is no file."""
    seconds: dict[str, float]
    """One forward pass of the first checked shape: torch, onnxruntime."""
    metadata: dict[str, str]
    """What is written into the file."""


class EncoderGraph(nn.Module):
    """images (N, 3, H, W) -> patches (N, h*w, D) and, where there is one, the class token (N, D)."""

    kind, usual = "encoder", ((2, 1),)

    def __init__(self, network: EncodesImages) -> None:
        super().__init__()
        self.network = network
        self.config: EncoderConfig = network.trunk.config
        self.outputs = ("patches", "cls") if self.config.cls_token else ("patches",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.network.encode(images)
        return (features.patches,) if features.cls is None else (features.patches, features.cls)


class ReconstructorGraph(nn.Module):
    """images (B, V, 3, H, W) -> the maps of a many-view reconstructor, without its chunks: shapes stay symbols."""

    kind, usual = "reconstructor", ((2, 1), (2, 3, 1))
    outputs = ("pointmap", "confidence", "pointmap_local", "confidence_local")

    def __init__(self, network: Reconstructor) -> None:
        super().__init__()
        self.network = network
        self.config: EncoderConfig = network.encoder.config
        self.extended = network.is_extended()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        model, (batch, views) = self.network, images.shape[:2]
        grid = patch_grid(images.shape[-2], images.shape[-1], self.config.patch_size)
        patches = grid[0] * grid[1]
        tokens = model.encoder.encode(images.flatten(0, 1)).patches
        # Written-out sizes: a -1 would make the exporter solve for it in every later operation.
        tokens = tokens.reshape(batch, views * patches, self.config.dim)
        rows = torch.arange(views)[:, None].expand(views, patches).reshape(1, views * patches)
        levels = model.fusion(tokens, rows.expand(batch, views * patches), model.config.taps, extended=self.extended)
        per_view = [level.reshape(batch * views, patches, level.shape[-1]) for level in levels]
        maps = [map_ for head in (model.head, model.head_local) for map_ in head(per_view, grid)]
        return tuple(map_.reshape(batch, views, *map_.shape[1:]) for map_ in maps)


Graph = EncoderGraph | ReconstructorGraph


def export_onnx(
    model: str | Path | nn.Module,
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    views: int | None = None,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write `model` as ONNX for images of `size` = (H, W), and compare ONNX Runtime with PyTorch.

    model: a zoo name, a model directory or a network. size: None is the model's own, square. batch, views: fixed
    numbers; None leaves them free. Raises UserError, and leaves no new file, when a package is missing, the
    model is of another kind, sides are no multiples of the patch, or an output differs by more than `tolerance`
    of its largest value.
    """
    absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)]
    if absent:
        raise UserError(f"the export needs {', '.join(absent)}; run `pip install 'manyview[onnx]'`")
    path, (graph, name, card) = Path(path), _graph(model)
    patch, image_size = graph.config.patch_size, graph.config.image_size
    size = size or (image_size // patch * patch,) * 2
    patch_grid(size[0], size[1], patch)
    fixed = _fixed(graph, batch, views)
    metadata = _metadata(graph, name, card, size)
    with writing(str(path), mend="choose another place"), fresh_file(path) as draft:
        _write(graph, fixed, size, draft, metadata)
        different, relative, seconds = compare(graph, fixed, size, draft)
        worst = max(relative, key=lambda key: relative[key])
        if not relative[worst] <= tolerance:
            raise UserError(
                f"the ONNX file of {name} is wrong: {worst} differs from PyTorch by {relative[worst]:.2g} of its "
                f"largest value, more than {tolerance:g}; it was removed. Please report it with your versions"
            )
    bytes_ = path.stat().st_size
    return Exported(path, graph.kind, size, graph.outputs, bytes_, different, relative, seconds, metadata)


def _graph(model: str | Path | nn.Module) -> tuple[Graph, str, dict[str, Any]]:
    """What is exported, its name and its card."""
    if isinstance(model, nn.Module):
        network, name = copy.deepcopy(model).float().cpu().eval(), type(model).__name__
    else:
        require_name(str(model), EncodesImages)
        network, name = load(model), str(model)
    network.requires_grad_(False)
    graph: Graph
    if isinstance(network, Reconstructor):
        graph = ReconstructorGraph(network)
    else:
        graph = EncoderGraph(require(network, EncodesImages, name))
    need = 4 * sum(parameter.numel() for parameter in graph.parameters())
    if need > ONE_FILE:
        raise UserError(f"{name} has {need / 2**30:.1f} GiB of weights; one ONNX file holds 2 GiB at most")
    return graph.eval(), name, {} if isinstance(model, nn.Module) else card_of(model)


def _fixed(graph: Graph, batch: int | None, views: int | None) -> list[int | None]:
    """The leading numbers of the input; None for those that stay free."""
    if graph.kind == "encoder" and views is not None:
        raise UserError("an encoder takes images one by one: give batch, not views")
    for what, number in (("batch", batch), ("views", views)):
        if number is not None and number < 1:
            raise UserError(f"{what} is {number}; it must be at least 1, or left away to stay free")
    return [batch, views][: len(graph.usual)]


def _write(graph: Graph, fixed: list[int | None], size: tuple[int, int], draft: Path, metadata: dict[str, str]) -> None:
    dims = (torch.export.Dim("batch"), torch.export.Dim("views", max=1000))
    free = {axis: dims[axis] for axis, number in enumerate(fixed) if number is None}
    leading = [number or axis + 2 for axis, number in enumerate(fixed)]  # PyTorch takes a 1 for a constant
    images = torch.rand(*leading, 3, *size)
    with quiet(), torch.no_grad():
        program = torch.export.export(graph, (images,), dynamic_shapes=(free,), strict=True)
        file: Any = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=list(graph.outputs), verbose=False
        )
        file.model.metadata_props.update(metadata)
        file.save(draft, external_data=False)


def _metadata(graph: Graph, name: str, card: dict[str, Any], size: tuple[int, int]) -> dict[str, str]:
    config = graph.config
    return {
        "made_by": f"manyview {__version__}, torch {torch.__version__}",
        "model": Path(name).name,
        "kind": graph.kind,
        "licence": str(card.get("licence") or "not known"),
        "size": f"{size[0]}x{size[1]} (rows x columns, fixed)",
        "patch": str(config.patch_size),
        "grid": f"{size[0] // config.patch_size}x{size[1] // config.patch_size}",
        "input": "RGB in [0, 1]; mean and std are applied inside: do not normalise",
        "mean": " ".join(map(str, config.image_mean)),
        "std": " ".join(map(str, config.image_std)),
    }


def compare(
    graph: Graph, fixed: list[int | None], size: tuple[int, int], file: Path
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Largest difference per output, the same over the largest value, and the seconds of both, on random images."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    gaps: dict[str, list[float]] = {name: [] for name in graph.outputs}
    shares: dict[str, list[float]] = {name: [] for name in graph.outputs}
    seconds: dict[str, float] = {}
    generator = torch.Generator().manual_seed(1)
    numbers = [[n] if n else usual for n, usual in zip(fixed, graph.usual, strict=True)]
    for leading in itertools.product(*numbers):
        images = torch.rand(*leading, 3, *size, generator=generator)
        start = time.perf_counter()
        with torch.inference_mode():
            wanted = graph(images)
        middle = time.perf_counter()
        given = session.run(None, {"images": images.numpy()})
        seconds = seconds or {"torch": middle - start, "onnxruntime": time.perf_counter() - middle}
        for name, ours, theirs in zip(graph.outputs, wanted, given, strict=True):
            if theirs.shape != tuple(ours.shape):
                raise UserError(f"the ONNX file gives {name} as {theirs.shape}, not {tuple(ours.shape)}")
            gaps[name].append(float(np.abs(ours.numpy() - theirs).max()))
            shares[name].append(gaps[name][-1] / max(float(ours.abs().max()), 1e-30))
    # numpy's largest of numbers with a NaN among them is NaN, which no tolerance passes.
    different, relative = ({k: float(np.max(v)) for k, v in of.items()} for of in (gaps, shares))
    return different, relative, seconds


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's remarks about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
