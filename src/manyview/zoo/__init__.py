"""Named models: build them fresh, load them, bring published files into our format and back.

model = zoo.load("manyview-tiny")          # a name or a model directory -> eval(), float32, CPU
model = zoo.build("distill3r", size="debug")
zoo.convert("student.ckpt", arch="distill3r", out="models/distill3r")
"""

from __future__ import annotations

from manyview.zoo.cards import CARDS, Card, card_of, licences_of
from manyview.zoo.converting import export_official
from manyview.zoo.directory import save_model
from manyview.zoo.hub import download
from manyview.zoo.models import build, convert, load, models_folder, names, present, take_weights
from manyview.zoo.texts import embed_texts, text_encoder_of

__all__ = [
    "CARDS",
    "Card",
    "build",
    "card_of",
    "convert",
    "download",
    "embed_texts",
    "export_official",
    "licences_of",
    "load",
    "models_folder",
    "names",
    "present",
    "save_model",
    "take_weights",
    "text_encoder_of",
]
