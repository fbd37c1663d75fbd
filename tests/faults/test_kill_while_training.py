"""A run that is killed with SIGKILL, again and again, ends with the very weights of a run that was not.

The runs have dropout, accumulation, EMA and two loader threads, and save after every second step, so that a good part
of the kills falls into a save. Children are forked from this process: no import time, and a kill can come at any
instant.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm_trainer.data import TokenCache, build_cache
from llm_trainer.training import Trainer
from llm_trainer.training.checkpoint import list_checkpoints, verify_checkpoint
from llm_trainer.training.preparation import make_loader
from tests.byte_tokenizer import ByteTokenizer
from tests.training.helpers import config, tiny_model

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
STEPS = 24


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    generator = random.Random(0)
    texts = ["".join(generator.choices("abcdefgh ", k=generator.randint(3, 60))) for _ in range(120)]
    build_cache(texts, ByteTokenizer(), folder, seq_len=16)
    return folder


def train(cache: Path, run_dir: Path, *, resume: bool) -> None:
    """One run of STEPS steps, the same however often it is interrupted."""
    settings = config(
        max_steps=STEPS,
        batch_size=2,
        gradient_accumulation_steps=2,
        use_ema=True,
        ema_decay=0.9,
        dataloader_num_workers=2,
        save_steps=2,
        learning_rate=1e-2,
        warmup_steps=3,
    )
    model = tiny_model(vocab_size=ByteTokenizer.vocab_size, dropout=0.2)
    loader = make_loader(TokenCache.open(cache), settings)
    Trainer(model, config=settings, run_dir=run_dir).fit(loader, resume=resume)


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked child; returns its process id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def final_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    last = list_checkpoints(run_dir / "checkpoints")[-1]
    verify_checkpoint(last)
    files = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
    return {f"{name}:{key}": tensor for name in files for key, tensor in load_file(last / name).items()}


def kill_until_done(cache: Path, run_dir: Path, kills: int, seed: int, longest: float) -> int:
    """Start, kill at a random instant, resume... until ``kills`` kills have landed; then let it finish."""
    generator = random.Random(seed)
    landed = 0
    while landed < kills:
        pid = in_child(lambda: train(cache, run_dir, resume=True))
        time.sleep(generator.uniform(0.0, longest))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            # It was faster than the kill: begin again, in another folder, with the kills that are left.
            return landed
        landed += 1
    _, status = os.waitpid(in_child(lambda: train(cache, run_dir, resume=True)), 0)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    return landed


def check_kills(cache: Path, tmp_path: Path, kills: int) -> None:
    started = time.perf_counter()
    _, status = os.waitpid(in_child(lambda: train(cache, tmp_path / "whole", resume=False)), 0)
    assert status == 0
    duration = time.perf_counter() - started
    expected = final_weights(tmp_path / "whole")
    landed, round_ = 0, 0
    while landed < kills:
        run_dir = tmp_path / f"killed-{round_}"
        landed += kill_until_done(cache, run_dir, min(5, kills - landed), seed=round_, longest=duration * 0.6)
        weights = final_weights(run_dir)
        assert weights.keys() == expected.keys()
        different = [name for name, tensor in weights.items() if not torch.equal(tensor, expected[name])]
        assert different == [], f"round {round_}: {different[:3]}"
        assert not list((run_dir / "checkpoints").glob(".*.tmp"))
        round_ += 1
        assert round_ < 10 * kills, "the kills never land"


@pytest.mark.covers("R295", "R298", "R299", "R235")
def test_killed_and_resumed_is_bit_identical(cache: Path, tmp_path: Path) -> None:
    check_kills(cache, tmp_path, kills=10)


@pytest.mark.slow
@pytest.mark.covers("R298", "R299")
def test_killed_thirty_times_is_bit_identical(cache: Path, tmp_path: Path) -> None:
    check_kills(cache, tmp_path, kills=30)
