"""The environment of a run: repeatable facts, nothing private."""

from __future__ import annotations

import getpass
import json
import mmap
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from llm_trainer.monitoring import text
from llm_trainer.monitoring.system import device_memory, environment, memory_peak, memory_rss


@pytest.fixture(scope="module")
def facts() -> dict[str, object]:
    return environment()


@pytest.mark.covers("R313")
def test_memory_is_that_of_this_process() -> None:
    before = memory_rss()
    # Pages of its own: an ordinary allocation may be served from memory that an earlier test gave back.
    with mmap.mmap(-1, 64 << 20) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert memory_rss() - before > 48 << 20
    if not torch.cuda.is_available():
        assert device_memory() == 0


@pytest.mark.covers("R277")
def test_the_peak_stays_when_memory_is_given_back() -> None:
    start = memory_peak()
    assert start >= 0.9 * memory_rss()
    # More than the room between what is held now and the peak so far, or the peak need not move.
    size = start - memory_rss() + (96 << 20)
    with mmap.mmap(-1, size) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
    assert memory_peak() - start > 64 << 20
    assert memory_peak() - memory_rss() > 64 << 20


@pytest.mark.covers("R277")
def test_the_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    program = "from llm_trainer.monitoring.system import memory_peak; print(memory_peak())"
    with mmap.mmap(-1, 256 << 20) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 5 << 20 < int(result.stdout) < 200 << 20


def test_environment_is_true(facts: dict[str, object]) -> None:
    again = json.loads(json.dumps(facts))
    assert again["python"] == platform.python_version()
    assert again["torch"]["version"] == torch.__version__
    assert again["packages"]["torch"] == torch.__version__
    assert again["memory_bytes"] == psutil.virtual_memory().total
    assert 1 <= again["cpu"]["usable_cores"] <= again["cpu"]["logical_cores"]


def test_environment_names_nobody(facts: dict[str, object]) -> None:
    everything = json.dumps(facts)
    assert platform.node() not in everything.split('"')
    assert str(Path.home()) not in everything
    assert getpass.getuser() not in json.loads(everything)


def test_git_commit_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["git"] is None
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    try:
        subprocess.run(["git", "init", "-q"], check=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    (tmp_path / "file").write_text("one")
    subprocess.run(["git", "add", "file"], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", "first"], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert environment()["git"] == {"commit": head, "dirty": False}
    (tmp_path / "file").write_text("two")
    assert environment()["git"] == {"commit": head, "dirty": True}


def test_the_listing_needs_no_torch() -> None:
    program = (
        "import sys\n"
        "from llm_trainer.monitoring import deletion, metrics, progress, report, runs, status, system\n"
        "sys.exit('torch' in sys.modules or 'tensorboard' in sys.modules or 'matplotlib' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0 s"), (42.4, "42 s"), (303, "5 min 3 s"), (15_800, "4 h 23 min"), (172_800, "2 d")]
)
def test_durations(seconds: float, expected: str) -> None:
    assert text.format_duration(seconds) == expected


def test_home_is_hidden_only_as_a_whole_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    assert text.without_home("/root/texts and /rootfs and /root") == "~/texts and /rootfs and ~"
