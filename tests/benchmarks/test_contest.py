"""The comparison of speeds: the same function in every contestant, losses that must agree, and honest processes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common
import contest
import psutil
import pytest
import torch
import train_throughput
from contestants import Contestant, Shape, run
from peers import build_peer

from llm_trainer.config import ModelConfig
from llm_trainer.models import TransformerLM
from llm_trainer.models.transformer import next_token_loss
from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.stand_in import write_checkouts

SMALL = {"vocab_size": 60, "d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 8}
GPT2 = {**SMALL, **train_throughput.GPT2}
SHAPES = {
    "nanogpt": Shape("small", {**GPT2, "bias": False}, 4, stock_micro_batch=2, our_micro_batch=4),
    "llama2c": Shape("small", {**SMALL, "d_ff": 32}, 4, stock_micro_batch=2, our_micro_batch=4),
}
IN_FP32 = {"precision": "fp32", "num_threads": 1}


def perturbed(config: ModelConfig) -> TransformerLM:
    """A model whose norms and biases are not ones and zeros, so that a forgotten one shows."""
    torch.manual_seed(3)
    model = TransformerLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(
    ("engine", "model"),
    [
        ("nanogpt", GPT2),
        ("nanogpt", {**GPT2, "bias": False}),
        ("llama2c", {**SMALL, "d_ff": 32}),
        ("hf", GPT2),
        ("hf", {**GPT2, "bias": False}),
        ("hf", {**SMALL, "d_ff": 32}),
    ],
)
def test_a_peer_computes_our_function(engine: str, model: dict[str, Any], tmp_path: Path) -> None:
    if engine == "hf":
        pytest.importorskip("transformers")
    ours = perturbed(ModelConfig.from_dict(model))
    checkout = write_checkouts(tmp_path).get(engine)
    peer = build_peer(engine, ours, None if checkout is None else Path(checkout)).eval()
    ids = torch.randint(60, (3, 8))
    expected = next_token_loss(ours.eval()(ids).logits, ids)
    torch.testing.assert_close(peer(ids), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["nanogpt", "llama2c"])
def test_everyone_makes_the_same_steps(engine: str, tmp_path: Path) -> None:
    shape, folders = SHAPES[engine], write_checkouts(tmp_path)
    TransformerLM(shape.config).save_pretrained(tmp_path / "weights")
    spec = {"shape": asdict(shape), "weights": str(tmp_path / "weights"), "folders": folders}
    spec |= {"seconds": 0.0, "threads": 1, "device": "cpu"}
    ours = run({**spec, "contestant": asdict(Contestant("ours", "ours", training=IN_FP32))})
    theirs = run({**spec, "contestant": asdict(Contestant("theirs", engine))})
    fused = run({**spec, "contestant": asdict(Contestant("fused", engine, fused=True, our_micro_batch=True))})
    assert (ours["micro_batch"], theirs["micro_batch"], fused["micro_batch"]) == (4, 2, 4)
    assert len(ours["losses"]) == shape.warmup + shape.steps
    # Two passes of two sequences are one of four.
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-4)
    assert ours["losses"] == pytest.approx(fused["losses"], rel=1e-4)
    assert ours["chosen"]["precision"] == "fp32"
    for result in (ours, theirs, fused):
        tokens = result["steps"] * 4 * 8
        assert result["tokens_per_second"] == pytest.approx(tokens / (result["seconds_per_step"] * result["steps"]))


def a_contest(contestants: list[Contestant], losses: dict[str, list[float]], speeds: dict[str, list[float]]) -> Any:
    held = contest.Contest(SHAPES["nanogpt"], contestants, {}, 0.0, 1)
    measured = {"seconds_per_step": 1.0, "cpu_seconds_per_step": 2.0, "start_seconds": 0.5, "peak_memory": 2**20}
    measured |= {"micro_batch": 2, "chosen": {"precision": "fp32"}}
    for name, rounds in speeds.items():
        held.runs[name] = [{**measured, "tokens_per_second": speed, "losses": losses[name]} for speed in rounds]
    held.peaks.append({"fp32": 1e9, "bf16": 2e9})
    return held


OURS, NANOGPT = Contestant("ours", "ours"), Contestant("nanogpt", "nanogpt")
FASTER = Contestant("nanogpt-bf16-compile", "nanogpt", bf16=True, compile=True)
TUNED = Contestant(contest.TUNED, contest.TUNED)
RIGHT = [4.1, 4.0, 3.9]


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([4.1, 4.0, 3.8], "leave those of nanogpt by 2.56%"),
        ([5.1, 4.0, 3.9], "first loss is 5.100 instead of about ln"),
        ([4.1, 4.0, 4.1], "does not fall"),
    ],
)
def test_a_contestant_that_computes_something_else_is_found_out(
    losses: list[float], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a_contest([OURS, NANOGPT], {"ours": RIGHT, "nanogpt": RIGHT}, {"ours": [1.0], "nanogpt": [1.0]}).check()
    wrong = a_contest([OURS, NANOGPT], {"ours": losses, "nanogpt": RIGHT}, {"ours": [1.0], "nanogpt": [1.0]})
    with pytest.raises(SystemExit, match=says):
        wrong.check()


def test_bfloat16_may_differ_more() -> None:
    losses = {"ours": RIGHT, "nanogpt": RIGHT, FASTER.name: [4.1, 4.0, 3.85]}
    a_contest([OURS, NANOGPT, FASTER], losses, {name: [1.0] for name in losses}).check()
    losses["ours"] = losses[FASTER.name]
    with pytest.raises(SystemExit, match="more than 1%"):
        a_contest([OURS, NANOGPT], losses, {"ours": [1.0], "nanogpt": [1.0]}).check()


def test_tuned_is_the_fastest_stock_peer_with_our_settings() -> None:
    speeds = {"ours": [9.0], "nanogpt": [2.0], FASTER.name: [3.0]}
    held = a_contest([OURS, NANOGPT, FASTER, TUNED], dict.fromkeys(speeds, RIGHT), speeds)
    tuned = held.resolve(TUNED)
    assert (tuned.name, tuned.engine, tuned.bf16, tuned.compile) == ("tuned", "nanogpt", True, True)
    assert tuned.fused and tuned.malloc and tuned.our_micro_batch
    assert tuned.micro_batch(SHAPES["nanogpt"]) == 4


def test_ratios_are_of_the_same_round(capsys: pytest.CaptureFixture[str]) -> None:
    speeds = {"ours": [10.0, 30.0, 20.0], "nanogpt": [5.0, 10.0, 20.0]}
    report = a_contest([OURS, NANOGPT], dict.fromkeys(speeds, RIGHT), speeds).report()
    assert report["ours_over"]["nanogpt"] == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [2.0, 3.0, 1.0]}
    row = report["contestants"]["ours"]
    assert row["tokens_per_second"] == {"median": 20.0, "min": 10.0, "max": 30.0}
    with torch.device("meta"):
        flops = TransformerLM(SHAPES["nanogpt"].config).flops_per_token(8)
    assert row["share_of_bf16_peak"] == pytest.approx(20.0 * flops / 2e9, abs=1e-4)
    contest.print_report(report)
    printed = capsys.readouterr().out
    assert "2.00 x" in printed and "2 in bfloat16" in printed


def test_only_who_asks_gets_malloc_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    plain = contest.environment_of(NANOGPT, 2, tmp_path)
    assert not {"GLIBC_TUNABLES", "MALLOC_ARENA_MAX"} & set(plain)
    assert plain["OMP_NUM_THREADS"] == "2"
    with_malloc = contest.environment_of(Contestant("x", "nanogpt", malloc=True), 2, tmp_path)
    assert with_malloc == {**plain, **common.MALLOC_TUNING}


def test_peers_that_are_not_there_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    skipped: dict[str, str] = {}
    assert contest.present([OURS, NANOGPT, TUNED], {}, skipped) == [OURS]
    assert "github.com/karpathy/nanoGPT" in skipped["nanogpt"]
    assert "skipped nanogpt: --nanogpt FOLDER" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"there is no model\.py"):
        contest.checkouts(nanogpt=tmp_path)


def test_the_peak_of_memory_is_at_least_what_there_is_now() -> None:
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    assert common.peak_memory() >= psutil.Process().memory_info().rss * 0.99


@pytest.mark.slow
def test_a_childs_peak_of_memory_is_its_own() -> None:
    held = bytearray(1 << 30)
    held[::4096] = b"x" * len(held[::4096])
    # A child is a copy of this process for a moment; that must not count as its own.
    code = f"import sys; sys.path.append({str(BENCHMARKS)!r}); import common; print(common.peak_memory())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 20 << 20 < int(child.stdout) < len(held)


def test_a_process_that_fails_says_why() -> None:
    failing = [sys.executable, "-c", "raise ValueError('the disk is full')"]
    with pytest.raises(SystemExit, match=r"(?s)nanogpt on small ended with exit code 1.*the disk is full"):
        common.run_process(failing, common.clean_environment(1), name="nanogpt on small")
    with pytest.raises(SystemExit, match="printed no result"):
        common.run_process([sys.executable, "-c", "print('hello')"], common.clean_environment(1), name="x")


def test_each_round_begins_with_another() -> None:
    assert [common.in_turns("abc", number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_the_loop_benchmark_is_skipped_without_nanogpt() -> None:
    done = run_script("plain_loop_vs_nanogpt.py")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"benchmark": "plain_loop_vs_nanogpt", "skipped": True}


@pytest.mark.slow
@pytest.mark.covers("R442")
def test_quick_throughput_runs_as_a_person_calls_it(tmp_path: Path) -> None:
    folders = write_checkouts(tmp_path)
    checkouts = ["--nanogpt", folders["nanogpt"], "--llama2c", folders["llama2c"], "--threads", "1"]
    names = ["--contestants", "ours", "nanogpt", "llama2c", "tuned"]
    done = run_script("train_throughput.py", "--quick", "--shapes", "nanogpt_cpu", "llama2c_15m", *checkouts, *names)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    first, second = summary["results"]
    assert set(first["contestants"]) == {"ours", "nanogpt", "tuned"}
    assert set(second["contestants"]) == {"ours", "llama2c", "tuned"}
    for result in summary["results"]:
        assert result["contestants"]["tuned"]["settings"]["malloc"]
        assert all(row["tokens_per_second"]["median"] > 0 for row in result["contestants"].values())
        assert all(row["micro_batch"] and row["peak_memory_mb"] > 50 for row in result["contestants"].values())
    for column in ("tokens/s", "micro", "memory MB"):
        assert column in done.stdout


@pytest.mark.slow
def test_quick_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    nanogpt = write_checkouts(tmp_path)["nanogpt"]
    done = run_script("gpu_training.py", "--quick", "--rounds", "1", "--threads", "1", "--nanogpt", nanogpt)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    gpt2, llama = summary["results"]
    assert set(gpt2["contestants"]) == {"ours", "ours-documents", "nanogpt"}
    assert set(llama["contestants"]) == {"ours", "ours-documents"}
    assert gpt2["largest_batch"]["ours"]["largest"] == 8
    assert summary["attention"]["sdpa_causal_ms"] > 0
