"""Fill in what a person left out, and say why each value was chosen."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llm_trainer.common.devices import matmul_peak, resolve_device
from llm_trainer.config import RunConfig
from llm_trainer.tokenizer import load_tokenizer
from llm_trainer.training.precision import resolve_precision

# Merges need text to be learnt from: below a few hundred bytes of text for each token, the last ones are noise.
VOCABULARIES = ((1_000_000, 1024), (8_000_000, 4096), (100_000_000, 8192), (1_000_000_000, 16384))
LARGEST_VOCABULARY = 32000
CPU_CONTEXT = 512


@dataclass(frozen=True)
class Derivation:
    """One value that was chosen for the person."""

    key: str
    value: object
    reason: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value}: {self.reason}"


def derive(run: RunConfig, text_bytes: int | None) -> list[Derivation]:
    """Set, in ``run``, every value that depends on the machine or the data and was not given.

    Args:
        run: changed in place.
        text_bytes: bytes of training text, where known.
    """
    notes: list[Derivation] = []

    def choose(section: str, name: str, value: object, reason: str) -> None:
        setattr(getattr(run, section), name, value)
        notes.append(Derivation(f"{section}.{name}", value, reason))

    device = resolve_device(run.training.device)
    if run.training.device == "auto":
        choose("training", "device", device.type, "the best device that PyTorch sees here")
    if device.type == "cpu" and run.training.num_threads is None:
        choose("training", "num_threads", *_thread_choice())
    precision = resolve_precision(run.training, device)
    if run.training.precision == "auto":
        if run.training.use_amp is None:
            choose("training", "precision", precision.format, precision.reason)
        else:
            notes.append(Derivation("training.precision", precision.format, precision.reason))
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
        rule = (
            "8/3 x d_model rounded up to 32, three matrices"
            if run.model.activation in ("swiglu", "geglu")
            else "4 x d_model"
        )
        notes.append(Derivation("model.d_ff", run.model.ffn_dim, rule))
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
    return notes


def _thread_choice() -> tuple[int, str]:
    """All threads, unless one alone multiplies matrices as fast: on a busy machine threads wait for each other, and a
    step can take five times as long as with one."""
    most = torch.get_num_threads()
    if most == 1:
        return 1, "all that PyTorch uses here"
    rates = {}
    for threads in (1, most):
        torch.set_num_threads(threads)
        rates[threads] = matmul_peak(torch.device("cpu"), torch.float32, seconds=0.15, size=512, typical=True)
    measured = f"{rates[most] / 1e9:,.0f} GFLOP/s with {most} threads, {rates[1] / 1e9:,.0f} with one, measured now"
    chosen = most if rates[most] > rates[1] else 1
    torch.set_num_threads(chosen)
    return chosen, measured


def _derive_vocabulary(run: RunConfig, text_bytes: int | None, choose: object) -> None:
    assert callable(choose)
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
