"""Seeded weights in the containers that their authors publish them in."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch


def write_container(state: dict[str, torch.Tensor], container: str | None, folder: Path, words: dict[str, Any]) -> Path:
    """The file as its authors would have saved it, `words` being what is known of the network.

    Raises NotImplementedError for an unknown container.
    """
    kind = container or "plain"
    if kind.startswith("lightning:"):
        prefix = kind.removeprefix("lightning:")
        content: Any = {
            "state_dict": {prefix + key: tensor for key, tensor in state.items()},
            "epoch": 1,
            "hyper_parameters": {"lr": 1e-4},
            "pytorch-lightning_version": "2.0.0",
        }
        path = folder / "model.ckpt"
    elif kind.startswith("naver (args = argparse.Namespace"):
        content, path = ({"model": state, "args": argparse.Namespace(enc_args={}), "iter": 1}, folder / "model.pth")
    elif kind.startswith("naver (args.model = config.constructor"):
        arguments = argparse.Namespace(model=words["constructor"], epochs=1, lr=1e-4)
        content, path = {"model": state, "args": arguments, "epoch": 1}, folder / "model.pth"
    elif kind.startswith("naver-dune"):
        from manyview.models.pair.constructor import parse

        backbone, network = parse(words["constructor"]).arguments
        content, path = (
            {"dune_backbone_name": backbone, "mast3r_model_str": network, "model": state},
            folder / "model.pth",
        )
    elif kind.startswith("hf-directory (config.json holds config.config)"):
        from safetensors.torch import save_file

        # The hub's writer keeps the alphabetically first name of a tensor that has several.
        dropped = {max(names) for names in words.get("aliases", {}).items()}
        kept = {key: tensor.contiguous() for key, tensor in state.items() if key not in dropped}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(words["config"]), encoding="utf-8")
        return folder
    elif kind == "plain":
        content, path = state, folder / "model.pth"
    else:
        raise NotImplementedError(f"container {kind!r}")
    torch.save(content, path)
    return path
