"""Our variants of the reconstructor: blocks in turn, camera head, patch heads; what each must keep to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manyview import zoo
from manyview.errors import UserError
from manyview.geometry import poses
from manyview.layers.attention import Attention
from manyview.layers.init import init_weights
from manyview.models.reconstructor.network import Reconstructor, ReconstructorConfig, debug, tiny

OURS: dict[str, object] = {"fusion": "turns", "decoder_depth": 4, "taps": (0, 1, 2, 4), "camera_depth": 1}


def built(**changes: object) -> Reconstructor:
    torch.manual_seed(0)
    config: ReconstructorConfig = replace(debug(tiny()), **{**OURS, **changes})  # type: ignore[arg-type]
    model = Reconstructor(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.mark.parametrize("changes", [{}, {"head": "patch"}, {"fusion_registers": 2}, {"xavier": True}], ids=str)
def test_maps_and_cameras_of_any_number_of_views(changes):
    answer = built(**changes)(torch.rand(2, 3, 3, 28, 42))
    assert answer["pointmap"].shape == answer["pointmap_local"].shape == (2, 3, 28, 42, 3)
    assert answer["confidence"].shape == (2, 3, 28, 42)
    assert answer["pose_encoding"].shape == (2, 3, 9)
    assert torch.allclose(answer["cam2world"][:, 0], torch.eye(4).expand(2, 4, 4), atol=1e-5)
    rotation = answer["cam2world"][:, 1:, :3, :3]
    assert torch.allclose(rotation @ rotation.transpose(-1, -2), torch.eye(3).expand_as(rotation), atol=1e-5)
    assert (answer["intrinsics"][..., 0, 0] > 0).all()


def test_the_first_view_is_marked_and_the_order_of_the_others_changes_nothing():
    model, images = built(), torch.rand(1, 4, 3, 28, 28)
    order = [0, 3, 1, 2]
    plain, turned = model(images), model(images[:, order])
    for name in ("pointmap", "pointmap_local", "cam2world"):
        assert torch.allclose(plain[name][:, order], turned[name], atol=1e-4), name
    other_first = model(images[:, [1, 0, 2, 3]])
    assert not torch.allclose(plain["pointmap"][:, [1, 0, 2, 3]], other_first["pointmap"], atol=1e-3)


def test_views_of_several_sizes_and_one_size_in_a_list_agree():
    model, images = built(), torch.rand(1, 3, 3, 28, 42)
    together, listed = model(images), model([images[:, i] for i in range(3)])
    for view in range(3):
        assert torch.allclose(together["pointmap"][:, view], listed["pointmap"][view], atol=1e-4)
    mixed = model([torch.rand(1, 3, 28, 42), torch.rand(1, 3, 42, 28)])
    assert [m.shape for m in mixed["pointmap"]] == [(1, 28, 42, 3), (1, 42, 28, 3)]
    assert mixed["cam2world"].shape == (1, 2, 4, 4)


def test_tokens_are_given_when_asked_for():
    model, images = built(), torch.rand(2, 2, 3, 28, 42)
    given = model(images, with_features=True)
    assert given["features"]["encoder"].shape == (2, 2, 2, 3, 8)
    assert torch.equal(given["pointmap"], model(images)["pointmap"])


def test_every_parameter_is_used_and_initialised():
    model = built(head="patch", fusion_registers=1).train()
    for tensor in (*model.parameters(), *model.buffers()):
        torch.nn.init.constant_(tensor.data, float("nan"))
    init_weights(model, xavier=True)
    answer = model(torch.rand(1, 2, 3, 28, 28))
    sum(answer[name].square().mean() for name in ("pointmap", "pointmap_local", "pose_encoding")).backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused <= {"encoder.mask_token"}
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"decoder_depth": 3, "taps": (0, 1, 2, 3)}, "even number"), ({"fusion": "joint"}, "set fusion=turns")],
)
def test_what_does_not_fit_together_is_said(changes, said):
    with pytest.raises(UserError, match=said):
        built(**changes)


def test_the_options_are_kept_in_a_model_directory(tmp_path):
    model = built(head="patch", xavier=True)
    model.architecture = "reconstructor"
    zoo.save_model(model, tmp_path / "model")
    again, images = zoo.load(tmp_path / "model"), torch.rand(1, 2, 3, 28, 28)
    assert again.config == model.config
    assert torch.equal(again(images)["pointmap"], model(images)["pointmap"])


def test_short_attention_written_out_is_torchs_own():
    """On a CPU, training in half precision: the products written out against the fused kernel in float32."""
    torch.manual_seed(0)
    layer, tokens = Attention(32, 4), torch.randn(2, 33, 32)
    exact = layer(tokens, 0.3)
    layer.zero_grad()
    exact.square().sum().backward()
    wanted = layer.qkv.weight.grad.clone()
    layer.zero_grad()
    half = layer.bfloat16()(tokens.bfloat16().requires_grad_(), 0.3)
    half.float().square().sum().backward()
    assert torch.allclose(half.float(), exact, atol=0.02)
    assert (layer.qkv.weight.grad.float() - wanted).norm() < 0.05 * wanted.norm()


def test_cameras_are_those_of_the_encoding():
    model = built()
    answer = model(torch.rand(1, 3, 3, 28, 28))
    encoding = answer["pose_encoding"]
    rotation = poses.matrix_from_quaternion(encoding[..., 3:7].roll(1, -1))
    world2cam = poses.pose(rotation, encoding[..., :3])
    relative = world2cam @ poses.invert(world2cam[:, :1])
    assert torch.allclose(poses.invert(relative), answer["cam2world"], atol=1e-4)
