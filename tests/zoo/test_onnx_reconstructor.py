"""The ONNX file of the Distill3R student: one file for any number of scenes and views."""

from __future__ import annotations

import pytest
import torch

from manyview import zoo
from manyview.zoo.onnx import export_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("onnxscript", reason="needs the extra `onnx`")


@pytest.mark.slow  # the exporter traces 400 operations with two free sizes: half a minute of one core
def test_any_number_of_scenes_and_views(tmp_path):
    network = zoo.build("distill3r", size="debug", seed=0, depth=1, decoder_depth=1, taps=(0, 0, 1, 1)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    done = export_onnx(network, tmp_path / "student.onnx", size=(28, 42))
    assert max(done.relative_difference.values()) < 1e-3
    assert done.kind == "reconstructor"
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    for scenes, views in ((1, 1), (3, 5)):  # 5 views were in no check of the export
        images = torch.rand(scenes, views, 3, 28, 42, generator=generator)
        given = dict(zip(done.outputs, session.run(None, {"images": images.numpy()}), strict=True))
        with torch.inference_mode():
            wanted = network(images)
        for name, values in wanted.items():
            scale = float(values.abs().max())
            torch.testing.assert_close(torch.from_numpy(given[name]), values, atol=1e-4 * scale, rtol=1e-4)
