"""ONNX files of encoders: the numbers of PyTorch at every batch size, and no file where they are not."""

from __future__ import annotations

import json

import pytest
import torch

from manyview import zoo
from manyview.cli import main as program
from manyview.errors import UserError
from manyview.zoo import onnx as module
from manyview.zoo.onnx import EncoderGraph, ReconstructorGraph, export_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("onnxscript", reason="needs the extra `onnx`")


def lively(name, **overrides):
    """A small network whose position tables, scales and biases all matter."""
    network = zoo.build(name, size="debug", seed=0, **overrides)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    return network.eval()


def test_an_encoder_of_a_folder_with_free_batch(tmp_path, capsys, monkeypatch):
    network = lively("dinov2-vits14-reg4", depth=1)
    folder = zoo.save_model(network, tmp_path / "model", {"licence": "Apache-2.0"})
    path = tmp_path / "made" / "encoder.onnx"
    monkeypatch.setitem(program.COMMANDS, "onnx", "")
    # A grid that is not the table's: its resampling must have become a constant, digit for digit.
    assert program.main(["onnx", str(folder), "-o", str(path), "--size", "28x84", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["outputs"] == ["patches", "cls"]
    assert max(report["relative_difference"].values()) < 1e-4
    assert report["input"] == "N x 3 x 28 x 84"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.rand(5, 3, 28, 84)
    patches, cls = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        wanted = network.encode(images)
    torch.testing.assert_close(torch.from_numpy(patches), wanted.patches, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(cls), wanted.cls, atol=1e-4, rtol=1e-4)
    said = session.get_modelmeta().custom_metadata_map
    assert (said["model"], said["licence"], said["grid"]) == ("model", "Apache-2.0", "2x6")
    assert "[0, 1]" in said["input"]
    assert sorted(p.name for p in path.parent.iterdir()) == [".manyview.json", "encoder.onnx"]


def test_a_file_that_differs_is_removed_and_an_older_one_kept(tmp_path, monkeypatch):
    path = tmp_path / "e.onnx"
    path.write_bytes(b"older")
    real = module._write

    def wrong(graph, *rest):
        real(graph, *rest)
        graph.network.norm.bias.data += 0.05  # what PyTorch says afterwards is another model's

    monkeypatch.setattr(module, "_write", wrong)
    with pytest.raises(UserError, match=r"differs from PyTorch by 0\.0\d+"):
        export_onnx(lively("croco-v2-vitl16", depth=1).encoder, path, size=(32, 48), batch=1)
    assert path.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["e.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"size": (30, 42)}, "multiples of 14"), ({"views": 2}, "batch, not views"), ({"batch": 0}, "at least 1")],
)
def test_wrong_wishes_fail_before_the_export(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        export_onnx(lively("dinov2-vits14"), tmp_path / "e.onnx", **{"size": (28, 42), **arguments})
    assert not list(tmp_path.iterdir())


def test_models_without_an_encoder_and_missing_packages_are_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot encode images"):
        export_onnx(torch.nn.Conv2d(3, 3, 1), tmp_path / "e.onnx")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'manyview\[onnx\]'"):
        export_onnx(lively("dinov2-vits14"), tmp_path / "e.onnx")


@pytest.mark.parametrize("training", [False, True])
def test_the_graph_of_a_reconstructor_is_its_forward_pass(training):
    network = lively("distill3r")
    images = torch.rand(2, 3, 3, 28, 56)
    with torch.inference_mode():
        wanted = network.train(training)(images)
        graph = ReconstructorGraph(network)
        given = dict(zip(graph.outputs, graph(images), strict=True))
    assert sorted(given) == sorted(wanted)
    for name, values in wanted.items():
        torch.testing.assert_close(given[name], values, atol=1e-5, rtol=1e-5)


def test_the_graph_of_an_encoder_leaves_absent_tokens_away():
    images = torch.rand(2, 3, 32, 32)
    graph = EncoderGraph(lively("croco-v2-vitl16"))
    assert graph.outputs == ("patches",)
    assert graph(images)[0].shape == (2, 4, 8)
