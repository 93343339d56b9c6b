"""What a pixel means, in words: probabilities of queries against everything else that might be there.

A feature is compared with the phrases of a query and with everyday words by cosine. Words that are about as near to the
query as the nearest one speak for it ("couch" for a sofa, "something to read" for a book), all others against it; the
softmax of the best of the first and all of the second is the probability, so that 0.5 means: as likely as all other
words together. Temperatures and limits belong to a space of features and are never fitted to a scene. Those of minilm
were chosen on texts alone (names of classes, blended and with noise), those of clip are its training temperature and a
guess.

Legend: Q queries, D channels, h x w cells of a feature map, H x W pixels.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from manyview.errors import UserError
from manyview.scene.options import MODEL

if TYPE_CHECKING:
    from manyview.scene.scene import Scene

Embed = Callable[[Sequence[str]], Any]
"""Texts -> (N, D) in the space of the features."""
EVERYDAY: tuple[str, ...] = (
    *("wall", "floor", "ceiling", "door", "window", "curtain", "picture", "rug", "radiator", "table", "chair", "sofa"),
    *("bed", "cabinet", "wardrobe", "bookshelf", "stool", "lamp", "plant", "tv", "fridge", "stove", "bin", "box"),
    *("suitcase", "mug", "bottle", "bowl", "book", "ball", "vase", "laptop", "pillow", "clock", "fruit", "can"),
    *("teapot", "sink", "toilet", "bathtub", "mirror", "towel", "shelf", "stairs", "shoe", "clothes", "bag"),
    *("keyboard", "telephone", "toy", "bicycle", "car", "bus", "truck", "train", "boat", "airplane", "road"),
    *("sidewalk", "building", "bridge", "fence", "traffic light", "sky", "cloud", "grass", "tree", "flower", "water"),
    *("mountain", "sand", "rock", "person", "dog", "cat", "bird", "horse", "cow", "sheep", "elephant", "food"),
    *("bread", "knife", "umbrella", "guitar", "tent", "statue"),
)
"""Background of every query, unless another is given."""
PROMPT = {"clip": "a photo of a {}."}
"""What is put around the words of a space; others take them as they are."""


@dataclass(frozen=True)
class Calibration:
    """How cosines of a space become probabilities."""

    temperature: float
    """Of the softmax."""
    close: float
    """A background word speaks for a query when its cosine with it is this share of the nearest word's."""
    least: float
    """… and is at least this."""
    familiar: float = 0.0
    """A text whose cosine with every everyday word is below this is hardly known to the encoder: words of other
    languages, typing errors, rare words; 0: not measured."""


CALIBRATION = {"minilm": Calibration(0.04, 0.9, 0.45, 0.43), "clip": Calibration(0.01, 0.98, 0.8)}
OTHERWISE = Calibration(0.04, 0.9, 0.45)
"""For spaces of other packages."""


def phrases_of(queries: Iterable[str | Sequence[str]] | None) -> list[tuple[str, ...]]:
    """Queries as tuples of phrases that mean the same: "couch | sofa", or a sequence of texts. Raises UserError."""
    queries = [queries] if isinstance(queries, str) else [] if queries is None else list(queries)
    if not queries:
        raise UserError("there is nothing to look for; name at least one thing, such as 'a chair'")
    found = []
    for number, query in enumerate(queries, start=1):
        texts = query.split("|") if isinstance(query, str) else query
        which = f"query {number} of {len(queries)}"
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{which} is {query!r}, no text; name a thing, such as 'a chair'")
        phrases = tuple(dict.fromkeys(plain for text in texts if has_word(plain := _plain(text))))
        if not phrases:
            written = any(text.strip() for text in texts)
            what = f"holds no word ({query!r})" if written else "is empty"
            raise UserError(f"{which} {what}; name a thing, such as 'a chair'")
        found.append(phrases)
    return found


def has_word(text: str) -> bool:
    """Whether a text holds a letter, a number or a pictograph, and so can name a thing."""
    return any(unicodedata.category(char)[0] in "LN" or unicodedata.category(char) == "So" for char in text)


def _plain(text: str) -> str:
    """A text as one line without control characters."""
    return "".join(char for char in " ".join(text.split()) if unicodedata.category(char) != "Cc")


def space_of(spaces: Sequence[str], wanted: str | None) -> str:
    """The one of a scene's or model's feature spaces that words are looked up in. Raises UserError for none."""
    if not spaces:
        raise UserError(
            "there are no features that answer to words; reconstruct the photos with a model that makes them: "
            f"manyview reconstruct IMAGES --model {MODEL} -o SCENE"
        )
    if wanted is not None and wanted not in spaces:
        raise UserError(f"there are features of {', '.join(spaces)}, not of {wanted!r}; leave --space out")
    return wanted or next((name for name in spaces if name in CALIBRATION), spaces[0])


