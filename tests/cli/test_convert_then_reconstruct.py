"""A file as its authors publish it, `manyview convert`, then `manyview reconstruct` with the result."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from manyview import zoo
from manyview.cli.main import main

# What a debug network's shapes cannot tell: heads, taps, and what only the published sizes imply.
PAIR = ["heads=2", "decoder_heads=2", "taps=[0, 1, 1, 2]"]
MANY = ["heads=2", "decoder_heads=2", "taps=[0, 1, 2, 2]", "image_size=64"]


@pytest.fixture
def photos(tmp_path) -> list[str]:
    rng, paths = np.random.default_rng(0), []
    for index in range(2):
        small = Image.fromarray(rng.integers(0, 255, (3, 4, 3), dtype=np.uint8))
        paths.append(tmp_path / f"{index}.png")
        small.resize((80, 60), Image.Resampling.BICUBIC).save(paths[-1])
    return [str(path) for path in paths]


def lightning(state: dict, folder: Path) -> Path:
    torch.save({"state_dict": {f"student.{k}": v for k, v in state.items()}, "epoch": 1}, folder / "m.ckpt")
    return folder / "m.ckpt"


def lightning_ddp(state: dict, folder: Path) -> Path:
    torch.save({"state_dict": {f"net.module.{k}": v for k, v in state.items()}}, folder / "m.ckpt")
    return folder / "m.ckpt"


def namespace(state: dict, folder: Path) -> Path:
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-4), "epoch": 3}, folder / "m.pth")
    return folder / "m.pth"


def deepspeed(state: dict, folder: Path) -> Path:
    torch.save({"module": state, "ds_version": "0.14", "optimizer": None}, folder / "base.pt")
    return folder / "base.pt"


def plain(state: dict, folder: Path) -> Path:
    torch.save({f"_orig_mod.{k}": v for k, v in state.items()}, folder / "model.pt")
    return folder / "model.pt"


def half_safetensors(state: dict, folder: Path) -> Path:
    save_file({k: v.half().contiguous().clone() for k, v in state.items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


def hub_directory(state: dict, folder: Path) -> Path:
    dropped = {k for k in state if "scratch.layer_rn." in k}  # the hub's writer keeps one name of shared tensors
    save_file({k: v.contiguous() for k, v in state.items() if k not in dropped}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"encoder_args": {}, "decoder_args": {}, "head_args": {}}))
    return folder


@pytest.mark.parametrize(
    ("arch", "container", "settings"),
    [
        ("distill3r", lightning, MANY),
        ("distill3r", half_safetensors, MANY),
        ("fast3r-vitl16", hub_directory, MANY),
        ("fast3r-vitl16", lightning_ddp, MANY),
        ("dust3r-vitl16-512-dpt", namespace, PAIR),
        ("mast3r-vitl16", namespace, PAIR),
        ("sab3r-cd", deepspeed, PAIR),
        ("vggt-1b", plain, []),
    ],
)
def test_every_container(arch, container, settings, photos, tmp_path, capsys):
    network = zoo.build(arch, size="debug", seed=1)
    folder = tmp_path / "published"
    folder.mkdir()
    file = container(zoo.export_official(network), folder)
    if arch == "vggt-1b":
        config = network.config
        settings = [
            f"{key}={list(value) if isinstance(value, tuple) else value}"
            for key, value in (("heads", config.encoder.heads), ("taps", config.taps), ("image_size", 56))
        ]
    sets = [part for setting in settings for part in ("--set", setting)]
    model = tmp_path / "model"
    assert main(["convert", str(file), "--arch", arch, "-o", str(model), *sets]) == 0
    assert "reconstruct" in capsys.readouterr().out
    loaded = zoo.load(model).state_dict()
    tolerance = 2e-3 if container is half_safetensors else 0.0
    for key, value in network.state_dict().items():
        torch.testing.assert_close(loaded[key], value, atol=tolerance, rtol=tolerance, msg=key)
    scene = tmp_path / "scene"
    assert main(["reconstruct", *photos, "--model", str(model), "-o", str(scene), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["views"]) == 2
    assert (scene / "scene.json").is_file()
