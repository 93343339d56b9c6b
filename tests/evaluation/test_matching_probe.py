"""Matching protocols on encoders of which we know how good they are, and the sweep of probes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matching_world import HEIGHT, PATCH, WIDTH, PlaceEncoder, write_scenes

from manyview.data.manifest import Manifest
from manyview.data.pairs import Choice, DepthReader
from manyview.errors import UserError
from manyview.evaluation.base import evaluate
from manyview.evaluation.matching_changes import changed_pairs
from manyview.evaluation.matching_protocols import MatchingProbe, MatchingZeroshot
from manyview.evaluation.pairs import choose_pairs
from manyview.evaluation.probe import (
    PUBLISHED_LRS,
    Examples,
    PairSet,
    Probes,
    Shape,
    Sweep,
    batches,
    matching_loss,
    mean_errors,
    one_of,
    train_sweep,
)
from manyview.evaluation.tokens import Tokens
from manyview.geometry.matching import warp

QUANTISED = 0.3826 * PATCH  # mean distance of a place from the centre of its cell
SWEEP = Sweep(lrs=(1e-3, 5e-3), decays=(1e-3,), steps=60, evaluations=2)
SMALL = {"pairs": 12, "train_pairs": 48, "val_pairs": 8, "overlap": (0.3, 1.0), "motion": 0.05, "sweep": SWEEP}
PROBE = MatchingProbe(**SMALL)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Manifest:
    return write_scenes(tmp_path_factory.mktemp("rooms"), scenes=range(8))


def rows_of(summary) -> dict[str, dict]:
    return {row["method"]: row for row in summary["rows"]}


@pytest.fixture(scope="module")
def judged(rooms, tmp_path_factory):
    out = tmp_path_factory.mktemp("judged") / "out"
    return evaluate(PROBE, PlaceEncoder(), rooms, out, names={"model": "places"}), out


def test_perfect_features_come_near_the_size_of_a_cell_and_blind_ones_do_not(judged):
    rows = rows_of(judged[0])
    assert rows["model"]["epe_cells"] < 2 * QUANTISED
    assert rows["model"]["epe_cells"] < 0.6 * rows["zero_flow"]["epe_cells"]
    assert rows["untrained"]["epe_cells"] > 0.9 * rows["zero_flow"]["epe_cells"]
    assert rows["model"]["pck_16"] > 0.9 > rows["untrained"]["pck_16"]
    assert rows["colours"]["epe_cells"] < 0.8 * rows["zero_flow"]["epe_cells"]  # a colour is a place in these rooms
    assert judged[0]["ratios"]["zero_flow"]["high"] < 1


def test_nearest_tokens_of_perfect_features_err_by_quantisation_alone(rooms, tmp_path):
    protocol = MatchingZeroshot(pairs=40, overlap=(0.3, 1.0), motion=0.05)
    rows = rows_of(evaluate(protocol, PlaceEncoder(dim=512), rooms, tmp_path / "out"))
    assert QUANTISED * 0.8 < rows["model"]["epe_cells"] < QUANTISED * 1.35
    assert rows["model_raw"]["epe_cells"] == pytest.approx(rows["model"]["epe_cells"])
    assert rows["untrained"]["epe_cells"] > rows["zero_flow"]["epe_cells"]


def test_zero_flow_is_the_mean_length_of_the_true_flow(judged, rooms):
    from manyview.data.pairs import DepthReader
    from manyview.geometry.matching import warp

    items = json.loads((judged[1] / "items.json").read_text())
    lengths = []
    for item in items["items"]:
        a, b = (DepthReader(rooms, (HEIGHT, WIDTH))[item["about"][side]] for side in "ab")
        uv, valid = warp(a, b)
        lengths.append(float((uv - warp(a, a)[0]).norm(dim=-1)[valid].mean()))
    assert rows_of(judged[0])["zero_flow"]["epe"] == pytest.approx(np.mean(lengths), rel=1e-4)


def test_no_scene_is_in_two_splits_and_files_hold_everything(judged):
    summary, out = judged
    items = json.loads((out / "items.json").read_text())
    learned = items["about"]["pairs"]
    scenes = {split: {pair["scene"] for pair in pairs} for split, pairs in learned.items()}
    scenes["test"] = {item["scene"] for item in items["items"]}
    assert all(scenes[split] for split in ("train", "val", "test"))
    assert not scenes["train"] & scenes["val"]
    assert not (scenes["train"] | scenes["val"]) & scenes["test"]
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 12 * 6
    assert np.mean([line["epe"] for line in lines if line["method"] == "model"]) == pytest.approx(
        rows_of(summary)["model"]["epe"]
    )
    assert "raw pixels" in (out / "summary.md").read_text()
    assert "places" in (out / "report.html").read_text()
    assert not (out / "scratch").exists()


def test_finished_evaluations_are_not_encoded_again_and_interrupted_ones_go_on(rooms, tmp_path):
    out, model = tmp_path / "out", PlaceEncoder()
    first = evaluate(PROBE, model, rooms, out)
    again = PlaceEncoder()
    assert evaluate(PROBE, again, rooms, out)["rows"] == first["rows"]
    assert again.encoded == 0
    lost, *others = sorted((out / "predictions" / "model").iterdir())
    kept = {path: path.stat().st_mtime_ns for path in (*others, *(out / "predictions" / "pixels").iterdir())}
    lost.unlink()
    assert evaluate(PROBE, again, rooms, out)["rows"] == first["rows"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    with pytest.raises(UserError, match="--overwrite"):
        evaluate(MatchingProbe(**SMALL, seed=1), again, rooms, out)


def test_picking_on_the_test_pairs_flatters(rooms, tmp_path, judged):
    peeked = evaluate(MatchingProbe(**SMALL, pick="test"), PlaceEncoder(), rooms, tmp_path / "out")
    for method in ("model", "pixels", "untrained"):
        honest, flattered = rows_of(judged[0])[method], rows_of(peeked)[method]
        assert flattered["epe_cells"] <= honest["epe_cells"] + 1e-6
        assert flattered["probe"]["epe"] == pytest.approx(flattered["epe_cells"], rel=1e-3)


def test_every_published_choice_at_once(rooms, tmp_path):
    quick = MatchingProbe(
        pairs=6,
        train_pairs=8,
        val_pairs=4,
        baselines=False,
        published=True,
        size=(HEIGHT, WIDTH),
        overlap=(0.3, 1.0),
        motion=0.05,
        sweep=Sweep(steps=4, evaluations=2),
    )
    evaluate(quick, PlaceEncoder(dim=16), rooms, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "training" / "model.json").read_text())
    assert len(found["table"]) == 2 * 3 * len(PUBLISHED_LRS)
    assert quick.the_sweep.clip == "global"
    assert quick.decode == "neighbours_wrapped"
    plain = MatchingProbe(published=True)
    assert (plain.the_sweep.steps, plain.the_sweep.evaluations, plain.the_sweep.batch) == (25_000, 10, 8)
    assert plain._size(SimpleNamespace(config=SimpleNamespace(patch_size=14, image_size=518))) == (448, 448)


def test_a_published_list_is_judged_as_a_whole_and_in_percent_of_the_side(rooms, tmp_path):
    names = [frame.image for frame in rooms.frames]
    listed = tmp_path / "pairs_calibrated.txt"
    listed.write_text(f"{names[0]} {names[1]} 1 0 0\n{names[5]} {names[4]} 1 0 0\n{names[0]} {names[9]} 1 0 0\n")
    protocol = MatchingZeroshot(pair_list=str(listed), baselines=False)
    summary = evaluate(protocol, PlaceEncoder(dim=512), rooms, tmp_path / "out")
    assert summary["pairs"] == {"test": 3}
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    judged = [(line["frame_a"], line["frame_b"]) for line in lines if line["method"] == "model"]
    assert judged == [(names[0], names[1]), (names[5], names[4]), (names[0], names[9])]
    row = rows_of(summary)["model"]
    assert row["epe_percent"] == pytest.approx(row["epe"] / WIDTH)
    listed.write_text(f"{names[0]} gone.png\n")
    with pytest.raises(UserError, match=r"1 of 1 pairs of .* lacks, first gone\.png; scan the folder"):
        evaluate(protocol, PlaceEncoder(dim=512), rooms, tmp_path / "other")


def test_changed_pairs_are_true_pairs_and_the_probe_learns_from_them(rooms, tmp_path):
    reader = DepthReader(rooms, (HEIGHT, WIDTH))
    pairs = choose_pairs(reader, 4, Choice(overlap=(0.3, 1.0), motion=0.05))
    changed, every = changed_pairs(reader, pairs, 3, seed=0)
    assert len(every) == 16
    flips = {changed.changes[pair.a].flip for pair in every[4:]}
    assert flips == {False, True}
    for pair in every[4:]:
        (a, b), problems = changed.read((HEIGHT, WIDTH), [pair.a, pair.b])
        assert problems == {}
        uv, valid = warp(changed.measured(pair.a), changed.measured(pair.b))
        cells = uv[valid].long()
        assert len(cells) > 50
        off = (a[valid].float() - b[cells[:, 1], cells[:, 0]].float()).abs().max(-1).values
        assert float(off.median()) < 12  # one place has one colour, and still has it
    few = {**SMALL, "train_pairs": 8, "baselines": False, "sweep": Sweep(lrs=(1e-3,), steps=4, evaluations=1)}
    protocol = MatchingProbe(**few, scalings=(), augment=2)
    summary = evaluate(protocol, PlaceEncoder(), rooms, tmp_path / "out")
    assert 8 < summary["pairs"]["train"] <= 24


def test_layers_give_a_curve(rooms, tmp_path):
    protocol = MatchingZeroshot(pairs=6, layers="all", baselines=False, overlap=(0.3, 1.0), motion=0.05)
    summary = evaluate(protocol, PlaceEncoder(dim=256), rooms, tmp_path / "out")
    rows = rows_of(summary)
    assert rows["model_layer_01"]["epe"] < 0.6 * rows["model_layer_00"]["epe"]
    assert summary["best"].startswith("model_layer_01")
    assert "<svg" in (tmp_path / "out" / "layers.svg").read_text()
    with pytest.raises(UserError, match="blocks 0 to 1"):
        evaluate(MatchingZeroshot(layers=7), PlaceEncoder(), rooms, tmp_path / "other")


def test_training_scenes_of_their_own_and_unreadable_images(rooms, tmp_path):
    test = write_scenes(tmp_path / "test", scenes=range(20, 21))
    (tmp_path / "test" / test[1].image).write_bytes(b"no picture")
    summary = evaluate(
        MatchingProbe(**{**SMALL, "baselines": False}, train=rooms), PlaceEncoder(), test, tmp_path / "out"
    )
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert list(summary["skipped"]) == [test[1].image]
    assert {line["scene"] for line in lines} == {"s20"}
    assert 0 < summary["pairs"]["test"] <= 6
    assert "one scene" in (tmp_path / "out" / "summary.md").read_text()
    assert not any(test[1].image in (line["frame_a"], line["frame_b"]) for line in lines)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 50}, "multiples of the patch, 8"),
        ({"motion": 5.0}, "lower motion"),
        ({"overlap": (0.99, 1.0)}, "widen"),
    ],
)
def test_mistakes(rooms, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        evaluate(MatchingProbe(**{**SMALL, **options}), PlaceEncoder(), rooms, tmp_path / "out")


def test_a_model_without_encoder_and_a_single_training_scene_are_refused(rooms, tmp_path):
    with pytest.raises(UserError, match="cannot encode images"):
        evaluate(PROBE, lambda images: {}, rooms, tmp_path / "a")
    single = Manifest([f for f in rooms.frames if f.scene == "s0"], rooms.root)
    with pytest.raises(UserError, match="--train has 1 scene"):
        evaluate(MatchingProbe(**SMALL, train=single), PlaceEncoder(), rooms, tmp_path / "b")


@pytest.mark.parametrize("kind", ["channels", "whitened"])
def test_scaled_tokens_have_mean_zero_and_spread_one(kind):
    random = torch.randn(6, 400, 2, generator=torch.Generator().manual_seed(0))
    mixed = 3 + random @ torch.tensor([[5.0, 2.0], [0.0, 1.0]])  # channels that vary together
    values = mixed.half()
    tokens = Tokens(list(values.numpy()), [10, 11, 12, 13, 14, 15])
    assert torch.equal(tokens[[12, 10]], values[[2, 0]].float())
    everything = tokens.scaled(*tokens.scaling(kind))[list(range(10, 16))].flatten(0, 1)
    spread = torch.cov(everything.T)
    assert torch.allclose(everything.mean(0), torch.zeros(2), atol=1e-4)
    if kind == "channels":
        assert torch.allclose(spread.diag(), torch.ones(2), atol=1e-4)
        assert spread[0, 1].abs() > 0.5
    else:
        assert spread[0, 1].abs() < 0.5 * torch.cov((mixed / mixed.flatten(0, 1).std(0)).flatten(0, 1).T)[0, 1]
        assert 0.1 < spread.diag().min() <= spread.diag().max() < 1.05  # the ridge keeps weak directions weaker
    assert torch.equal(tokens[[12]], values[[2]].float())
    mean, _ = tokens.scaling(kind, most=2)
    assert torch.allclose(mean, values[[0, 3]].float().flatten(0, 1).mean(0))


def test_constant_channels_do_not_break_the_scaling():
    tokens = Tokens(list(np.ones((3, 4, 2), np.float16)), [0, 1, 2])
    for kind in ("channels", "whitened"):
        assert tokens.scaled(*tokens.scaling(kind))[[0, 1, 2]].abs().max() == 0


class FakeTokens:
    """Tokens of frames from memory."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values, self.dim = values, values.shape[-1]

    def __getitem__(self, frames):
        return self.values[frames]