def spoken(scene: Scene, space: str) -> Embed:
    """The text encoder of a space of a scene. Raises UserError when another one than the scene's speaks for it now."""
    from manyview.zoo.texts import SPACES

    described: Any = scene.info
    for key in ("features", space, "text_encoder"):
        described = described.get(key) if isinstance(described, dict) else None
    made_for = described
    if made_for is not None and space in SPACES and made_for != SPACES[space]:
        raise UserError(
            f"the features of this scene were made for the text encoder {made_for}, here {space} is spoken by "
            f"{SPACES[space]}; reconstruct the scene again"
        )
    return lambda texts: _embedded(space, tuple(texts))


@lru_cache(maxsize=64)
def _embedded(space: str, texts: tuple[str, ...]) -> np.ndarray:
    from manyview.zoo.texts import embed_texts

    return embed_texts(space, texts, (PROMPT.get(space, "{}"),)).numpy()


class Words:
    """Queries in a space, with the words that they are held against."""

    def __init__(
        self,
        phrases: Sequence[Sequence[str]],
        space: str,
        embed: Embed,
        background: Sequence[str] = EVERYDAY,
        calibration: Calibration | None = None,
    ) -> None:
        """Raises UserError for a background that is empty, has empty words, or none that means something else."""
        if not background or not all(has_word(word) for word in background):
            raise UserError(
                "the background needs words with commas between, none of them empty; leave it out for everyday ones"
            )
        self.calibration = calibration or CALIBRATION.get(space, OTHERWISE)
        self.space, self.owner = space, np.repeat(np.arange(len(phrases)), [len(each) for each in phrases])
        texts = [phrase for each in phrases for phrase in each]
        self.queries, self.background = _rows(embed(texts)), _rows(embed(list(background)))
        near, number = self.queries @ self.background.T, torch.from_numpy(self.owner)
        everyday = near if tuple(background) == EVERYDAY else self.queries @ _rows(embed(list(EVERYDAY))).T
        best = torch.zeros(len(phrases)).scatter_reduce(0, number, everyday.max(1).values, "amax")
        self.known = (best >= self.calibration.familiar).tolist()
        """Of each query whether the encoder seems to know it."""
        close = (near >= self.calibration.least) & (near >= self.calibration.close * near.max(1, keepdim=True).values)
        self.meant = torch.stack([close[number == q].any(0) for q in range(len(phrases))])
        """(Q, words) bool: background words that speak for a query."""
        if self.meant.all(1).any():
            vague = phrases[int(self.meant.all(1).nonzero()[0, 0])][0]
            raise UserError(f"every word of the background means {vague!r}; name other things that may be there")

    def __len__(self) -> int:
        return len(self.meant)

    def probabilities(self, features: np.ndarray) -> torch.Tensor:
        """Features (h, w, D) -> (Q, h, w), each query by itself against the background.

        Features of 0, and those with numbers that are not finite, give 0. Raises UserError for another D.
        """
        cells = torch.from_numpy(np.asarray(features, np.float32))
        if cells.shape[-1] != self.queries.shape[1]:
            raise UserError(
                f"the features ({self.space}) have {cells.shape[-1]} channels, the text encoder has "
                f"{self.queries.shape[1]}: they are of different spaces"
            )
        known = cells.isfinite().all(-1) & cells.any(-1)
        cells = F.normalize(torch.where(known[..., None], cells, 0), dim=-1)
        phrases, words = (cells @ texts.T / self.calibration.temperature for texts in (self.queries, self.background))
        chances = []
        for number, meant in enumerate(self.meant):
            ours = torch.cat([phrases[..., torch.from_numpy(self.owner == number)], words[..., meant]], -1)
            chances.append(torch.sigmoid(ours.max(-1).values - torch.logsumexp(words[..., ~meant], -1)))
        return torch.where(known, torch.stack(chances), 0)

    def on_pixels(self, features: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The same at every pixel of a picture of `size` (H, W): (Q, H, W) float32."""
        cells = self.probabilities(features)
        return F.interpolate(cells[None], size, mode="bilinear", align_corners=False)[0].numpy()


def _rows(vectors: Any) -> torch.Tensor:
    return F.normalize(torch.as_tensor(np.asarray(vectors), dtype=torch.float32), dim=-1)
