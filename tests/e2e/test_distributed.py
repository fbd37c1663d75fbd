"""One process or several, started by ``torchrun``: the same script, the same numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from llm_trainer.training.parallel import data_parallel
from tests.e2e.conftest import TINY

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.distributed
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port


def on_ranks(work: Callable[[int], None], world: int) -> list[int]:
    """Run ``work(rank)`` in forked processes that form one group; their exit codes."""
    port, children = free_port(), []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
                os.environ["MASTER_PORT"] = str(port)
                torch.set_num_threads(1)
                with data_parallel.process_group(torch.device("cpu")):
                    work(rank)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


@needs_fork
class TestCollectives:
    def test_gradients_are_summed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In several pieces, with a parameter that one rank has no gradient for and one that is frozen."""
        monkeypatch.setattr(data_parallel, "BUCKET_NUMBERS", 10)

        def work(rank: int) -> None:
            model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2))
            model[2].weight.requires_grad_(False)
            for index, parameter in enumerate(model.parameters()):
                if parameter.requires_grad and not (rank == 1 and index == 0):
                    parameter.grad = torch.full_like(parameter, 10.0 * index + rank)
            data_parallel.sum_gradients(model)
            for index, parameter in enumerate(model.parameters()):
                if not parameter.requires_grad:
                    assert parameter.grad is None
                    continue
                assert parameter.grad is not None
                expected = 20.0 * index + 1 if index else 0.0
                assert torch.equal(parameter.grad, torch.full_like(parameter, expected))

        assert on_ranks(work, 2) == [0, 0]

    def test_numbers_texts_and_weights(self) -> None:
        def work(rank: int) -> None:
            assert data_parallel.sum_over_ranks([1.0, float(rank)], torch.device("cpu")) == [3.0, 3.0]
            assert data_parallel.from_main(lambda: f"rank {rank}") == "rank 0"
            assert data_parallel.is_main() == (rank == 0)
            torch.manual_seed(rank)
            model = nn.Linear(5, 5)
            data_parallel.broadcast_model(model)
            torch.manual_seed(0)
            assert torch.equal(model.weight, nn.Linear(5, 5).weight)

        assert on_ranks(work, 3) == [0, 0, 0]

    def test_alone_nothing_is_sent(self) -> None:
        model = nn.Linear(2, 2)
        data_parallel.sum_gradients(model)
        assert model.weight.grad is None
        assert data_parallel.sum_over_ranks([2.0], torch.device("cpu")) == [2.0]
        assert data_parallel.from_main(lambda: "mine") == "mine"


def launch(corpus: Path, run_dir: Path, ranks: int, *words: str) -> subprocess.Popen[str]:
    """scripts/train.py, alone or under torchrun."""
    script = [
        str(REPOSITORY / "scripts" / "train.py"),
        "--config",
        str(REPOSITORY / "configs" / "cpu_small_model.yaml"),
    ]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(free_port())]
    settings = [f"data.dataset_name={corpus}", *TINY, "model.dropout=0", *words]
    command = [sys.executable, *(torchrun if ranks > 1 else []), *script, "--output_dir", str(run_dir), *settings]
    return subprocess.Popen(
        command,
        cwd=run_dir.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return out


def losses(run_dir: Path, key: str) -> list[float]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record[key] for record in records if key in record]


@pytest.mark.slow
@pytest.mark.covers("R009")
def test_two_ranks_train_as_one_does(corpus: Path, workplace: Path) -> None:
    """Four sequences a step: as one batch, as two ranks of two, and as two ranks of one, twice."""
    shapes = {
        "one": (1, "training.batch_size=4", "training.gradient_accumulation_steps=1"),
        "two": (2, "training.batch_size=2", "training.gradient_accumulation_steps=1"),
        "four": (2, "training.batch_size=1", "training.gradient_accumulation_steps=2"),
    }
    for name, (ranks, *words) in shapes.items():
        (workplace / name).mkdir()
        out = finish(launch(corpus, workplace / name / "run", ranks, *words))
        assert out.count("finished at step 6") == 1
    for name in ("two", "four"):
        for key in ("train/loss", "train/grad_norm", "train/tokens", "validation/loss", "validation/bits_per_byte"):
            expected = losses(workplace / "one" / "run", key)
            assert losses(workplace / name / "run", key) == pytest.approx(expected, rel=1e-5), (name, key)


@pytest.mark.slow
def test_a_run_of_one_process_is_continued_by_two(corpus: Path, workplace: Path) -> None:
    whole, copy = workplace / "whole", workplace / "copy"
    finish(launch(corpus, whole, 1, "training.batch_size=4", "training.gradient_accumulation_steps=1"))
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "checkpoints" / "step-000006")
    out = finish(launch(corpus, copy, 2, "training.batch_size=2", "training.gradient_accumulation_steps=1", "--resume"))
    assert "resumed step-000003" in out
    assert losses(copy, "validation/loss") == pytest.approx(losses(whole, "validation/loss"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.covers("R293")
def test_a_rank_that_dies_ends_the_job(corpus: Path, workplace: Path) -> None:
    words = ["training.max_steps=100000", "training.save_steps=50", "training.eval_steps=100000"]
    process = launch(corpus, workplace / "run", 2, *words, "training.gradient_accumulation_steps=1")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((workplace / "run").glob("checkpoints/step-*")):
        time.sleep(0.2)
    children = [
        child.pid for child in psutil.Process(process.pid).children() if "train.py" in " ".join(child.cmdline())
    ]
    assert len(children) == 2
    os.kill(children[1], signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Signal 9" in out or "SIGKILL" in out