def toy(pairs: int = 12, cells: int = 6, dim: int = 5) -> tuple[Examples, Shape]:
    generator = torch.Generator().manual_seed(0)
    tokens = FakeTokens(torch.randn(2 * pairs, cells, dim, generator=generator))
    target = torch.randint(-1, cells, (pairs, cells), generator=generator)
    uv = torch.rand(pairs, cells, 2, generator=generator) * 30
    pairs_of = PairSet(list(range(pairs)), list(range(pairs, 2 * pairs)), target, uv, target >= 0)
    return Examples(tokens, pairs_of), Shape((2, 3), (20, 30))


def test_the_sweep_together_equals_its_probes_one_by_one():
    examples, shape = toy()
    both = {"lrs": (1e-2, 1e-3), "decays": (1e-3, 0.5), "steps": 12, "evaluations": 2}
    common = {"shape": shape, "device": torch.device("cpu")}
    together = train_sweep(examples, examples, sweep=Sweep(**both), **common)[1]["table"]
    for lr in both["lrs"]:
        for decay in both["decays"]:
            alone = train_sweep(examples, examples, sweep=Sweep(**{**both, "lrs": (lr,), "decays": (decay,)}), **common)
            expected = [row for row in together if (row["lr"], row["decay"]) == (lr, decay)]
            for mine, theirs in zip(alone[1]["table"], expected, strict=True):
                assert mine == pytest.approx(theirs, rel=1e-5)
    assert len({row["epe"] for row in together[-4:]}) == 4


