"""What models declare that they can do, and the one line for those that cannot do what was asked."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

import manyview as mv
from manyview import UserError, zoo
from manyview.cli.main import main
from manyview.models.family import FAMILIES, able, cannot, encoder_of, family_of, lookup, require
from manyview.models.model import (
    ROLES,
    CompletesViews,
    EncodesImages,
    EncodesTexts,
    Model,
    ProjectsFeatures,
    Reconstructs,
    ReconstructsPairs,
    ReconstructsViews,
    UpsamplesFeatures,
    fingerprint,
)
from manyview.models.vit import Encoder
from manyview.zoo.models import load_as


@pytest.fixture
def photos(tmp_path):
    for index in range(2):
        Image.new("RGB", (56, 42), (index * 90, 60, 30)).save(tmp_path / f"{index}.png")
    return [str(tmp_path / f"{index}.png") for index in range(2)]


@pytest.fixture
def upsampler(tmp_path):
    return str(zoo.save_model(zoo.build("featup-jbu-dinov2", size="debug"), tmp_path / "upsampler"))


@pytest.fixture
def encoder(tmp_path):
    return str(zoo.save_model(zoo.build("dinov2-vits14", size="debug"), tmp_path / "encoder"))


def test_every_name_declares_a_role_and_names_are_found_by_role():
    assert {name for role in ROLES for name in able(role)} == set(zoo.names())
    assert able(CompletesViews) == [name for name in zoo.names() if name.startswith("mum") and "full" in name]
    assert able(UpsamplesFeatures) == ["featup-jbu-dinov2", "featup-jbu-maskclip"]
    assert able(EncodesTexts) == ["maskclip-vitb16"]
    ours = ["manyview-small", "manyview-small-words", "manyview-tiny"]
    assert able(ReconstructsViews) == ["distill3r", "fast3r-vitl16", *ours, "vggt-1b"]
    assert "mast3r-vitl16" in able(ReconstructsPairs)
    assert set(able(Reconstructs)) == {*able(ReconstructsViews), *able(ReconstructsPairs)}
    assert all(name.startswith("dune-") for name in able(ProjectsFeatures))
    assert set(zoo.names()) - set(able(EncodesImages)) == set(able(UpsamplesFeatures))


@pytest.mark.parametrize("name", zoo.names())
def test_a_network_is_of_its_family_and_its_encoder_is_found(name, tmp_path):
    model = zoo.build(name, size="debug", seed=0)
    assert FAMILIES.get(family_of(model)) is lookup(name)[0]
    loaded = mv.load(zoo.save_model(model, tmp_path / "model"))
    assert family_of(loaded) == family_of(model)
    assert fingerprint(loaded) == fingerprint(model)
    fresh = loaded.untrained(seed=3)
    assert family_of(fresh) == family_of(model)
    assert fingerprint(fresh) == fingerprint(loaded.untrained(seed=3)) != fingerprint(model)
    assert not fresh.training
    if isinstance(model, EncodesImages):
        assert isinstance(encoder_of(model), Encoder)
    else:
        with pytest.raises(UserError, match="can upsample features but cannot encode images"):
            encoder_of(model)


def lines_of(capsys, *arguments: str) -> str:
    """The single line that a command with a mistake prints."""
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


def test_commands_say_in_one_line_what_a_model_is_and_which_others_can(photos, encoder, upsampler, tmp_path, capsys):
    out = str(tmp_path / "out")
    said = lines_of(capsys, "reconstruct", *photos, "--model", "dinov2-vits14", "-o", out)
    assert "dinov2-vits14 is a dinov2 model: it can encode images but cannot reconstruct views" in said
    assert "manyview-tiny" in said
    said = lines_of(capsys, "reconstruct", *photos, "--model", encoder, "-o", out)
    assert f"{encoder} is a dinov2 model: it can encode images but cannot reconstruct views" in said
    said = lines_of(capsys, "features", *photos, "--model", upsampler, "-o", out)
    assert f"{upsampler} is a featup model: it can upsample features but cannot encode images" in said
    said = lines_of(capsys, "features", *photos, "--model", encoder, "-o", out, "--project", "dinov2")
    assert "dune-vitb14-448" in said
    said = lines_of(capsys, "onnx", upsampler, "-o", str(tmp_path / "x.onnx"))
    assert "cannot encode images" in said


@pytest.mark.parametrize(
    ("protocol", "model", "says"),
    [
        (
            "recon-per-view",
            "mum-vitl16",
            "mum-vitl16 is a mum_encoder model: it can encode images but cannot reconstruct views",
        ),
        ("masked-views", "dinov2-vits14", "it can encode images but cannot complete hidden patches"),
        ("linear-depth", "featup-jbu-dinov2", "can upsample features but cannot encode images"),
        ("matching-zeroshot", "featup-jbu-dinov2", "can upsample features but cannot encode images"),
    ],
)
def test_an_evaluation_refuses_a_model_by_name_before_it_is_fetched(protocol, model, says, tmp_path, capsys):
    from manyview.data.synthetic import write_scenes

    data = write_scenes(tmp_path / "rooms", scenes=1, views=2, size=(28, 42), seed=0)
    said = lines_of(capsys, "eval", protocol, "--model", model, "--data", str(data), "-o", str(tmp_path / "o"))
    assert says in said


def test_a_network_that_declares_nothing_is_refused_and_a_plain_function_is_a_reconstructor():
    with pytest.raises(UserError, match="this Conv2d declares nothing that it can do and cannot encode images"):
        load_as(torch.nn.Conv2d(3, 3, 1), EncodesImages)
    function = lambda images: {}
    assert load_as(function, Reconstructs) == (function, "function")
    with pytest.raises(UserError, match="this function declares nothing that it can do and cannot complete"):
        require(function, CompletesViews)
    long = str(cannot("x", "dinov2", Encoder, EncodesImages))
    assert "and" in long
    assert "more (manyview models)" in long


def test_other_peoples_networks_declare_the_same():
    class Mine(Model, EncodesImages):
        """An encoder of another package, around one of ours."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = zoo.build("dinov2-vits14", size="debug", seed=0)
            self.config, self.blocks = self.inner.config, self.inner.blocks

        def encode_blocks(self, images, layers, *, mask=None, norm=True):
            return self.inner.encode_blocks(images, layers, mask=mask, norm=norm)

    model = Mine().eval()
    assert encoder_of(model) is model
    found = mv.features([torch.rand(3, 28, 42).numpy()], model=model, size=42)
    assert found[0].patches.shape == (2, 3, 8)


