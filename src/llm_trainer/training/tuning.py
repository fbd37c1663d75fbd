"""Find out at start-up what is fastest here: threads, memory, number format, micro-batch, compilation.

No table of processors knows the machine that somebody trains on, nor what else runs on it. So on a CPU a short model of
the run's own shape makes a few steps with each choice, in about two seconds. What a person has set is never changed and
never timed. On a GPU the answers are known without measuring.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

import llm_trainer
from llm_trainer.common.devices import matmul_peak, world_size
from llm_trainer.common.hashing import fingerprint
from llm_trainer.common.user_folder import cache_folder
from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.models import TransformerLM
from llm_trainer.monitoring.system import environment
from llm_trainer.training.modules import compiler_problem
from llm_trainer.training.precision import Precision, format_is_free, resolve_precision
from llm_trainer.training.tuning_cache import TuningCache
from llm_trainer.training.tuning_probe import Measurer, Setting
from llm_trainer.training.tuning_search import Earlier, Measurement, Measures, Search

LONG_ON_GPU = 120.0
"""Seconds that a run on a GPU has to take for compiling."""
GPU_UTILISATION = 0.35
"""Share of the measured matrix rate that training is taken to reach, to guess how long a run on a GPU is."""
# Settings that change what a step computes; together with the shape and the machine they name an entry of the cache.
RELEVANT = (
    "batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "gradient_checkpointing_every",
    "precision",
    "use_amp",
    "use_accelerate",
    "accelerate_mixed_precision",
    "num_threads",
    "reuse_memory",
    "z_loss",
)


@dataclass(frozen=True)
class Tuning:
    """How a run computes, and why."""

    precision: Precision
    num_threads: int | None
    """None: PyTorch's choice, on devices where it hardly matters."""
    reuse_memory: bool
    compile: bool
    batch_size: int
    gradient_accumulation_steps: int
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Of each value above that was chosen; of none that was given."""
    measured: tuple[Measurement, ...] = ()
    seconds: float = 0.0
    """Spent on finding out."""
    cached: bool = False
    """Whether all but the threads was measured by an earlier run."""
    notes: tuple[str, ...] = ()
    """Why the cache of earlier results could not be used."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for ``environment.json`` and for other ranks."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tuning:
        """What :meth:`to_dict` gave, after JSON."""
        lines = tuple(Measurement(Setting(**line["setting"]), line["milliseconds"]) for line in values["measured"])
        precision = Precision(**values["precision"])
        return cls(**{**values, "precision": precision, "measured": lines, "notes": tuple(values["notes"])})