def test_training_goes_as_a_plain_loop_with_adamw_would():
    """The twin: one nn.Linear, torch's cross-entropy over the cells that have a target, one learning-rate drop."""
    examples, shape = toy()
    sweep = Sweep(lrs=(3e-3,), decays=(0.1,), steps=10, batch=4, clip="none", evaluations=1)
    probe, _ = train_sweep(examples, examples, sweep=sweep, shape=shape, device=torch.device("cpu"))
    start = Probes(1, 5, 5, 0)
    twin = torch.nn.Linear(5, 5)
    with torch.no_grad():
        twin.weight.copy_(start.weights[0])
        twin.bias.copy_(start.biases[0])
    lr = 3e-3 * 4 / 8
    optimiser = torch.optim.AdamW(
        [{"params": [twin.weight], "weight_decay": 0.1}, {"params": [twin.bias], "weight_decay": 0.0}], lr=lr
    )
    tokens, pairs = examples
    for step, chosen in enumerate(batches(12, 4, 10, 0), start=1):
        for group in optimiser.param_groups:
            group["lr"] = lr / 10 if step == 10 else lr
        logits = []
        for i in chosen:
            a, b = (torch.nn.functional.normalize(twin(tokens[side[i]]), dim=-1) for side in (pairs.a, pairs.b))
            logits.append(a @ b.T / 0.1)
        loss = torch.nn.functional.cross_entropy(torch.cat(logits), pairs.target[chosen].flatten(), ignore_index=-1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.allclose(probe.weights[0], twin.weight, atol=1e-5)
    assert torch.allclose(probe.biases[0], twin.bias, atol=1e-5)
    assert not torch.allclose(twin.weight, start.weights[0], atol=1e-3)


def test_global_clipping_couples_the_probes_as_published():
    examples, shape = toy()
    common = {"shape": shape, "device": torch.device("cpu")}
    sweeps = {how: Sweep(lrs=(1e-2, 1e-3), decays=(0.01,), steps=12, clip=how) for how in ("each", "global")}
    tables = {how: train_sweep(examples, examples, sweep=sweep, **common)[1] for how, sweep in sweeps.items()}
    assert tables["each"]["table"] != tables["global"]["table"]


def test_losses_and_errors_leave_out_what_is_unknown():
    examples, shape = toy()
    probes = Probes(2, 5, 5, 0)
    scores = probes.log_probabilities(*(examples.tokens[side] for side in examples.pairs[:2]), 0.1)
    loss = matching_loss(scores, examples.pairs.target)
    known = examples.pairs.target >= 0
    naive = [-scores[0, n, p, examples.pairs.target[n, p]] for n, p in known.nonzero().tolist()]
    assert float(loss[0].detach()) == pytest.approx(float(torch.stack(naive).mean().detach()), rel=1e-5)
    examples.pairs.uv[~known] = torch.nan
    errors = mean_errors(probes, examples, shape=shape, sweep=Sweep(batch=5), device=torch.device("cpu"))
    assert torch.isfinite(errors).all()
    assert torch.equal(
        errors[:1],
        mean_errors(one_of(probes, 0), examples, shape=shape, sweep=Sweep(batch=12), device=torch.device("cpu")),
    )
