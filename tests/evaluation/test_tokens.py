"""Tokens of frames: encoded once, read back as they were, made again where a file is cut off."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from dense_world import PATCH, SIDE, draw
from torch import Tensor

from manyview.errors import UserError
from manyview.evaluation.tokens import CHUNK, encode_frames, from_pixels, read_images


def test_frames_are_encoded_once_and_a_damaged_chunk_again(tmp_path):
    frames, asked = list(range(10, 10 + CHUNK + 5)), []

    def read(chunk) -> tuple[Tensor, dict[int, str]]:
        asked.extend(chunk)
        pixels = torch.tensor(chunk, dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 4, 3)
        return pixels, {frame: "not there" for frame in chunk if frame == 12}

    def tokenise(images: Tensor) -> dict[str, Tensor]:
        means = images.mean((1, 2, 3))[:, None, None]
        return {"a": means.expand(-1, 4, 2), "b": -means.expand(-1, 3, 6)}

    def encode() -> tuple:
        return encode_frames([tokenise], read, frames, folder=tmp_path / "t", device=torch.device("cpu"))

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


def test_pictures_read_by_another_process_give_the_same_tokens(tmp_path):
    data = draw(tmp_path / "data", count=4)
    (tmp_path / "data" / "2.png").write_bytes(b"no picture")
    read = partial(read_images, data, (SIDE, SIDE))
    common = {"frames": range(4), "device": torch.device("cpu")}
    here, beside = (
        encode_frames([from_pixels(PATCH)], read, folder=tmp_path / str(workers), workers=workers, **common)
        for workers in (0, 1)
    )
    assert torch.equal(here[0]["pixels"][range(4)], beside[0]["pixels"][range(4)])
    assert here[1] == beside[1]
    assert list(here[1]) == [2]
    with pytest.raises(UserError, match="workers is -1"):
        encode_frames([from_pixels(PATCH)], read, folder=tmp_path / "n", workers=-1, **common)
