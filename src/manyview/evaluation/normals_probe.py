"""Surface normals by a DPT on frozen features (Probe3D's protocol; MuM, Table 8).

What a frame's normals are: `manyview.evaluation.normal_maps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Number, Row
from manyview.evaluation.dense_fit import AT_ONCE, Examples, Schedule
from manyview.evaluation.dense_maps import Kind, Part
from manyview.evaluation.dense_probe import DenseProbe, Facts
from manyview.evaluation.normal_maps import unpacked
from manyview.evaluation.tokens import Tokenise, blocks_of
from manyview.metrics.normals import ERRORS, normal_errors
from manyview.models.family import encoder_of
from manyview.models.normal_head import LEVELS, NormalHead, angular_loss
from manyview.progress import track


@PROTOCOLS.add("normals-probe")
@dataclass(frozen=True, kw_only=True)
class NormalsProbe(DenseProbe):
    """Tokens of four evenly spaced blocks, a DPT, and the likelihood of angles; errors are means over pictures."""

    name: ClassVar[str] = "normals-probe"
    line: ClassVar[str] = "surface normals by a DPT on frozen features (NYU Depth v2; MuM, Table 8)"
    about: ClassVar[tuple[str, str]] = ("A DPT", "hyper-parameters fixed beforehand")
    kind: ClassVar[Kind] = "normals"
    numbers: ClassVar[tuple[Number, ...]] = (
        *(
            Number(f"below_{d}", f"< {t}°", "higher", digits=1, percent=True)
            for d, t in ((11, 11.25), (22, 22.5), (30, 30))
        ),
        Number("rmse", "RMSE °", digits=1),
        Number("mean", "mean °", digits=1),
        Number("median", "median °", digits=1),
    )

    width: int = 256
    """Channels of the DPT."""
    fit: Schedule = field(default_factory=lambda: Schedule(lr=5e-4, weight_decay=0.01, batch=8))
    """How it is trained (fit.steps, fit.batch, fit.lr, …); Probe3D trains for ten epochs."""

    def tokens(self, encoder: Any, images: Tensor) -> Tensor:
        depth = len(encoder.blocks)
        layers = [max(0, depth * (level + 1) // LEVELS - 1) for level in range(LEVELS)]
        return torch.cat([of.patches for of in blocks_of(encoder, images, layers, norm=self.norm)], -1)

    def tokenisers(self, model: Any) -> list[Tokenise]:
        """Without raw pixels, of which there are no four depths."""
        encoder = encoder_of(model)
        if self.project:
            raise UserError("normals-probe reads four blocks of an encoder, not projections; leave project away")
        methods: list[Tokenise] = [lambda images: {"model": self.tokens(encoder, images)}]
        if self.baselines:
            fresh = encoder_of(model.untrained(self.seed))
            methods.append(lambda images: {"untrained": self.tokens(fresh, images)})
        return methods

    def facts(self, part: Part, maps: Sequence[np.ndarray]) -> Facts:
        total, count = np.zeros(3), 0
        for chunk in maps:
            normals, known = unpacked(np.asarray(chunk))
            total, count = total + normals[known].sum(0), count + int(known.sum())
        if not count:
            raise UserError("no training frame has a normal; give frames with normals, or with depth and intrinsics")
        return {"constant": (total / max(float(np.linalg.norm(total)), 1e-9)).tolist()}

    def predict(
        self, method: str, train: Examples, test: Examples, facts: Facts
    ) -> tuple[dict[str, Any], Iterable[np.ndarray]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = NormalHead(train.tokens.dim // LEVELS, train.patch, self.width).to(train.device)
        loss = _trained(head, train, self.fit, method, self.seed)
        return {"loss": loss}, _answers(head, test)

    def judge(self, item: Item, answer: Answer, truth: tuple[np.ndarray, Facts]) -> Row:
        true, known = unpacked(truth[0])
        errors = normal_errors(answer["map"], true, known)
        if not errors["pixels"]:
            return {"failed": "no pixel has a normal"}
        return {name: errors[name] for name in ERRORS}


def _trained(head: NormalHead, examples: Examples, schedule: Schedule, label: str, seed: int) -> float:
    """Train in place, leave it in eval mode; returns the mean loss over the last tenth."""
    device, rng = examples.device, np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(head.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.rate)
    losses: list[Tensor] = []
    head.train()
    for _ in track(range(schedule.steps), label=f"head on {label}", unit="step"):
        drawn = rng.choice(examples.usable, min(schedule.batch, len(examples.usable)), replace=False)
        tokens, maps = examples.take(drawn.tolist(), device)
        true, known = (torch.from_numpy(values).to(device) for values in unpacked(maps.cpu().numpy()))
        normals, concentration = head(tokens, examples.grid)
        loss = angular_loss(normals, concentration, true.permute(0, 3, 1, 2), known)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        losses.append(loss.detach())
    head.eval()
    return float(torch.stack(losses[-max(1, len(losses) // 10) :]).mean())


@torch.inference_mode()
def _answers(head: NormalHead, examples: Examples) -> Iterator[np.ndarray]:
    """Normals (h, w, 3) of every picture, in order; windows are averaged."""
    device, part, inside = examples.device, examples.part, examples.part.framing.inside
    for rows, crops in part.batches(AT_ONCE):
        said = head(examples.tokens[crops].to(device), examples.grid)[0]
        for row in rows:
            total = said.new_zeros(3, *part.sizes[row])
            for values, index in zip(said, crops, strict=True):
                if part.crops[index].row == row:
                    total[:, *part.place(index)] += values[:, *inside]
            yield total.permute(1, 2, 0).cpu().numpy()