def test_directories_of_version_1_open_with_the_same_bits(tmp_path):
    """Their configuration has the encoder's fields among the others."""
    for name in ("distill3r", "vggt-1b", "mum-tiny12-full", "mast3r-vitl16", "dune-vitb14-336", "maskclip-vitb16"):
        model = zoo.build(name, size="debug", seed=0)
        folder = zoo.save_model(model, tmp_path / name)
        path = folder / "config.json"
        config = json.loads(path.read_text())
        assert config["version"] == 2
        inner = config["config"].pop("encoder")
        flat = {**inner, **config["config"]}
        if name == "vggt-1b":
            flat["patch_embed"] = "debug"
        path.write_text(json.dumps({**config, "version": 1, "config": flat}))
        assert mv.load(folder).config == model.config
        assert fingerprint(mv.load(folder)) == fingerprint(model)
    path.write_text(json.dumps({**config, "version": 3}))
    with pytest.raises(UserError, match="version 3"):
        mv.load(folder)
    path.write_text(json.dumps({**config, "config": {"colour": "red"}}))
    with pytest.raises(UserError, match=r"config\.json: unknown option 'colour'"):
        mv.load(folder)


def test_flat_names_reach_the_encoder_and_the_network_around_it():
    model = zoo.build("distill3r", size="debug", heads=4, registers=3, eps=1e-5, decoder_heads=4)
    assert (model.config.encoder.heads, model.config.encoder.registers, model.config.encoder.eps) == (4, 3, 1e-5)
    assert model.config.decoder_heads == 4
    vggt = zoo.build("vggt-1b", size="debug", heads=1, **{"encoder.heads": 4})
    assert (vggt.config.heads, vggt.config.encoder.heads) == (1, 4)
    with pytest.raises(TypeError, match="did you mean 'registers'"):
        zoo.build("distill3r", size="debug", register=3)
