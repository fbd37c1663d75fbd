"""Rounds of contestants: fresh processes in turns, losses held against each other, ratios of each round."""

from __future__ import annotations

import importlib.util
import math
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from common import (
    MALLOC_TUNING,
    clean_environment,
    fail,
    in_turns,
    machine,
    matmul_peaks,
    print_table,
    run_python,
    summarise,
)
from contestants import Contestant, Shape
from peers import CHECKOUTS

from llm_trainer.models import TransformerLM

TUNED = "tuned"
COMPARED_STEPS = 100
FP32_TOLERANCE = 0.01
"""The same mathematics in another order of additions: after some hundred steps of AdamW losses differ a little."""
BF16_TOLERANCE = 0.02
"""bfloat16 keeps 8 bits of each number; what it does to the loss of the first hundred steps is well below this."""
LEAST_FALL = 0.01
Result = dict[str, Any]


@dataclass
class Contest:
    """One shape, everyone who trains it, and how.

    Args:
        shape: the model and the batch.
        contestants: ``ours`` among them. One whose engine is :data:`TUNED` becomes the fastest stock peer of the first
            round with every setting of ours that it can take.
        folders: checkouts of nanoGPT and llama2.c by name.
        seconds: how long each run is measured.
        threads: of each run.
        device: ``cpu`` or ``cuda``.
        same_weights: whether all start from weights in a file; without, ours draws its own on the device.
    """

    shape: Shape
    contestants: Sequence[Contestant]
    folders: dict[str, str]
    seconds: float
    threads: int
    device: str = "cpu"
    same_weights: bool = True
    runs: dict[str, list[Result]] = field(default_factory=dict)
    peaks: list[dict[str, float]] = field(default_factory=list)

    def prepare(self, folder: Path) -> None:
        """Draw the weights and make room for compiled code, which later rounds find again."""
        self._folder = folder
        self._weights = folder / self.shape.name if self.same_weights else None
        if self._weights is not None:
            torch.manual_seed(1)
            TransformerLM(self.shape.config).save_pretrained(self._weights)

    def round(self, number: int) -> None:
        """Run everyone once."""
        self.peaks.append(matmul_peaks(self.device, self.threads))
        order = in_turns(self.contestants, number)
        if number == 0:  # who is the strongest peer is known after the others
            order.sort(key=lambda contestant: contestant.engine == TUNED)
        for contestant in order:
            self.runs.setdefault(contestant.name, []).append(self._run(self.resolve(contestant)))
        self.peaks.append(matmul_peaks(self.device, self.threads))
        self.check()

    def resolve(self, contestant: Contestant) -> Contestant:
        """The contestant, or who that is."""
        if contestant.engine != TUNED:
            return contestant
        stock = [each for each in self.contestants if each.engine not in ("ours", TUNED) and not each.malloc]
        best = max(stock, key=lambda each: float(self.runs[each.name][0]["tokens_per_second"]))
        return replace(best, name=contestant.name, fused=True, malloc=True, our_micro_batch=True)

    def _run(self, contestant: Contestant) -> Result:
        spec = {
            "shape": asdict(self.shape),
            "contestant": asdict(contestant),
            "weights": None if self._weights is None else str(self._weights),
            "folders": self.folders,
            "seconds": self.seconds,
            "threads": self.threads,
            "device": self.device,
        }
        environment = environment_of(contestant, self.threads, self._folder)
        name = f"{contestant.name} on {self.shape.name}"
        return run_python(Path(__file__).with_name("contestants.py"), spec, environment, name=name)

    # ------------------------------------------------------------------ losses

    def check(self) -> None:
        """Everyone starts where ln(vocabulary) says, learns, and has the same losses as the first float32 peer."""
        reference = self._reference()
        expected = math.log(self.shape.config.vocab_size)
        for contestant in self.contestants:
            losses = self.runs[contestant.name][-1]["losses"]
            problem = start_and_fall(losses, expected)
            if problem is None and reference is not None and self._same_function(contestant):
                tolerance = FP32_TOLERANCE if self._in_fp32(contestant) else BF16_TOLERANCE
                gap = largest_gap(losses, self.runs[reference.name][-1]["losses"])
                if gap > tolerance:
                    problem = f"its losses leave those of {reference.name} by {gap:.2%}, more than {tolerance:.0%}"
            if problem is not None:
                fail(f"{contestant.name} on {self.shape.name}: {problem}. Its speed means nothing")

    def _reference(self) -> Contestant | None:
        for contestant in self.contestants:
            stock = contestant.engine not in ("ours", TUNED) and self._same_function(contestant)
            if stock and not contestant.bf16:
                return contestant
        return next((each for each in self.contestants if each.engine == "ours"), None)

    def _same_function(self, contestant: Contestant) -> bool:
        """Whether it has exactly our parameters: transformers' GPT-2 always has biases, and documents mask."""
        engine = self.resolve(contestant).engine
        config = self.shape.config
        extra = engine in ("hf", "hf-trainer") and config.position == "learned" and not config.bias
        return not extra and contestant.documents == 1

    def _in_fp32(self, contestant: Contestant) -> bool:
        chosen = self.runs[contestant.name][-1].get("chosen", {})
        return not self.resolve(contestant).bf16 and chosen.get("precision", "fp32") == "fp32"

    # ------------------------------------------------------------------ results

    def report(self) -> Result:
        """Everything that was measured on this shape."""
        with torch.device("meta"):
            model = TransformerLM(self.shape.config)
        flops = model.flops_per_token(self.shape.config.max_seq_len)
        # The best moment of all: other programs can make a peak lower than it is, but not higher.
        peaks = {kind: max(peak[kind] for peak in self.peaks) for kind in ("fp32", "bf16")}
        ours = next((each.name for each in self.contestants if each.engine == "ours"), None)
        rows = {}
        for contestant in self.contestants:
            runs = self.runs[contestant.name]
            speeds = [run["tokens_per_second"] for run in runs]
            rate = statistics.median(speeds) * flops
            rows[contestant.name] = {
                "settings": {key: value for key, value in asdict(self.resolve(contestant)).items() if value},
                "micro_batch": runs[0]["micro_batch"],
                "chosen": runs[-1].get("chosen", {}),
                "messages": runs[-1].get("messages", []),
                "tokens_per_second": summarise(speeds, 0),
                "ms_per_step": round(1000 * statistics.median(run["seconds_per_step"] for run in runs), 2),
                "cpu_ms_per_step": round(1000 * statistics.median(run["cpu_seconds_per_step"] for run in runs), 2),
                "start_seconds": [round(run["start_seconds"], 1) for run in runs],
                "peak_memory_mb": round(max(run["peak_memory"] for run in runs) / 2**20),
                "gflops": round(rate / 1e9, 1),
                "share_of_bf16_peak": round(rate / peaks["bf16"], 4),
                "first_loss": round(runs[-1]["losses"][0], 4),
                "loss_at_last_common_step": round(runs[-1]["losses"][self._common_steps() - 1], 4),
            }
        return {
            "shape": asdict(self.shape),
            "flops_per_token": flops,
            "peak_gflops": {kind: round(value / 1e9, 1) for kind, value in peaks.items()},
            "rounds": max(len(runs) for runs in self.runs.values()),
            "common_steps": self._common_steps(),
            "contestants": rows,
            "ours_over": {} if ours is None else self._ratios(ours),
        }

    def _common_steps(self) -> int:
        return min(len(runs[-1]["losses"]) for runs in self.runs.values())

    def _ratios(self, ours: str) -> Result:
        """Ours over each other one, round by round, and the median of those."""
        ratios = {}
        for name, runs in self.runs.items():
            if name != ours:
                pairs = zip(self.runs[ours], runs, strict=True)
                each = [mine["tokens_per_second"] / theirs["tokens_per_second"] for mine, theirs in pairs]
                ratios[name] = {**summarise(each, 3), "rounds": [round(ratio, 3) for ratio in each]}
        return ratios


