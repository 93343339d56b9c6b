"""Cross-attention and its block against slow twins."""

from __future__ import annotations

import pytest
import torch

from manyview.layers.cross import CrossAttention, CrossBlock
from manyview.layers.rope import RotaryPositions, rotate


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_cross_attention_equals_softmax_written_out():
    layer, table = CrossAttention(8, 2), RotaryPositions("grid", 4)
    tokens, memory = torch.randn(1, 6, 8), torch.randn(1, 4, 8)
    here, there = table((2, 3)), table((2, 2))
    mixed = torch.zeros(1, 6, 8)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        q = rotate(layer.query(tokens)[:, None, :, part], here)[0, 0]
        k = rotate(layer.key(memory)[:, None, :, part], there)[0, 0]
        for token in range(6):
            weights = torch.stack([q[token] @ k[other] / 2 for other in range(4)]).softmax(0)
            mixed[0, token, part] = weights @ layer.value(memory)[0, :, part]
    torch.testing.assert_close(layer(tokens, memory, here, there), layer.proj(mixed))


def test_a_table_for_one_side_turns_only_that_side():
    layer, table = CrossAttention(8, 2), RotaryPositions("grid", 4)((2, 2))
    tokens, memory = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    plain = layer(tokens, memory)
    assert not torch.allclose(layer(tokens, memory, table), plain)
    assert not torch.allclose(layer(tokens, memory, None, table), layer(tokens, memory, table))


def test_without_positions_the_order_of_the_memory_does_not_matter():
    block = CrossBlock(8, 2)
    tokens, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(block(tokens, memory), block(tokens, memory[:, torch.randperm(5)]))


def test_a_block_is_three_residual_steps_on_normed_tokens_and_memory():
    block = CrossBlock(8, 2, mlp_ratio=2, eps=1e-3)
    for name, parameter in block.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0)
    table = RotaryPositions("grid", 4)
    tokens, memory, here, there = torch.randn(2, 4, 8), torch.randn(2, 6, 8), table((2, 2)), table((2, 3))
    expected = tokens + block.attn(block.norm1(tokens), None, here)
    expected = expected + block.cross(block.norm2(expected), block.norm_memory(memory), here, there)
    expected = expected + block.mlp(block.norm3(expected))
    torch.testing.assert_close(block(tokens, memory, here, there), expected)
    assert {m.eps for m in block.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-3}
    assert block.mlp.fc1.out_features == 16


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 3"):
        CrossAttention(8, 3)
