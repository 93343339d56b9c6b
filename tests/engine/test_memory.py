"""Free memory is the least that the machine, the limits and the control groups leave."""

from __future__ import annotations

import resource

import pytest
import torch

from manyview.engine import memory

STATUS, MEMINFO = "Name:\tx\nVmSize:\t  400 kB\n", "MemTotal: 9000 kB\nMemAvailable:   5000 kB\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 5000 kB to spare and no other limit."""
    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "self/status").write_text(STATUS)
    (tmp_path / "self/cgroup").write_text("0::/a/b\n")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return tmp_path


def group(folder, names, limit, used, stat=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(stat)


V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_the_machine_where_nothing_else_limits(machine):
    assert memory.free_memory() == 5000 * 1024
    assert memory.free_memory(torch.device("cpu")) == 5000 * 1024
    (machine / "meminfo").unlink()
    assert memory.free_memory() == memory.UNLIMITED


def test_a_limit_of_addresses_counts_what_is_mapped(machine, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1000 * 1024, 2000 * 1024))
    assert memory.free_memory() == 600 * 1024
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100 * 1024, 100 * 1024))
    assert memory.free_memory() == 0


def test_groups_of_version_2_and_those_above(machine):
    group(machine / "groups/a/b", V2, "max", 100)
    assert memory.free_memory() == 5000 * 1024
    group(machine / "groups/a", V2, 900_000, 700_000, "anon 5\ninactive_file 50000\n")
    assert memory.free_memory() == 250_000


def test_the_memory_controller_of_version_1(machine):
    (machine / "self/cgroup").write_text("5:cpu,cpuacct:/other\n4:memory:/job\n")
    group(machine / "groups/memory/job", V1, 800_000, 300_000, "total_inactive_file 1000\n")
    assert memory.free_memory() == 501_000


def test_running_out_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert memory.is_out_of_memory(caught.value)
    assert memory.is_out_of_memory(MemoryError())
    assert not memory.is_out_of_memory(RuntimeError("shapes do not match"))


class Library:
    """A C library that says what it was told."""

    def __init__(self):
        self.told = {}

    def mallopt(self, option, value):
        self.told[option] = value


def test_glibc_gives_back_what_is_freed_only_where_memory_is_scarce(machine, monkeypatch):
    library = Library()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    (machine / "meminfo").write_text("MemAvailable: 9000000 kB\n")
    memory.spare_memory()
    assert library.told == {}
    (machine / "meminfo").write_text("MemAvailable: 900000 kB\n")
    memory.spare_memory()
    assert library.told == memory.MALLOPT
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())  # a library without it
    memory.spare_memory()
