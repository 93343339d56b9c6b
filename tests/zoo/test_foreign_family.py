"""A family of another package: its names build, save, load, are listed, and do what their network declares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn

import manyview as mv
from manyview import UserError, registry, zoo
from manyview.cli.main import main
from manyview.models.family import FAMILIES, Family, able, family_of
from manyview.models.keymaps import KeyMap
from manyview.models.model import EncodesImages, Model
from manyview.types import Features
from manyview.zoo.cards import CARDS


@dataclass(frozen=True, kw_only=True)
class MeanConfig:
    """A network that looks at mean colours."""

    dim: int = 8
    """Channels."""
    depth: int = 1
    """Blocks."""
    patch_size: int = 8
    """Side of a patch."""
    image_size: int = 32
    """Long side."""


class Means(Model, EncodesImages):
    """A linear map of the mean colour of every patch."""

    def __init__(self, config: MeanConfig) -> None:
        super().__init__()
        self.config, self.blocks = config, nn.ModuleList([nn.Linear(3, config.dim)])

    def encode_blocks(self, images, layers, *, mask=None, norm=True):
        colours = nn.functional.avg_pool2d(images, self.config.patch_size)
        tokens = self.blocks[0](colours.flatten(2).transpose(1, 2))
        return [Features(tokens, None, None, tuple(colours.shape[-2:])) for _ in layers]


FAMILY = Family(
    network=Means,
    config=MeanConfig,
    presets={"lab-means": MeanConfig},
    keymap=KeyMap(pairs=(("net.", "blocks.0."),)),
    debug=lambda config: replace(config, dim=4),
    sizes=lambda state, preset: {"dim": len(state["blocks.0.weight"])},
)


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """As if a package with this family were installed."""
    point = EntryPoint("means", "lab:FAMILY", "manyview.models")
    monkeypatch.setattr(EntryPoint, "load", lambda self: FAMILY)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "manyview.models" else [])
    FAMILIES.names()  # ours are here
    monkeypatch.setattr(FAMILIES, "_entries", dict(FAMILIES._entries))
    monkeypatch.setattr(FAMILIES, "_group", "manyview.models")
    monkeypatch.setattr(CARDS, "_cards", {})


def test_its_names_are_like_ours(tmp_path, capsys):
    assert "lab-means" in zoo.names()
    assert "lab-means" in able(EncodesImages)
    model = zoo.build("lab-means", seed=0, dim=6)
    assert family_of(model) == "means"
    loaded = mv.load(zoo.save_model(model, tmp_path / "model"))
    assert loaded.config == MeanConfig(dim=6)
    found = mv.features([torch.rand(3, 32, 24).numpy()], model=loaded)
    assert found[0].patches.shape == (4, 3, 6)
    torch.save(zoo.export_official(model), tmp_path / "official.pt")
    again = mv.load(zoo.convert(tmp_path / "official.pt", "lab-means", tmp_path / "converted"))
    assert torch.equal(again.blocks[0].weight, model.blocks[0].weight)
    assert main(["models", "lab-means"]) == 0
    assert "a means network" in capsys.readouterr().out


def test_what_it_cannot_is_said_and_its_weights_are_nowhere():
    with pytest.raises(UserError, match="lab-means is a means model: it can encode images but cannot reconstruct"):
        mv.reconstruct([torch.rand(3, 32, 24).numpy()], model="lab-means", device="cpu")
    with pytest.raises(UserError, match="lab-means has no published weights"):
        mv.load("lab-means")
