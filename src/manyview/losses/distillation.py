"""Distilling several teachers' features into one student: DUNE's loss, data sharing and teacher dropping.

Legend: N images, T tokens, D channels, K teachers.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.types import Features

LossForm = Literal["released", "printed"]
Sharing = Literal["full", "generic", "none"]


def token_loss(student: Tensor, teacher: Tensor, form: LossForm = "released") -> dict[str, Tensor]:
    """Cosine and smooth-L1 terms of (N, T, D) tokens, each averaged over the tokens: (N,), with their total.

    `released`: half the cosine distance and half the smooth-L1 averaged over channels. `printed`: equations 1 to 3
    of the supplementary, unit weights, and one smooth-L1 per token on the norms of the difference.
    """
    student, teacher = student.float(), teacher.float()
    cosine = 1 - F.cosine_similarity(student, teacher, dim=-1)
    if form == "released":
        smooth = F.smooth_l1_loss(student, teacher, reduction="none").mean(-1)
        weight = 0.5
    else:
        difference = student - teacher
        absolute = difference.abs().sum(-1)
        smooth = torch.where(absolute < 1, 0.5 * difference.square().sum(-1), absolute - 0.5)
        weight = 1.0
    terms = {"cosine": cosine.mean(1), "smooth_l1": smooth.mean(1)}
    return {**terms, "total": weight * (terms["cosine"] + terms["smooth_l1"])}


def teacher_loss(student: Features, teacher: Features, form: LossForm = "released") -> Tensor:
    """(N,): one teacher's loss per image, the mean over its token types (patches, and its class token if given)."""
    kinds = [token_loss(student.patches, teacher.patches, form)["total"]]
    if teacher.cls is not None and student.cls is not None:
        kinds.append(token_loss(student.cls[:, None], teacher.cls[:, None], form)["total"])
    return torch.stack(kinds).mean(0)


def coefficients(
    losses: Tensor,
    *,
    sharing: Sharing = "full",
    owner: Tensor | None = None,
    generic: int = 0,
    drop: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Which teachers (K, N) count for which images, as zeros and ones, given their losses (K, N).

    sharing: every teacher sees every image (`full`), its own domain's (`none`), or its own and the generic
    domain's (`generic`); `owner` (N,) is the index of each image's domain. With full sharing the hardest teacher of
    an image always counts and each other is dropped with probability `drop`.
    """
    teachers, images = losses.shape
    if sharing == "full":
        if drop <= 0:
            return torch.ones_like(losses)
        kept = torch.rand((teachers, images), generator=generator).to(losses.device) >= drop
        hardest = F.one_hot(losses.detach().argmax(0), teachers).T.bool()
        return (kept | hardest).to(losses.dtype)
    if owner is None:
        raise ValueError(f"sharing {sharing!r} needs the owner of every image")
    owner = owner.to(losses.device)
    own = owner == torch.arange(teachers, device=losses.device)[:, None]
    return (own | ((owner == generic) & (sharing == "generic"))).to(losses.dtype)


def distillation_loss(losses: Tensor, kept: Tensor) -> Tensor:
    """The mean of (K, N) losses over the teachers and images that count."""
    return (kept * losses).sum() / kept.sum().clamp(min=1)
