"""Fill in what a person left out, and say why each value was chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from llm_trainer.common.devices import resolve_device
from llm_trainer.config import RunConfig
from llm_trainer.config.model import GATED
from llm_trainer.tokenizer import load_tokenizer
from llm_trainer.training.precision import format_is_free
from llm_trainer.training.tuning import Tuning, tune, untuned
from llm_trainer.workflows.estimate import training_tokens
from llm_trainer.workflows.target import training_shape

# Merges need text to be learnt from: below a few hundred bytes of text for each token, the last ones are noise.
VOCABULARIES = ((1_000_000, 1024), (8_000_000, 4096), (100_000_000, 8192), (1_000_000_000, 16384))
LARGEST_VOCABULARY = 32000
CPU_CONTEXT = 512

Choose = Callable[[str, str, object, str], None]
"""Sets a value: section, name, value, reason."""


@dataclass(frozen=True)
class Derivation:
    """One value that was chosen for the person."""

    key: str
    value: object
    reason: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value}: {self.reason}"


@dataclass(frozen=True)
class Derived:
    """Everything that was chosen."""

    notes: list[Derivation]
    tuning: Tuning
    """What was measured to choose how to compute."""


def derive(run: RunConfig, text_bytes: int | None) -> Derived:
    """Set, in ``run``, every value that depends on the machine or the data and was not given.

    Args:
        run: changed in place.
        text_bytes: bytes of training text, where known.
    """
    notes: list[Derivation] = []

    def choose(section: str, name: str, value: object, reason: str) -> None:
        setattr(getattr(run, section), name, value)
        notes.append(Derivation(f"{section}.{name}", value, reason))

    if run.model.family != "decoder" and run.training.objective is None:
        choose("training", "objective", run.objective, f"what suits a model of family {run.model.family} and its data")
    device = resolve_device(run.training.device)
    if run.training.device == "auto":
        choose("training", "device", device.type, "the best device that PyTorch sees here")
    length = run.data.max_length or run.training.sequence_length
    if not run.model.given("max_seq_len"):
        if length is not None:
            choose("model", "max_seq_len", length, "as long as the training sequences")
        elif device.type == "cpu":
            choose("model", "max_seq_len", CPU_CONTEXT, "shorter sequences on a CPU, where attention is costly")
    if run.data.max_length is None:
        reason = "as long as the model's context" if length is None else "training.sequence_length"
        choose("data", "max_length", length or run.model.max_seq_len, reason)
    if run.training.use_flash_attention is False:
        choose("model", "attention_backend", "explicit", "use_flash_attention: false")
    _derive_vocabulary(run, text_bytes, choose)
    if run.model.d_ff is None:
        rule = "8/3 x d_model rounded up to 32, three matrices" if run.model.activation in GATED else "4 x d_model"
        notes.append(Derivation("model.d_ff", run.model.ffn_dim, rule))
    tuning = _derive_tuning(run, text_bytes, device, choose, notes)
    accumulation = run.training.gradient_accumulation_steps
    sequences = run.training.sequences_per_step()
    notes.append(
        Derivation(
            "effective batch",
            f"{sequences} sequences, {sequences * (run.data.max_length or 0):,} tokens",
            f"batch_size {run.training.batch_size} x gradient_accumulation_steps {accumulation}",
        )
    )
    run.validate()
    return Derived(notes, tuning)


def _derive_tuning(
    run: RunConfig,
    text_bytes: int | None,
    device: torch.device,
    choose: Choose,
    notes: list[Derivation],
) -> Tuning:
    """How to compute, written into the configuration: the run, and a run resumed from it, measure nothing again."""
    training = run.training
    shape, length = training_shape(run)
    tokens = training_tokens(run, text_bytes, length)
    if run.model.family == "decoder":
        tuning = tune(shape, training, length, device, tokens=tokens, micro_batch=True)
    else:
        tuning = untuned(training, device)  # the probe knows decoders only
    if format_is_free(training):
        choose("training", "precision", tuning.precision.format, tuning.precision.reason)
    elif training.precision == "auto":
        notes.append(Derivation("training.precision", tuning.precision.format, tuning.precision.reason))
    for name in ("num_threads", "reuse_memory", "compile"):
        if name in tuning.reasons:
            choose("training", name, getattr(tuning, name), tuning.reasons[name])
    if "batch_size" in tuning.reasons:
        choose("training", "batch_size", tuning.batch_size, tuning.reasons["batch_size"])
        choose(
            "training",
            "gradient_accumulation_steps",
            tuning.gradient_accumulation_steps,
            "what keeps the effective batch",
        )
    notes.extend(Derivation("tuning", "note", problem) for problem in tuning.notes)
    return tuning


def _derive_vocabulary(run: RunConfig, text_bytes: int | None, choose: Choose) -> None:
    if run.tokenizer.path is not None:
        if not run.model.given("vocab_size"):
            choose("model", "vocab_size", load_tokenizer(run.tokenizer.path).vocab_size, "the size of the tokenizer")
        return
    if run.tokenizer.vocab_size is not None:
        return
    if run.model.given("vocab_size"):
        choose("tokenizer", "vocab_size", run.model.vocab_size, "the size of the model's vocabulary")
        return
    if text_bytes is None:
        choose("tokenizer", "vocab_size", LARGEST_VOCABULARY, "the amount of text is not known")
        return
    size = next((size for limit, size in VOCABULARIES if text_bytes < limit), LARGEST_VOCABULARY)
    choose("tokenizer", "vocab_size", size, f"enough text to learn it from: {text_bytes / 1e6:.1f} MB")