def tune(
    shape: ModelConfig,
    config: TrainingConfig,
    seq_len: int,
    device: torch.device,
    *,
    tokens: int | None = None,
    micro_batch: bool = False,
    cache: TuningCache | None = None,
    measurer: Callable[[ModelConfig, TrainingConfig, int], Measures] = Measurer,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuning:
    """Choose everything that ``config`` leaves open.

    Args:
        shape: of the model, a :class:`TransformerLM`.
        config: how to train; not changed.
        seq_len: tokens of a sequence.
        device: where to train.
        tokens: that the run will see in all; None if only the clock ends it, or if that is not known.
        micro_batch: whether ``batch_size`` and ``gradient_accumulation_steps`` may change if neither was given; their
            product never does.
        cache: of earlier results; the person's own when left out.
        measurer: makes what measures.
        clock: seconds from any origin.
    """
    free = _free(config, device, micro_batch)
    if not free:
        return untuned(config, device)
    started = clock()
    if device.type == "cuda":
        found = _tune_gpu(shape, config, seq_len, device, tokens)
    else:
        found = _tune_cpu(shape, config, seq_len, tokens, free, cache or TuningCache(cache_folder()), measurer, clock)
    return replace(found, seconds=clock() - started)


def untuned(config: TrainingConfig, device: torch.device) -> Tuning:
    """Without a probe: a quick measurement of matrix products decides about an open format, and the rest is off."""
    precision = resolve_precision(config, device)
    return Tuning(
        precision,
        config.num_threads,
        bool(config.reuse_memory),
        bool(config.compile),
        config.batch_size,
        config.gradient_accumulation_steps,
        {"precision": precision.reason} if format_is_free(config) else {},
    )


def _free(config: TrainingConfig, device: torch.device, micro_batch: bool) -> frozenset[str]:
    """The names of what is to be chosen on this device."""
    if not config.tune or device.type == "mps":
        return frozenset()
    names = {name for name in ("num_threads", "reuse_memory", "compile") if getattr(config, name) is None}
    if device.type != "cpu":
        return frozenset(names & {"compile"})
    if format_is_free(config):
        names.add("precision")
    # Whoever gave one of the two numbers has chosen a micro-batch.
    if micro_batch and not (config.given("batch_size") or config.given("gradient_accumulation_steps")):
        names.add("batch_size")
    return frozenset(names)


def _tune_gpu(
    shape: ModelConfig, config: TrainingConfig, seq_len: int, device: torch.device, tokens: int | None
) -> Tuning:
    """Compiling pays on a GPU, unless the run is over before the compiler is."""
    base = untuned(config, device)
    seconds = [] if config.max_minutes is None else [60 * config.max_minutes]
    if tokens is not None:
        with torch.device("meta"):
            flops = TransformerLM(shape).flops_per_token(seq_len)
        speed = GPU_UTILISATION * matmul_peak(device, base.precision.dtype) * world_size() / flops
        seconds.append(tokens / speed)
    if seconds and min(seconds) < LONG_ON_GPU:
        reasons = {"compile": f"about {min(seconds):.0f} seconds to train; compiling pays from {LONG_ON_GPU:g} on"}
        return replace(base, reasons={**base.reasons, **reasons})
    problem = compiler_problem(device)
    reason = "a GPU computes faster compiled" if problem is None else f"this machine cannot compile ({problem})"
    return replace(base, compile=problem is None, reasons={**base.reasons, "compile": reason})


def _tune_cpu(
    shape: ModelConfig,
    config: TrainingConfig,
    seq_len: int,
    tokens: int | None,
    free: frozenset[str],
    cache: TuningCache,
    measurer: Callable[[ModelConfig, TrainingConfig, int], Measures],
    clock: Callable[[], float],
) -> Tuning:
    cpu = torch.device("cpu")
    given = None if "precision" in free else resolve_precision(config, cpu)
    key = _key(shape, config, seq_len, free)
    earlier = _earlier(cache, key)
    with contextlib.closing(measurer(shape, config, seq_len)) as measures:
        search = Search(
            config,
            free,
            given_precision="fp32" if given is None else given.format,
            seq_len=seq_len,
            tokens=tokens,
            measures=measures,
            clock=clock,
        )
        search.run(earlier)
    # What a busy machine or a short run measured is of no use to others; what is known need not be written again.
    news = earlier is None or search.compile_pays != earlier.compile_pays
    if news and search.seconds is not None and not (search.busy or search.cut_short):
        cache.put(key, search.entry())
    setting = search.setting
    return Tuning(
        given or Precision(setting.precision, "cpu", search.reasons["precision"]),
        setting.num_threads,
        setting.reuse_memory,
        search.compile,
        search.batch_size,
        config.sequences_per_step() // search.batch_size,
        dict(search.reasons),
        tuple(search.table),
        cached=earlier is not None,
        notes=tuple(cache.problems),
    )


def _key(shape: ModelConfig, config: TrainingConfig, seq_len: int, free: frozenset[str]) -> str:
    machine = environment()
    return fingerprint(
        {
            "version": [llm_trainer.__version__, machine["torch"]["version"]],
            "machine": [machine["cpu"], torch.get_num_threads(), world_size()],
            "shape": [shape.to_dict(), seq_len],
            "settings": {name: getattr(config, name) for name in RELEVANT},
            "free": sorted(free),
        }
    )


def _earlier(cache: TuningCache, key: str) -> Earlier | None:
    entry = cache.get(key)
    if entry is None:
        return None
    try:
        return Earlier.parse(entry)
    except (KeyError, TypeError, ValueError):
        cache.problems.append("what was measured before is not used: its entry in the cache is damaged")
        return None
