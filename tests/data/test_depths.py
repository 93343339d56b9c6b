"""Depth files of foreign layouts: every encoding gives metres along the axis, damaged files say why."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from manyview.data.depths import ENCODINGS, planar_from_distance, read_depth
from manyview.errors import UserError
from manyview.images.reading import ImageProblem
from official_layouts import map16

VALUES = np.random.default_rng(0).uniform(1, 9, (6, 8)).astype(np.float32)


def test_plain_files_are_read_as_ever(tmp_path):
    assert np.allclose(read_depth(map16(tmp_path / "a.png", 250), 0.01), 2.5)


def test_pfm_of_either_byte_order_and_bottom_up(tmp_path):
    for order, kind in (("-1.0", "<f4"), ("1.0", ">f4")):
        content = f"Pf\n8 6\n{order}\n".encode() + VALUES[::-1].astype(kind).tobytes()
        (tmp_path / "a.pfm").write_bytes(content)
        assert np.array_equal(read_depth(tmp_path / "a.pfm", 2.0), VALUES * 2)
    (tmp_path / "b.pfm").write_bytes(b"PF\n8 6\n-1\n")
    with pytest.raises(ImageProblem, match="not Pf"):
        read_depth(tmp_path / "b.pfm", 1)
    (tmp_path / "c.pfm").write_bytes(content[:-4])
    with pytest.raises(ImageProblem, match="cannot be read as a depth map"):
        read_depth(tmp_path / "c.pfm", 1)


def test_half_floats_in_a_png(tmp_path):
    half = VALUES.astype(np.float16)
    half[0, 0], half[0, 1] = np.inf, np.nan
    path = tmp_path / "frame.jpg.geometric.png"
    Image.fromarray(half.view(np.uint16)).save(path)
    depth = read_depth(path, 1.0)
    assert depth[0, :2].tolist() == [0, 0]
    assert np.array_equal(depth[1:], half[1:].astype(np.float32))


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py", reason="MegaDepth's depth is in HDF5 files")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["depth"] = np.where(VALUES > 8, -1, VALUES)
    assert np.array_equal(read_depth(tmp_path / "a.h5", 1.0), np.where(VALUES > 8, 0, VALUES))
    (tmp_path / "b.h5").write_bytes(b"\x89HDF")
    with pytest.raises(ImageProblem, match="cannot be read"):
        read_depth(tmp_path / "b.h5", 1.0)


def test_hdf5_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_bytes(b"\x89HDF")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UserError, match=r"manyview\[datasets\]"):
        read_depth(tmp_path / "a.h5", 1.0)


def test_openexr(tmp_path):
    exr = pytest.importorskip("OpenEXR", reason="MVS-Synth's depth is in OpenEXR files")
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    values = np.where(VALUES > 8, np.inf, VALUES).astype(np.float32)
    with exr.File(header, {"Y": values}) as file:
        file.write(str(tmp_path / "a.exr"))
    assert np.array_equal(read_depth(tmp_path / "a.exr", 1.0), np.where(VALUES > 8, 0, VALUES))


def test_missing_files_and_flat_walls(tmp_path):
    for ending in ENCODINGS:
        with pytest.raises(ImageProblem, match="no such file"):
            read_depth(tmp_path / f"a{ending}", 1.0)
    x, y = np.meshgrid(np.arange(8) + 0.5 - 4, np.arange(6) + 0.5 - 3)
    distance = 3 * np.sqrt(1 + (x / 5) ** 2 + (y / 5) ** 2)
    assert np.allclose(planar_from_distance(distance, 5.0), 3)
