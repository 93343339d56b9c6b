"""Words in the spaces that feature maps are in: which encoder speaks for a space, and texts through prompts.

embed_texts("minilm", ["a chair", "sofa"])      # (2, 384), each of length one
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from manyview.errors import UserError
from manyview.models.family import require
from manyview.models.maskclip.text import from_open_clip
from manyview.models.minilm import installed_minilm
from manyview.models.model import EncodesTexts
from manyview.registry import did_you_mean
from manyview.zoo.models import load

CLIP = "maskclip-vitb16"
SPACES = {"clip": CLIP, "minilm": "the package of manyview[text-offline]"}
"""Feature space -> who embeds texts in it."""
PLAIN = ("{}",)
Templates = Literal["imagenet"]


@cache
def text_encoder_of(space: str) -> EncodesTexts:
    """The encoder of texts of a feature space, "clip" or "minilm", loaded once.

    Raises UserError for a space without words ("dino"), and where weights or a package are missing.
    """
    if space == "minilm":
        return installed_minilm()
    if space != "clip":
        raise UserError(f"no text encoder speaks for the feature space {space!r}; {did_you_mean(space, SPACES)}")
    return require(load(CLIP), EncodesTexts, CLIP)


def embed_texts(space: str, texts: Sequence[str], templates: Sequence[str] | Templates = PLAIN) -> Tensor:
    """Texts in a feature space: (N, D), each of length one, on the CPU.

    templates: what is put around each text, with {} in its place; the mean over them is normalised again (CLIP).
    "imagenet": OpenAI's eighty. Raises UserError for what is no text, or empty, a template without {}, and as
    `text_encoder_of` and the encoder do.
    """
    if isinstance(texts, str) or not texts:
        raise UserError(f"texts are {texts!r}; give a list with at least one")
    if strange := [text for text in texts if not isinstance(text, str)]:
        raise UserError(f"{strange[0]!r} is no text; give words to look for")
    if broken := [index for index, text in enumerate(texts) if any("\ud800" <= char <= "\udfff" for char in text)]:
        raise UserError(f"text {broken[0] + 1} of {len(texts)} holds bytes that are no UTF-8 text; type it again")
    if empty := [index for index, text in enumerate(texts) if not text.strip()]:
        raise UserError(f"text {empty[0] + 1} of {len(texts)} is empty; give words to look for")
    forms = imagenet_templates() if templates == "imagenet" else tuple(templates)
    if not forms:
        raise UserError("there is no template; give '{}' or 'a photo of a {}'")
    if wrong := [form for form in forms if "{}" not in form]:
        raise UserError(f"template {wrong[0]!r} has no {{}} for the text; give something like 'a photo of a {{}}'")
    written = [form.replace("{}", text.strip()) for text in texts for form in forms]
    encoder = text_encoder_of(space)
    rows = F.normalize(encoder.encode_text(written).detach().float().cpu(), dim=-1)
    return F.normalize(rows.unflatten(0, (len(texts), len(forms))).mean(1), dim=-1)


@cache
def imagenet_templates() -> tuple[str, ...]:
    """OpenAI's eighty prompts for ImageNet, as open_clip has them. Raises UserError where it is not installed."""
    return tuple(template("{}") for template in from_open_clip("zero_shot_metadata").OPENAI_IMAGENET_TEMPLATES)