def environment_of(contestant: Contestant, threads: int, folder: Path) -> dict[str, str]:
    """The environment that a contestant's process starts in: **the one place where it is prepared**.

    malloc reads its settings before a program's first line, so a peer that shall have them gets them here. Ours gets
    none: what it needs, it has to arrange by itself, as it must for a person.
    """
    # Compiled code is kept for the whole benchmark, so the first round shows a cold start and later ones a warm one.
    environment = clean_environment(threads, TORCHINDUCTOR_CACHE_DIR=str(folder / "inductor"))
    return environment | MALLOC_TUNING if contestant.malloc else environment


def start_and_fall(losses: Sequence[float], expected: float) -> str | None:
    """What is wrong with a loss curve: a fresh model knows nothing, and a trained one more. None if it is right."""
    if abs(losses[0] - expected) > 0.3:
        return f"its first loss is {losses[0]:.3f} instead of about ln(vocabulary) = {expected:.3f}"
    if losses[-1] > losses[0] - LEAST_FALL:
        return f"its loss does not fall ({losses[0]:.3f} to {losses[-1]:.3f})"
    return None


def largest_gap(losses: Sequence[float], reference: Sequence[float]) -> float:
    """The largest relative difference over the steps that both have made, at most the first hundred."""
    both = list(zip(losses, reference))[:COMPARED_STEPS]
    return max(abs(mine - theirs) / theirs for mine, theirs in both)


