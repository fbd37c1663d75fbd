"""Decide by measuring, one choice after another: each keeps what was best before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, get_args

import torch

from llm_trainer.common.allocator import can_reuse_freed_memory
from llm_trainer.common.devices import world_size
from llm_trainer.config import TrainingConfig
from llm_trainer.training.modules import compiler_problem
from llm_trainer.training.precision import WORTHWHILE, Format
from llm_trainer.training.tuning_probe import LEAST_STEPS, Setting

DEADLINE_SECONDS = 2.5
"""No setting begins that would end later; compilation, which is for long runs, has its own time."""
BF16_SHARE = 0.95
"""bfloat16 is rounder than float32: its step has to take at most this share of float32's..."""
COMPILED_SHARE = 0.95
"""...and a compiled one at most this share of the other, or compiling does not pay."""
REUSE_SHARE = 1.1
"""Reusing memory gains more with a whole model and once the heap has settled, so it must only not be clearly slower."""
THREADS_SHARE = 0.95
"""All threads have to be this much faster than one, or something else is running here."""
HINDERED = 0.5
"""Where products with all threads reach less than this share of the rate of one thread, no step is tried with them."""
FEWER_STEPS_SHARE = 1.03
"""Fewer, larger micro-steps may be this much slower for each token: each of them saves the work around it."""
HOPELESS = 3.0
"""A step this many times as long as the best so far ends the timing of its setting."""
MOST_TOKENS = 8192
"""Tokens of the largest micro-batch that is tried, because nothing here measures memory."""
LONG_SECONDS = 600.0
"""How long a run has to be for compiling to be tried: it takes 3 to 10 seconds for the blocks."""
MEASURING_SHARE = 0.05
"""Share of a run that measuring may take at most: a run of ten seconds is not worth two of them."""
NOT_MEASURED = "not measured: the time for measuring was over"
TOO_LARGE = "not measured: a step of this model takes too long for a probe"


