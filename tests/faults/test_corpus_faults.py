"""A build of a corpus that is killed, shared, interrupted or out of space ends with the bytes of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from llm_trainer.corpus.pipeline.build import Build
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.engines import SerialEngine
from tests.corpus.pipeline.texts import corpus_bytes, near_copy, prose, write_jsonl

pytest.importorskip("orjson")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(8):
        texts = [prose(100 * number + seed) for seed in range(25)]
        texts[3] = near_copy(prose(0))
        write_jsonl(folder / f"{number}.jsonl", texts)
    return folder


def pipeline(texts: Path, output: Path, **settings: Any) -> Pipeline:
    values: dict[str, Any] = {
        "output_dir": str(output),
        "unit_mb": 0.01,
        "sources": [{"name": "web", "paths": [str(texts)]}],
        "filters": {"length": {}, "gopher_quality": {}, "gopher_repetition": {}},
        "dedup": {"near": {}, "substring": {}},
        "mix": {"weights": {"web": 1}, "max_epochs": 1.5, "tokens": 60_000},
    }
    return Pipeline(**{**values, **settings})


def build(made: Pipeline) -> None:
    Build(made, SerialEngine()).run()


@pytest.fixture(scope="module")
def wanted(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one uninterrupted build writes."""
    folder = tmp_path_factory.mktemp("whole")
    build(pipeline(texts, folder))
    return corpus_bytes(folder)


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked child; returns its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def test_killed_again_and_again(texts: Path, tmp_path: Path, wanted: dict[str, bytes]) -> None:
    chance = random.Random(0)
    kills = 0
    for _ in range(60):
        child = in_child(lambda: build(pipeline(texts, tmp_path)))
        time.sleep(0.05 + 0.25 * chance.random())
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
    assert kills >= 3
    build(pipeline(texts, tmp_path))
    assert corpus_bytes(tmp_path) == wanted
    assert not list(tmp_path.rglob("*.tmp")), "half-written files were left behind"


def test_several_builds_of_one_folder_share_the_work(texts: Path, tmp_path: Path, wanted: dict[str, bytes]) -> None:
    children = [in_child(lambda: build(pipeline(texts, tmp_path))) for _ in range(3)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0, 0]
    assert corpus_bytes(tmp_path) == wanted


def test_ctrl_c_ends_the_workers_and_says_so(texts: Path, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        f"sources: [{{name: web, paths: ['{texts}']}}]\noutput_dir: {tmp_path / 'corpus'}\nunit_mb: 0.001\n"
        "filters: {length: {}, gopher_quality: {}}\n",
        encoding="utf-8",
    )
    code = "import sys; from llm_trainer.cli.app import main; sys.argv[0] = 'llm-trainer'; main()"
    command = [sys.executable, "-c", code, "data", "build", str(path), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        process = psutil.Process(running.pid)
        deadline = time.monotonic() + 60
        while len(process.children(recursive=True)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = process.children(recursive=True)
        assert workers
        for one in [process, *workers]:  # the terminal sends it to all of them
            one.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted: what is finished is kept" in out and "Traceback" not in err
    assert psutil.wait_procs(workers, timeout=20)[1] == []


def test_a_full_disk_is_one_message_and_loses_nothing(
    texts: Path, tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, bytes]
) -> None:
    from llm_trainer.common.errors import UserError

    folder = tmp_path_factory.mktemp("small_disk")
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mount: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(UserError, match="the disk is full"):
            build(pipeline(texts, folder / "corpus"))
        assert not list(folder.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=40m", folder], check=True)
        build(pipeline(texts, folder / "corpus"))
        assert corpus_bytes(folder / "corpus") == wanted
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
