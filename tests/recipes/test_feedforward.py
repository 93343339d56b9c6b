"""The recipe feedforward: its losses at the truth and away from it, what is trained, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manyview import zoo
from manyview.cli.main import main
from manyview.errors import UserError
from manyview.geometry.cameras import intrinsics_matrix
from manyview.geometry.poses import look_at
from manyview.losses.feedforward import distillation_terms, reconstruction_terms, true_encoding
from manyview.losses.relating import measured_points
from manyview.models.vggt.heads import decode_pose
from manyview.recipes.base import preset
from manyview.recipes.feedforward import Feedforward, FeedforwardConfig
from manyview.types import Views

SIZE = (28, 42)


def scene(scale: float = 1.0) -> Views:
    generator = torch.Generator().manual_seed(0)
    eyes = scale * torch.tensor([[[0.0, -3, 0], [1, -3, 0.5], [-1, -2.5, 0.2]]])
    lens = intrinsics_matrix(40.0, 44.0, 21.0, 14.0).expand(1, 3, 3, 3)
    depth = scale * (2 + torch.rand(1, 3, *SIZE, generator=generator))
    depth[:, :, :4] = 0
    images = torch.rand(1, 3, 3, *SIZE, generator=generator)
    return Views(images, intrinsics=lens, cam2world=look_at(eyes, torch.zeros(1, 3, 3)), depth=depth)


def perfect(views: Views) -> dict[str, torch.Tensor]:
    signals = measured_points(views)
    points, valid = signals["pointmap"].value, views.depth > 0
    scale = points.norm(dim=-1)[valid].mean()[None]
    depth = views.depth / scale
    one = torch.full_like(depth, 1.0)
    encoding = true_encoding(views, scale)
    return {
        "pointmap": points / scale,
        "depth": depth,
        "confidence": one,
        "depth_confidence": one,
        "pose_encoding": encoding,
    }


def terms_of(said: dict[str, torch.Tensor], views: Views) -> dict[str, float]:
    return {k: float(v) for k, v in reconstruction_terms(said, views, measured_points(views), alpha=0.2).items()}


def test_true_answers_cost_nothing_in_any_unit_and_noise_of_known_size_what_it_should():
    for scale in (1.0, 7.0):
        views = scene(scale)
        said = perfect(views)
        terms = terms_of(said, views)
        assert max(abs(value) for value in terms.values()) < 1e-3
    off = {**said, "depth": said["depth"] + 0.3}
    assert terms_of(off, views)["depth"] == pytest.approx(0.3, abs=1e-3)  # the same everywhere: no gradient term
    moved = {**said, "pointmap": said["pointmap"] + torch.tensor([0.0, 0.4, 0.3])}
    assert terms_of(moved, views)["points"] == pytest.approx(0.5, abs=1e-3)
    sure = {**moved, "confidence": torch.full_like(said["confidence"], 3.0)}
    assert terms_of(sure, views)["points"] == pytest.approx(1.5 - 0.2 * float(torch.tensor(3.0).log()), abs=1e-3)
    rough = {**said, "depth": said["depth"] + 0.3 * torch.tensor([1.0, -1.0]).repeat(21)}
    assert terms_of(rough, views)["depth"] == pytest.approx(0.3 + 0.6, abs=1e-2)
    turned = said["pose_encoding"].clone()
    turned[..., 0] += 1.0
    assert terms_of({**said, "pose_encoding": turned}, views)["camera"] == pytest.approx((1 - 0.05) / 9, abs=1e-3)


def test_the_encoding_is_that_of_vggt_s_head():
    views = scene()
    cam2world, lens = decode_pose(true_encoding(views, torch.ones(1)), SIZE)
    first = torch.linalg.inv(views.cam2world[:, :1]) @ views.cam2world
    assert torch.allclose(cam2world, first, atol=1e-5)
    assert torch.allclose(lens, views.intrinsics, atol=1e-3)


def test_the_distillation_is_zero_for_the_teacher_s_own_answers():
    said = perfect(scene())
    assert all(float(term) == 0 for term in distillation_terms(said, said).values())
    other = {**said, "depth": said["depth"] + 2}
    assert float(distillation_terms(other, said)["depth"]) == pytest.approx(4)


def test_only_what_is_on_the_encoder_learns_and_learns(tmp_path):
    made = zoo.build("mum-vitl16", size="debug", seed=0)
    encoder = zoo.save_model(made, tmp_path / "encoder")
    method = replace(preset(Feedforward, "debug")[1].method, encoder=str(encoder))
    torch.manual_seed(0)
    recipe = Feedforward.build(method)
    frozen = {name: value.clone() for name, value in recipe.student.encoder.state_dict().items()}
    patch = recipe.student.config.patch_size
    views = scene()
    views.images = torch.rand(1, 3, 3, 2 * patch, 3 * patch)
    views.depth = torch.full((1, 3, 2 * patch, 3 * patch), 2.5)
    views.intrinsics = intrinsics_matrix(40.0, 40.0, 1.5 * patch, float(patch)).expand(1, 3, 3, 3)
    learning = [p for p in recipe.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=3e-3)
    losses = []
    for _ in range(15):
        loss = recipe.step(views, progress=0.0, generator=torch.Generator()).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(value, frozen[name]) for name, value in recipe.student.encoder.state_dict().items())
    assert recipe.student.embed is not None


def test_equation_2_learns_from_a_network_and_keeps_it_out_of_what_is_saved(tmp_path):
    teacher = Feedforward.build(preset(Feedforward, "debug")[1].method)
    where = zoo.save_model(teacher.student, tmp_path / "teacher")
    recipe = Feedforward.build(replace(preset(Feedforward, "debug")[1].method, distil=str(where)))
    assert len(list(recipe.parameters())) == len(list(teacher.parameters()))
    result = recipe.step(scene(), progress=0.0, generator=torch.Generator())
    assert set(result.logs) == {"camera", "depth", "points"}
    recipe.student.load_state_dict(teacher.student.state_dict())
    recipe.student.eval()
    assert float(recipe.step(scene(), progress=0.0, generator=torch.Generator()).loss.detach()) < 1e-8


def test_a_run_by_the_command_gives_a_model_that_poses_can_judge(tmp_path, capsys):
    line = ["train", "feedforward", "--preset", "debug", "--data", "abstract:1", "-o", str(tmp_path / "run")]
    assert main([*line, "--set", "run.steps=2"]) == 0
    capsys.readouterr()
    model = zoo.load(tmp_path / "run" / "model")
    assert model.config.embed
    said = model.eval()(torch.rand(1, 2, 3, 28, 28))
    assert said["cam2world"].shape == (1, 2, 4, 4)


def test_bad_options_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"method\.student does not fit: unknown option 'width'"):
        Feedforward.build(FeedforwardConfig(student={"width": 3}))
    other = zoo.save_model(zoo.build("dinov2-vits14", size="debug", seed=0), tmp_path / "m")
    blind = replace(preset(Feedforward, "debug")[1].method, distil=str(other))
    with pytest.raises(UserError, match="says no cameras, depth and points; take vggt-1b"):
        Feedforward.build(blind)
    views, recipe = scene(), Feedforward.build(preset(Feedforward, "debug")[1].method)
    views.cam2world = None
    with pytest.raises(UserError, match="feedforward learns cameras, which these data do not say"):
        recipe.step(views, progress=0.0, generator=torch.Generator())
