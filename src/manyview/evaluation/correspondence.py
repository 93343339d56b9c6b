"""Where a model looks for a place of one view in another (MuM, Figure 6): pictures, and how far off the best guess is.

Two answers are drawn for a patch of A over the patches of B: attention of a decoder's global block, for models that
have one, with nothing hidden; and the cosine of the encoder's tokens, for every model.

Legend: V views, L patches of a view, Q queries, h x w the patch grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.pairs import Choice, DepthReader
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Method, Model, Number, Protocol, Row, Summary, Work
from manyview.evaluation.pairs import choose_pairs, pair_item
from manyview.evaluation.tables import markdown_table
from manyview.evaluation.tokens import image_size
from manyview.geometry.matching import cell_centres, warp
from manyview.images.writing import write_picture
from manyview.models.attention_maps import recorded
from manyview.models.family import encoder_of
from manyview.models.model import CompletesViews, device_of
from manyview.pages.pictures import colour_map
from manyview.pipelines import picture_table
from manyview.pipelines.picture_table import Cell, Mark

ZOOM = 3
MARK = (255, 40, 40)
TRUTH = (40, 255, 80)


@PROTOCOLS.add("correspondence")
@dataclass(frozen=True, kw_only=True)
class Correspondence(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "correspondence"
    line: ClassVar[str] = "pictures of where attention or features look for a patch in another view (MuM, Figure 6)"
    numbers: ClassVar[tuple[Number, ...]] = (Number("error", "distance px", digits=1),)
    unit: ClassVar[str] = "pairs"

    pairs: int = 12
    """Pairs of views."""
    queries: int = 4
    """Patches of A that are asked for, per pair."""
    panels: int = 12
    """Pairs that are drawn."""
    block: int = -1
    """The decoder's global block whose attention is drawn; all are measured."""
    norm: bool = True
    """Tokens after the encoder's final LayerNorm."""
    overlap: tuple[float, float] = (0.4, 0.9)
    """Share of A's measured places that B sees."""
    motion: float = 0.1
    """Smallest median motion, in units of the image's longer side."""
    size: int | tuple[int, int] | None = None
    """Resolution, (H, W) or a square; by default what the model was made for."""
    seed: int = 0
    """Seed of pairs and queries."""

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        size = image_size(encoder_of(model), self.size)
        work.note(size=size)
        choice = Choice(overlap=self.overlap, motion=self.motion, seed=self.seed)
        return [pair_item(pair, data) for pair in choose_pairs(DepthReader(data, size), self.pairs, choice)]

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        reader = DepthReader(data, tuple(work.about["size"]))
        drawn = {item.key for item in work.items[: self.panels]}

        def asked(items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
            for item in items:
                panel = work.path / "panels" / f"{item.key}.png" if item.key in drawn else None
                yield item, self._pair(model, reader, item.about["a"], item.about["b"], panel)

        return {"model": asked}

    def _pair(self, model: Model, reader: DepthReader, a: int, b: int, panel: Path | None) -> Answer:
        """The asked cells `queries` (Q,), where they truly lie, `places` (Q, 2), and every method's guess."""
        size, patch = reader.size, int(encoder_of(model).config.patch_size)
        shape = size[0] // patch, size[1] // patch
        cells = cell_centres(shape, size)
        true, valid = warp(reader[a], reader[b], uv=cells)
        seen, cells = valid.flatten().nonzero()[:, 0].numpy(), cells.flatten(0, 1)
        rng = np.random.default_rng([self.seed, a, b])
        queries = torch.from_numpy(np.sort(rng.permutation(seen)[: self.queries]))
        if len(queries) == 0:
            return {"queries": queries.numpy()}
        images = torch.cat([load_views(reader.data, [index], size, depth=False).images[0] for index in (a, b)])
        maps = answers(model, images.to(device_of(model)), queries, norm=self.norm)
        places, starts = true.flatten(0, 1)[queries], cells[queries]
        if panel is not None:
            attention = [name for name in maps if name != "features"]
            if attention and not -len(attention) <= self.block < len(attention):
                raise UserError(f"block {self.block}: this decoder has global blocks 0 to {len(attention) - 1}")
            shown = [*([attention[self.block]] if attention else []), "features"]
            over = {self.label(name): maps[name].unflatten(-1, shape).numpy() for name in shown}
            write_picture(panel, draw_panel(images, over, patch, starts, places))
        guesses = {"zero_flow": starts, **{name: cells[values.argmax(-1)] for name, values in maps.items()}}
        return {"queries": queries.numpy(), "places": places.numpy(), **{n: uv.numpy() for n, uv in guesses.items()}}

    def judge(self, item: Item, answer: Answer, truth: None) -> list[Row]:
        queries, places = answer["queries"].tolist(), answer.get("places")
        return [
            {"method": name, "query": query, "error": float(np.linalg.norm(guess[row] - places[row]))}
            for name, guess in answer.items()
            if places is not None and name not in ("queries", "places")
            for row, query in enumerate(queries)
        ]

    def means(self, rows: Sequence[Row]) -> Row:
        errors = [row["error"] for row in rows]
        return {"mean": float(np.mean(errors)), "median": float(np.median(errors)), "queries": len(errors)}

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        return {"size": work.about["size"], "pairs": len(work.items)}

    def label(self, method: str) -> str:
        if method.startswith("attention"):
            return f"attention, global block {int(method.rsplit('_', 1)[1])}"
        return {"zero_flow": "zero flow", "features": "most similar token"}[method]

    def sections(self, summary: Summary) -> list[str]:
        height, width = summary["size"]
        rows = [[row["label"], f"{row['mean']:.1f}", f"{row['median']:.1f}", row["queries"]] for row in summary["rows"]]
        return [
            f"Distance in pixels, at {height}x{width}, from the best patch of the other view to the true place.",
            markdown_table(["", "mean", "median", "queries"], rows),
            "Pictures in panels/: the asked patch in red, its true place in green, what the model looks at in colour.",
        ]


@torch.inference_mode()
def answers(model: Any, images: Tensor, queries: Tensor, *, norm: bool = True) -> dict[str, Tensor]:
    """Of patches (Q,) of the first of two images (2, 3, H, W), over the second's patches: {name: (Q, L)}.

    `attention_N`: mean over heads of the decoder's global block N, as shares of what goes to the second image.
    `features`: cosine of the encoder's tokens.
    """
    encoder = encoder_of(model)
    tokens = F.normalize(encoder.encode(images, norm=norm).patches, dim=-1)
    maps = {}
    layers = model.global_attention() if isinstance(model, CompletesViews) else []
    if layers:
        patches, prefix = tokens.shape[1], encoder.prefix
        mask = torch.zeros(1, 2, patches, dtype=torch.bool)
        with recorded(layers, prefix + queries.to(images.device)) as weights:
            model(images[None], mask=mask)
        for number, weight in enumerate(weights):
            second = weight.mean(1)[0, :, 2 * prefix + patches :]
            maps[f"attention_{number}"] = (second / second.sum(-1, keepdim=True)).cpu()
    maps["features"] = (tokens[0, queries.to(images.device)] @ tokens[1].T).cpu()
    return maps


def draw_panel(images: Tensor, maps: dict[str, np.ndarray], patch: int, starts: Tensor, places: Tensor) -> np.ndarray:
    """A row per query: A with the asked patch, B with its true place, and each map (Q, h, w) over B.

    images (2, 3, H, W) in [0, 1]; places in their pixels (Q, 2). Returns (H, W, 3) uint8.
    """
    first, second = (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
    size = np.array(second.shape[:2])

    def mark(uv: Tensor, colour: tuple[int, int, int]) -> list[Mark]:
        centre = uv.double().numpy()[::-1]
        box = np.concatenate([centre - patch / 2, centre + patch / 2]) / [*size, *size]
        return [Mark(tuple(box.tolist()), colour)]

    rows = []
    for row, (start, place) in enumerate(zip(starts, places, strict=True)):
        cells = [Cell(first, smooth=True, marks=mark(start, MARK)), Cell(second, smooth=True, marks=mark(place, TRUTH))]
        for values in maps.values():
            heat = colour_map(values[row], float(values[row].min()), float(values[row].max()), palette="INFERNO")
            mixed = (0.35 * second + 0.65 * np.kron(heat, np.ones((patch, patch, 1), np.uint8))).astype(np.uint8)
            cells.append(Cell(mixed, marks=mark(place, TRUTH)))
        rows.append(picture_table.Row("", cells))
    return picture_table.table(["A", "B", *maps], rows, side=ZOOM * int(size.max()))
