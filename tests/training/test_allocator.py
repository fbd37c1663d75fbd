"""Memory that a step frees serves the next one, without the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llm_trainer.common import allocator

SCRIPT = """
import resource
import psutil
import torch
from llm_trainer.common.allocator import return_freed_memory, reuse_freed_memory

torch.set_num_threads(1)

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(10 << 20)  # 40 MB: more than glibc ever keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(5)
plain = faults(5)
assert reuse_freed_memory()
faults(20)  # until the free pieces of the heap have joined
reused = faults(5)
held = psutil.Process().memory_info().rss
assert return_freed_memory()
print(plain, reused, held - psutil.Process().memory_info().rss)
"""

needs_glibc = pytest.mark.skipif(not allocator.can_reuse_freed_memory(), reason="the allocator is not glibc's")


@needs_glibc
def test_freed_memory_is_found_again_instead_of_mapped_again() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    plain, reused, given_back = map(int, done.stdout.split())
    # Five times 40 MB; with huge pages it is far fewer than one fault for each 4 KiB, but not as few as none.
    assert plain > 50
    assert reused < plain / 10
    assert given_back > 30e6


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.sys, "platform", platform)
    allocator._glibc.cache_clear()
    try:
        assert not allocator.can_reuse_freed_memory()
        assert not allocator.reuse_freed_memory()
        assert not allocator.return_freed_memory()
    finally:
        monkeypatch.undo()
        allocator._glibc.cache_clear()


def test_linux_without_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    allocator._glibc.cache_clear()
    try:
        assert not allocator.reuse_freed_memory()
        with allocator.freed_memory_reused(True):
            pass
    finally:
        monkeypatch.undo()
        allocator._glibc.cache_clear()