def missing(engine: str, folders: dict[str, str]) -> str | None:
    """Why an engine cannot take part, or None."""
    if engine in CHECKOUTS and engine not in folders:
        return f"--{engine} FOLDER must name a checkout of {CHECKOUTS[engine]}"
    needed = {"hf": ["transformers"], "hf-trainer": ["transformers", "accelerate"]}.get(engine, [])
    absent = [package for package in needed if importlib.util.find_spec(package) is None]
    return f"pip install {' '.join(absent)}" if absent else None


def present(contestants: Iterable[Contestant], folders: dict[str, str], skipped: dict[str, str]) -> list[Contestant]:
    """Those that can take part; why the others cannot goes into ``skipped`` and is printed once."""
    there = []
    for contestant in contestants:
        reason = missing(contestant.engine, folders)
        if reason is None:
            there.append(contestant)
        elif contestant.name not in skipped:
            skipped[contestant.name] = reason
            print(f"skipped {contestant.name}: {reason}")
    if not any(each.engine not in ("ours", TUNED) for each in there):
        there = [each for each in there if each.engine != TUNED]
    return there


def checkouts(**folders: Path | None) -> dict[str, str]:
    """Checkouts that were named, each with its ``model.py``."""
    for name, folder in folders.items():
        if folder is not None and not (folder / "model.py").is_file():
            fail(f"--{name} {folder}: there is no model.py; it must be a checkout of {CHECKOUTS[name]}")
    return {name: str(folder.resolve()) for name, folder in folders.items() if folder is not None}


def hold(contests: Sequence[Contest], rounds: int) -> list[Result]:
    """All rounds of each contest, one contest after the other, printed as they end."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for contest in contests:
            contest.prepare(Path(folder))
            for number in range(rounds):
                contest.round(number)
                print(f"{contest.shape.name}: round {number + 1} of {rounds} done", flush=True)
            results.append(contest.report())
            print_report(results[-1])
    return results


def print_report(result: Result) -> None:
    """One shape for people."""
    shape, peaks = Shape(**result["shape"]), result["peak_gflops"]
    config = shape.config
    print(
        f"\n{shape.name}: {config.n_layers} layers, {config.n_heads} heads, {config.d_model} wide, vocabulary "
        f"{config.vocab_size:,}, {shape.sequences} x {config.max_seq_len} tokens per step, "
        f"{result['flops_per_token'] / 1e6:.1f} MFLOP per token"
    )
    print(f"matrix products here: {peaks['fp32']:,.0f} GFLOP/s in float32, {peaks['bf16']:,.0f} in bfloat16")
    rows = [
        [
            "",
            "tokens/s",
            "(min - max)",
            "ours is",
            "GFLOP/s",
            "of bf16",
            "cpu ms",
            "memory MB",
            "start s",
            "micro",
            "loss",
        ]
    ]
    for name, row in result["contestants"].items():
        speed, ratio = row["tokens_per_second"], result["ours_over"].get(name)
        rows.append(
            [
                name,
                f"{speed['median']:,.0f}",
                f"({speed['min']:,.0f} - {speed['max']:,.0f})",
                f"{ratio['median']:.2f} x" if ratio else "",
                f"{row['gflops']:,.0f}",
                f"{row['share_of_bf16_peak']:.1%}",
                f"{row['cpu_ms_per_step']:,.0f}",
                f"{row['peak_memory_mb']:,}",
                f"{row['start_seconds'][0]:.1f}",
                str(row["micro_batch"]),
                f"{row['loss_at_last_common_step']:.4f}",
            ]
        )
    print_table(rows)
    print(
        "cpu ms: processor time of a step; start: seconds of the first round before the steady state (compilation, "
        f"probes), not in tokens/s; micro: sequences per pass; loss: after {result['common_steps']} steps"
    )


def header(benchmark: str, contests: Sequence[Contest], threads: int) -> Result:
    """The beginning of the JSON object."""
    seconds = contests[0].seconds if contests else None
    return {"benchmark": benchmark, "machine": machine(threads), "seconds": seconds}
