"""Model strings of old checkpoints are read as data, and nothing in them runs."""

from __future__ import annotations

import math

import pytest

from manyview.errors import UserError
from manyview.models.pair.constructor import Call, parse


def test_a_constructor_call_becomes_its_parts():
    call = parse(
        "AsymmetricMASt3R('a', 3, pos_embed='RoPE100', img_size=(512, 384), depth_mode=('exp', -inf, inf), "
        "two_confs=True, dino_head_type=None, layers=[0, -1.5e-3], nested=((1, 2), ()))"
    )
    assert call == Call(
        "AsymmetricMASt3R",
        ("a", 3),
        {
            "pos_embed": "RoPE100",
            "img_size": (512, 384),
            "depth_mode": ("exp", -math.inf, math.inf),
            "two_confs": True,
            "dino_head_type": None,
            "layers": [0, -1.5e-3],
            "nested": ((1, 2), ()),
        },
    )
    assert parse("  Model()\n") == Call("Model", (), {})


@pytest.mark.parametrize(
    "text",
    [
        "Model(x=__import__('os').system('touch owned'))",
        "__import__('os').system('touch owned')",
        "Model(x=open('/etc/passwd').read())",
        "Model(**{'a': 1})",
        "Model(*[1])",
        "Model(x=[i for i in range(9)])",
        "Model(x=2 ** 99999999)",
        "Model(x=1 + 1)",
        "Model(x=f'{1}')",
        "Model(x={'a': 1})",
        "Model(x=-'a')",
        "Model(x=-True)",
        "Model(x=b'bytes')",
        "Model(x=...)",
        "Model(x=nan)",
        "Model(lambda: 1)",
        "Model",
        "3",
        "",
        "Model(",
        "Model(1); Model(2)",
        "a = Model(1)",
        "Model(x='\0')",
        "Model(" + "(" * 4000 + ")" * 4000 + ")",
        "Model(x=" + "-" * 9000 + "1)",
        "Model('" + "a" * 20_000 + "')",
    ],
)
def test_anything_else_is_refused_in_one_line(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="model string") as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not list(tmp_path.iterdir())
