"""Tokens of frames: encoded once, read back as they were, made again where a file is cut off."""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.data.manifest import Manifest
from manyview.evaluation.tokens import CHUNK, encode_frames


def test_frames_are_encoded_once_and_a_damaged_chunk_again(tmp_path):
    frames, asked = list(range(10, 10 + CHUNK + 5)), []

    def read(data, chunk, size) -> tuple[Tensor, dict[int, str]]:
        asked.extend(chunk)
        images = torch.tensor(chunk).float()[:, None, None, None].expand(-1, 3, *size) / 255
        return images, {frame: "not there" for frame in chunk if frame == 12}

    def tokenise(images: Tensor) -> dict[str, Tensor]:
        means = images.mean((1, 2, 3))[:, None, None]
        return {"a": means.expand(-1, 4, 2), "b": -means.expand(-1, 3, 6)}

    def encode() -> tuple:
        return encode_frames(
            tokenise,
            Manifest([], tmp_path),
            frames,
            (4, 4),
            folder=tmp_path / "t",
            device=torch.device("cpu"),
            read=read,
        )

    tokens, unreadable = encode()
    assert asked == frames
    assert unreadable == {12: "not there"}
    chosen = [frames[-1], 11]
    expected = (torch.tensor(chosen).float() / 255).half().float()
    assert torch.equal(tokens["a"][chosen], expected[:, None, None].expand(-1, 4, 2))
    assert torch.equal(tokens["b"][chosen], -expected[:, None, None].expand(-1, 3, 6))
    assert (tokens["a"].dim, tokens["b"].dim) == (2, 6)

    again, unreadable = encode()
    assert asked == frames  # nothing was encoded twice
    assert unreadable == {12: "not there"}
    assert torch.equal(again["a"][frames], tokens["a"][frames])

    _, second = sorted((tmp_path / "t").glob("*.zip"))
    second.write_bytes(second.read_bytes()[:-30])
    mended, _ = encode()
    assert asked[len(frames) :] == frames[CHUNK:]
    assert torch.equal(mended["a"][frames], tokens["a"][frames])
