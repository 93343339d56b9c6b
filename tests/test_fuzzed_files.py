"""Every kind of file that is read, damaged at random: an answer or one line, never a traceback, a hang or gigabytes.

`pytest -m slow tests/test_fuzzed_files.py` tries ten times as many. A failure names the seed: `damaged(KIND, SEED)`
writes that very file again.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import resource
import shutil
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from files_of_every_kind import KINDS, Kind, quiet

SECONDS, GIGABYTE = 20, 1 << 20  # of one file; kilobytes
TIMES, MORE = 30, 300
VALUES = (None, True, -1, 0, 0.5, 10**30, 1e308, np.nan, np.inf, "", "x", "../../etc/passwd", "a\0b", [], {}, [[]])
WORDS = ("nan", "inf", "-1", "0", "", "x", "1e999", "99999999999999999999", "../..", "\x1b[2J", "ü")


def hurt_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits turned over, bytes overwritten, a piece cut out, doubled or filled, the end cut off."""
    body = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if not body:
            break
        at = rng.randrange(len(body)) if rng.random() < 0.5 else rng.randrange(min(len(body), 64))
        span = rng.randint(1, 16)
        match rng.randrange(6):
            case 0:
                body[at] ^= 1 << rng.randrange(8)
            case 1:
                body[at : at + span] = bytes(rng.randrange(256) for _ in range(span))
            case 2:
                body[at : at + span] = rng.choice((b"\xff", b"\0")) * span
            case 3:
                del body[at : at + span * rng.choice((1, 8))]
            case 4:
                body[at:at] = body[at : at + span * rng.choice((1, 8))]
            case _:
                del body[at if rng.random() < 0.3 else len(body) - span :]
    return bytes(body)


def hurt_json(value: Any, rng: random.Random) -> Any:
    """One value somewhere inside replaced, left out, or doubled."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        key = rng.choice(sorted(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        if rng.random() < 0.1:
            del copy[key]
        elif isinstance(copy, list) and rng.random() < 0.1:
            copy.insert(key, copy[key])
        else:
            copy[key] = hurt_json(copy[key], rng)
        return copy
    return rng.choice(VALUES)


def hurt_text(text: str, rng: random.Random) -> str:
    """Some words replaced, left out or doubled."""
    words = re.split(r"(\s+)", text)
    for _ in range(rng.choice((1, 1, 4))):
        at = rng.randrange(len(words))
        words[at] = rng.choice((*WORDS, words[at] * 2, f"{words[at]} {words[at]}"))
    return "".join(words)


def damage(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.8:
        data = json.dumps(hurt_json(json.loads(data), rng)).encode()
    elif path.suffix == ".jgz" and rng.random() < 0.8:
        data = gzip.compress(json.dumps(hurt_json(json.loads(gzip.decompress(data)), rng)).encode())
    elif path.suffix == ".txt" and rng.random() < 0.8:
        data = hurt_text(data.decode(), rng).encode()
    else:
        data = hurt_bytes(data, rng)
    path.write_bytes(data)


def damaged(kind: Kind, valid: Path, folder: Path, seed: str) -> Path:
    """A copy of the valid files with one of them damaged as the seed says."""
    shutil.copytree(valid, folder)
    rng = random.Random(seed)
    damage(rng.choice(sorted(folder.glob(kind.damaged))), rng)
    return folder


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_many(name: str, tmp_path: Path, times: int) -> None:
    kind, valid = KINDS[name], tmp_path / "valid"
    valid.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind.write(valid)
    shutil.copytree(valid, tmp_path / "as it is")
    kind.read(tmp_path / "as it is")
    peak, wrong = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for seed in range(times):
        folder = damaged(kind, valid, tmp_path / "damaged", f"{name} {seed}")
        try:
            with warnings.catch_warnings(), quiet(), in_time():
                warnings.simplefilter("ignore")
                kind.read(folder)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            wrong.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
        shutil.rmtree(folder)
    assert not wrong, "\n".join(wrong)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < GIGABYTE


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_end_in_one_line(name, tmp_path):
    try_many(name, tmp_path, TIMES)


@pytest.mark.parametrize(
    "name", [name for name, kind in KINDS.items() if kind.damaged.endswith((".json", ".*", "*/*"))]
)
def test_json_that_is_nested_without_end(name, tmp_path):
    kind = KINDS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind.write(tmp_path)
        for path in [path for path in tmp_path.glob(kind.damaged) if path.suffix in (".json", ".jsonl")]:
            path.write_text("[" * 100_000)
            with quiet(), in_time():
                kind.read(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_damaged_files_end_in_one_line(name, tmp_path):
    try_many(name, tmp_path, MORE)
