"""Verify finds what was planted, and says nothing about a whole cache."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from manyview.cache import archive
from manyview.cache.build import build
from manyview.cache.store import Entry
from manyview.cache.verify import verify
from manyview.errors import UserError
from manyview.teachers.sensor import Sensor


@pytest.fixture
def cache(make_manifest, tmp_path):
    build(make_manifest({"room": 6}), Sensor(), tmp_path / "cache", views=2, size=(24, 32), maps="float16")
    return tmp_path / "cache"


def replace_archive(cache, number: int, content: bytes) -> None:
    """Put another archive in place, with a checksum that agrees."""
    (cache / "samples" / f"{number:06d}.zip").write_bytes(content)
    lines = [Entry.from_line(line) for line in (cache / "index.jsonl").read_text().splitlines()]
    digest = hashlib.sha256(content).hexdigest()
    lines[number] = replace(lines[number], bytes=len(content), sha256=digest)
    (cache / "index.jsonl").write_text("".join(line.to_line() for line in lines))


def test_a_whole_cache_has_no_problems(cache):
    assert verify(cache) == []


@pytest.mark.parametrize("position", [0, 100, 700, -1])
def test_one_flipped_bit_is_found(cache, position):
    path = cache / "samples" / "000001.zip"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))
    problems = verify(cache)
    assert [problem.file for problem in problems] == ["samples/000001.zip"]
    assert "checksum" in problems[0].reason


def test_missing_short_foreign_and_unfinished(cache):
    (cache / "samples" / "000000.zip").unlink()
    short = cache / "samples" / "000001.zip"
    short.write_bytes(short.read_bytes()[:-5])
    (cache / "samples" / "000009.zip").write_bytes(b"?")
    lines = (cache / "index.jsonl").read_bytes().splitlines(keepends=True)
    (cache / "index.jsonl").write_bytes(b"".join(lines[:2]))
    found = {problem.file: problem.reason for problem in verify(cache)}
    assert set(found) == {f"samples/{n:06d}.zip" for n in (0, 1, 2, 9)} | {"cache.json"}
    assert "no such file" in found["samples/000000.zip"]
    assert "bytes instead of" in found["samples/000001.zip"]
    assert "not in the index" in found["samples/000002.zip"]
    assert "2 of 3 samples" in found["cache.json"]


def test_content_is_judged_even_when_the_checksum_agrees(cache):
    header, fields = archive.decode_archive(cache / "samples" / "000001.zip")
    header = {name: value for name, value in header.items() if name != "fields"}

    broken = {name: values.copy() for name, values in fields.items()}
    broken["sensor/pointmap_local"][1, 3, 4, 0] = np.nan
    assert fields["sensor/valid"][1, 3, 4]
    replace_archive(cache, 1, archive.encode_archive(broken, header))
    assert [p.reason for p in verify(cache)] == ["pointmap_local has NaN or infinite values where it is valid"]

    replace_archive(cache, 1, archive.encode_archive({n: v[:, :20] for n, v in fields.items()}, header))
    assert "is 20x32, the cache 24x32" in verify(cache)[0].reason

    replace_archive(cache, 1, archive.encode_archive({n: v[:1] for n, v in fields.items()}, header))
    assert "1 views for 2 frames" in verify(cache)[0].reason

    other = json.loads(json.dumps(header).replace(header["teachers"]["sensor"]["digest"], "0"))
    replace_archive(cache, 1, archive.encode_archive(fields, other))
    assert "another teacher" in verify(cache)[0].reason

    replace_archive(cache, 1, archive.encode_archive({"sensor/valid": fields["sensor/valid"]}, header))
    assert "cannot be read" in verify(cache)[0].reason

    buffer = io.BytesIO(b"not a zip")
    replace_archive(cache, 1, buffer.getvalue())
    assert "cannot be read" in verify(cache)[0].reason


def test_no_cache_and_a_damaged_header(cache, tmp_path):
    with pytest.raises(UserError, match=r"is no teacher cache.*cache build"):
        verify(tmp_path)
    meta = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps({**meta, "version": 99}))
    with pytest.raises(UserError, match="version 99"):
        verify(cache)
    (cache / "cache.json").write_text("{}")
    with pytest.raises(UserError, match=r"cache\.json is damaged"):
        verify(cache)
