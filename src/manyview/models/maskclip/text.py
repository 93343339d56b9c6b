"""CLIP's text tower (Radford et al. 2021): words to vectors in the space that MaskCLIP's patches are projected to.

Legend: N texts, T tokens, D channels, E channels of the shared space.
"""

from __future__ import annotations

import importlib.util
import operator
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.block import Block

# The last two entries of CLIP's vocabulary: every text lies between them.
START, END = 49406, 49407


class TextTower(nn.Module):
    """Token ids (N, T) to (N, E): a causal transformer, read at the end-of-text token."""

    def __init__(
        self, dim: int, depth: int, heads: int, *, out: int, context: int, vocabulary: int, eps: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(torch.empty(context, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, eps=eps, activation="quick_gelu", causal=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.projection = nn.Parameter(torch.empty(dim, out))

    def init_parameters(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        nn.init.normal_(self.projection, std=self.projection.shape[0] ** -0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """(N, T) -> (N, E), not normalised. The end of a text is its highest id, as in the original."""
        self._check(ids)
        end = ids.argmax(dim=-1)
        # Nothing looks ahead, so what follows the longest text cannot change an answer.
        ids = ids[:, : int(end.max()) + 1]
        tokens = self.embedding(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            tokens = block(tokens)
        last = tokens[torch.arange(len(tokens), device=tokens.device), end]
        return self.norm(last) @ self.projection

    def _check(self, ids: Tensor) -> None:
        context, vocabulary = len(self.positions), self.embedding.num_embeddings
        if ids.ndim != 2 or ids.is_floating_point() or not ids.numel():
            raise UserError(
                f"token ids must be whole numbers (texts, tokens), got {ids.dtype} {tuple(ids.shape)}; "
                "give texts, or ids from CLIP's own tokeniser"
            )
        if ids.shape[1] > context:
            raise UserError(f"texts of {ids.shape[1]} tokens, but this tower reads {context}; shorten them")
        if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
            raise UserError(
                f"token ids run from {int(ids.min())} to {int(ids.max())}, but this tower's vocabulary has "
                f"{vocabulary} entries; give ids of its own vocabulary"
            )


def tokenise(texts: str | Sequence[str | Sequence[int]], *, context: int = 77) -> Tensor:
    """Texts to CLIP's token ids (N, context): start, words, end, zeros. Lists of ids stay what they are.

    Raises UserError for no text, something that is no text, one that is too long, or a missing package.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise UserError("there is no text to encode; give at least one")
    rows = [_ids(text) for text in texts]
    for text, row in zip(texts, rows):
        if len(row) > context:
            raise UserError(f"{str(text)[:40]!r}… has {len(row)} tokens, but CLIP reads {context}; shorten it")
    return torch.tensor([row + [0] * (context - len(row)) for row in rows])


def _ids(text: str | Sequence[int]) -> list[int]:
    if isinstance(text, str):
        return [START, *_tokeniser().encode(text), END]
    try:
        return [operator.index(number) for number in text]
    except TypeError as error:
        raise UserError(f"{text!r} is neither a text nor token ids; give texts, or lists of whole numbers") from error


@cache
def _tokeniser() -> Any:
    """CLIP's byte-pair encoder and its vocabulary, as open_clip ships them."""
    try:
        return from_open_clip("tokenizer").SimpleTokenizer()
    except OSError as error:
        raise _not_installed(error) from error


def from_open_clip(name: str) -> ModuleType:
    """One file of open_clip, read on its own: the package around it would import torchvision and timm, which it does
    not need. Raises UserError where it is not installed.
    """
    package = importlib.util.find_spec("open_clip")
    folders = package.submodule_search_locations if package else None
    path = Path(folders[0]) / f"{name}.py" if folders else None
    try:
        if path is None:
            raise ModuleNotFoundError("open_clip")
        spec = importlib.util.spec_from_file_location(f"manyview_clip_{name}", path)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"open_clip ({path})")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except (ImportError, OSError) as error:
        raise _not_installed(error) from error


def _not_installed(error: Exception) -> UserError:
    return UserError(
        f"CLIP's tokeniser is not installed ({error}); run `pip install 'manyview[text]'`, or give token ids"
    )