class Measures(Protocol):
    """What :class:`~llm_trainer.training.tuning_probe.Measurer` does; tests have one that knows the answers."""

    blocks: int
    scale: float

    def matmul_rate(self, precision: Format, threads: int) -> float:
        """FLOP/s of small matrix products."""
        ...

    def rows(self, rate: float) -> int | None:
        """Sequences of a probe step."""
        ...

    def seconds(self, setting: Setting, worst: float) -> float:
        """Of a typical step."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


@dataclass(frozen=True)
class Measurement:
    """A line of the table."""

    setting: Setting
    milliseconds: float
    """Of a step of the probe, the median."""


@dataclass(frozen=True)
class Earlier:
    """What an earlier run on this machine found; everything but threads, which depend on what else runs now."""

    setting: Setting
    seconds: float
    """Of a step of that setting."""
    batch_size: int
    compile_pays: bool | None
    """None: not tried, because that run was short."""
    reasons: Mapping[str, str]

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Earlier:
        """Read an entry of the cache.

        Raises:
            ValueError, TypeError, KeyError: it is not one.
        """
        setting = Setting(**entry["setting"])
        numbers = (setting.num_threads, setting.rows, entry["seconds"], entry["batch_size"])
        flags = (setting.reuse_memory, setting.compile)
        sound = (
            setting.precision in get_args(Format)
            and all(isinstance(number, (int, float)) and number > 0 for number in numbers)
            and all(isinstance(flag, bool) for flag in flags)
            and entry["compile_pays"] in (None, True, False)
            and isinstance(entry["reasons"], dict)
        )
        if not sound:
            raise ValueError("damaged")
        return cls(setting, entry["seconds"], entry["batch_size"], entry["compile_pays"], entry["reasons"])


class Search:
    """Finds the best setting for what is free.

    Args:
        config: has everything that is not free.
        free: names of the fields of :class:`TrainingConfig` to choose.
        given_precision: what to compute in where that is not free.
        seq_len: tokens of a sequence.
        tokens: of the whole run, if known.
        measures: times settings.
        clock: seconds from any origin.
    """

    def __init__(
        self,
        config: TrainingConfig,
        free: frozenset[str],
        *,
        given_precision: Format,
        seq_len: int,
        tokens: int | None,
        measures: Measures,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._free = free
        self._seq_len = seq_len
        self._tokens = tokens
        self._measures = measures
        self._clock = clock
        self._started = clock()
        self._deadline = self._started + DEADLINE_SECONDS
        self._bf16_is_slow = False
        self.setting = Setting(given_precision, config.num_threads or 1, bool(config.reuse_memory), 1)
        """The best so far."""
        self.seconds: float | None = None
        """Of a step with it."""
        self.batch_size = config.batch_size
        self.compile = bool(config.compile)
        self.compile_pays: bool | None = None
        self.table: list[Measurement] = []
        self.reasons: dict[str, str] = {}
        self.busy = False
        """Whether threads hindered each other: then nothing that was measured is worth keeping..."""
        self.cut_short = False
        """...nor where the run is so short that not everything was measured."""

    def run(self, earlier: Earlier | None) -> None:
        """Choose everything that is free; with ``earlier``, only the threads are measured again."""
        if earlier is None:
            measurable = self._begin()
            if "num_threads" in self._free:
                self._choose_threads()
            for name, choose in (
                ("reuse_memory", self._choose_reuse),
                ("precision", self._choose_precision),
                ("batch_size", self._choose_micro_batch),
            ):
                if name in self._free and not (measurable and choose()):
                    self.reasons.setdefault(name, NOT_MEASURED if measurable else TOO_LARGE)
        else:
            self._take_over(earlier)
            if "num_threads" in self._free:
                self._choose_threads()
        if "compile" in self._free:
            self._choose_compile()

    def _begin(self) -> bool:
        """Where to begin; whether steps can be measured at all."""
        if "precision" in self._free:
            single, half = (self._measures.matmul_rate(name, 1) for name in ("fp32", "bf16"))
            self._bf16_is_slow = half < single
            self.setting = replace(self.setting, precision="bf16" if half > WORTHWHILE * single else "fp32")
            self.reasons["precision"] = (
                f"matrix products on one thread: {half / 1e9:,.0f} GFLOP/s in bfloat16, {single / 1e9:,.0f} in float32"
            )
        rows = self._measures.rows(self._measures.matmul_rate(self.setting.precision, 1))
        self.setting = replace(self.setting, rows=rows or 1)
        if rows is None:
            return False
        self.seconds = self._time(self.setting)
        limit = MEASURING_SHARE * (self._expected_seconds() or math.inf)
        if limit < DEADLINE_SECONDS:
            self.cut_short, self._deadline = True, self._started + limit
        return self.seconds is not None

    def _take_over(self, earlier: Earlier) -> None:
        threads = self.setting.num_threads
        self.setting = replace(earlier.setting, num_threads=threads)
        self.batch_size, self.compile_pays = earlier.batch_size, earlier.compile_pays
        self.reasons = {
            name: f"measured by an earlier run: {reason}"
            for name, reason in earlier.reasons.items()
            if name in self._free - {"num_threads", "compile"}
        }
        self.seconds = self._time(self.setting) if "num_threads" in self._free else earlier.seconds

    def entry(self) -> dict[str, Any]:
        """What :meth:`Earlier.parse` reads."""
        return {
            "setting": asdict(self.setting),
            "seconds": self.seconds,
            "batch_size": self.batch_size,
            "compile_pays": self.compile_pays,
            "reasons": self.reasons,
        }

    # ------------------------------------------------------------------ the choices

    def _choose_threads(self) -> None:
        """Products of matrices first: where other programs run, a single step with all threads can take seconds."""
        most = torch.get_num_threads()
        if most == 1:
            self.reasons["num_threads"] = "all that PyTorch uses here"
            return
        rates = {count: self._measures.matmul_rate(self.setting.precision, count) for count in (1, most)}
        figures = f"{rates[most] / 1e9:,.0f} GFLOP/s with {most} threads, {rates[1] / 1e9:,.0f} with one"
        self.reasons["num_threads"] = f"matrix products: {figures}"
        self.busy = rates[1] > THREADS_SHARE * rates[most]
        if rates[most] < HINDERED * rates[1]:
            return
        with_one = self.seconds
        if rates[most] > rates[1]:
            self.setting = replace(self.setting, num_threads=most)
            if self.seconds is not None:
                # What to expect until it is measured; if there is no time for that, there is none for what follows.
                self.seconds *= rates[1] / rates[most]
        if with_one is not None:
            self._time_threads(most, with_one)

    def _time_threads(self, most: int, with_one: float) -> None:
        """Steps with all threads, with half of them and with one."""
        times = {1: with_one}
        for count in sorted({most, most // 2} - {0, 1}, reverse=True):
            seconds = self._time(replace(self.setting, num_threads=count))
            if seconds is not None:
                times[count] = seconds
        if most not in times:
            return
        self.busy = times[most] > THREADS_SHARE * times[1]
        count = min(times, key=lambda count: times[count])
        self._keep(replace(self.setting, num_threads=count), times[count])
        threads = {f"with {count} thread" + "s" * (count > 1): times[count] for count in sorted(times)}
        self.reasons["num_threads"] = self._told(threads)

    def _choose_reuse(self) -> bool:
        if not can_reuse_freed_memory():
            self.reasons["reuse_memory"] = "for programs that allocate with glibc on Linux only"
            return True
        assert self.seconds is not None
        without, reusing = self.seconds, replace(self.setting, reuse_memory=True)
        seconds = self._time(reusing)
        if seconds is None:
            return False
        self.reasons["reuse_memory"] = self._told({"with it": seconds, "without": without})
        if seconds <= REUSE_SHARE * without:
            self._keep(reusing, seconds)
        return True

    def _choose_precision(self) -> bool:
        if self._bf16_is_slow:
            return True  # a processor without it could take minutes for a step; the products are the reason
        assert self.seconds is not None
        other = replace(self.setting, precision="fp32" if self.setting.precision == "bf16" else "bf16")
        seconds = self._time(other)
        if seconds is None:
            return True  # what the products say stands, with its reason
        times = {self.setting.precision: self.seconds, other.precision: seconds}
        chosen: Format = "bf16" if times["bf16"] <= BF16_SHARE * times["fp32"] else "fp32"
        self.reasons["precision"] = self._told({"in bfloat16": times["bf16"], "in float32": times["fp32"]})
        self._keep(replace(self.setting, precision=chosen), times[chosen])
        return True

    def _choose_micro_batch(self) -> bool:
        assert self.seconds is not None
        sizes = micro_batches(self._config.batch_size, self._config.gradient_accumulation_steps, self._seq_len)
        per_row: dict[int, float] = {}
        for rows in sizes:
            seconds = self.seconds if rows == self.setting.rows else self._time(replace(self.setting, rows=rows))
            if seconds is not None:
                per_row[rows] = seconds / rows
        if self._config.batch_size not in per_row or len(per_row) == 1:
            return False
        fastest = min(per_row.values())
        self.batch_size = max(rows for rows, seconds in per_row.items() if seconds <= FEWER_STEPS_SHARE * fastest)
        each = ", ".join(f"{1000 * per_row[rows]:.1f} with {rows}" for rows in sorted(per_row))
        self.reasons["batch_size"] = f"milliseconds of {self._blocks} for each sequence: {each} in a micro-batch"
        return True

    def _choose_compile(self) -> None:
        expected = self._expected_seconds()
        if self.busy:
            self.reasons["compile"] = "other programs keep this machine too busy to tell whether it pays"
        elif expected is None:
            self.reasons["compile"] = "it is not known how long the run will take"
        elif expected < LONG_SECONDS:
            minutes = LONG_SECONDS / 60
            self.reasons["compile"] = f"about {expected / 60:.1f} minutes to train; it may pay from {minutes:g} on"
        elif self.compile_pays is not None:
            self.compile = self.compile_pays
            self.reasons["compile"] = "measured by an earlier run"
        else:
            self._try_compiling()

    def _try_compiling(self) -> None:
        problem = compiler_problem(torch.device("cpu"))
        if problem is not None:
            self.reasons["compile"] = f"this machine cannot compile ({problem})"
            return
        if self.seconds is None:
            self.reasons["compile"] = TOO_LARGE
            return
        without = self._measure(self.setting)
        seconds = self._measure(replace(self.setting, compile=True))
        self.compile = self.compile_pays = seconds <= COMPILED_SHARE * without
        self.reasons["compile"] = self._told({"compiled": seconds, "not compiled": without})
        if self.compile:
            self.seconds = seconds

    # ------------------------------------------------------------------ small parts

    def _expected_seconds(self) -> float | None:
        """Of the whole run, from the steps of the probe and from the clock that may end it."""
        ends = [] if self._config.max_minutes is None else [60 * self._config.max_minutes]
        if self._tokens is not None and self.seconds is not None:
            per_token = self.seconds / (self.setting.rows * self._seq_len)
            ends.append(per_token * self._measures.scale * self._tokens / world_size())
        return min(ends) if ends else None

    def _time(self, setting: Setting) -> float | None:
        """Seconds of a step, or None if there is no time left to measure it."""
        expected = 0.0 if self.seconds is None else self.seconds * setting.rows / self.setting.rows
        if self._clock() + (1 + LEAST_STEPS) * expected > self._deadline:
            return None
        return self._measure(setting, HOPELESS * expected if expected else math.inf)

    def _measure(self, setting: Setting, worst: float = math.inf) -> float:
        seconds = self._measures.seconds(setting, worst)
        self.table.append(Measurement(setting, 1000 * seconds))
        return seconds

    @property
    def _blocks(self) -> str:
        return f"{self._measures.blocks} block" + "s" * (self._measures.blocks > 1)

    def _keep(self, setting: Setting, seconds: float) -> None:
        self.setting, self.seconds = setting, seconds

    def _told(self, times: Mapping[str, float]) -> str:
        """``2 blocks on 1,024 tokens: 110 ms with 1 thread, 61 ms with 2 threads``."""
        parts = ", ".join(f"{1000 * seconds:.3g} ms {name}" for name, seconds in times.items())
        return f"{self._blocks} on {self.setting.rows * self._seq_len:,} tokens: {parts}"


def micro_batches(batch_size: int, accumulation: int, seq_len: int) -> list[int]:
    """Sizes of a micro-batch that keep the effective batch: the one there is, its halves, and its doubles as long as
    the accumulation is even and they have at most :data:`MOST_TOKENS` tokens. Smallest first.

    Example:
        >>> micro_batches(4, 2, 512)
        [1, 2, 4, 8]
    """
    sizes = [batch_size]
    while sizes[0] % 2 == 0:
        sizes.insert(0, sizes[0] // 2)
    while accumulation % 2 == 0 and 2 * sizes[-1] * seq_len <= MOST_TOKENS:
        sizes.append(2 * sizes[-1])
        accumulation //= 2
    return sizes
