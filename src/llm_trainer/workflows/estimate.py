"""What a run will cost, before it starts: parameters, memory, time. Each figure says how it was made."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llm_trainer.common.devices import matmul_peak, resolve_device
from llm_trainer.config import RunConfig
from llm_trainer.models import TransformerLM
from llm_trainer.training.precision import resolve_precision

ASSUMED_UTILISATION = 0.35
"""Share of the measured matrix-product rate that training is taken to reach; small models reach 25 to 45 %."""
BYTES_PER_TOKEN = 3.5
"""Text bytes per token before a tokenizer exists to measure with."""


@dataclass(frozen=True)
class Estimate:
    """Costs of a run."""

    parameters: int
    flops_per_token: float
    memory_bytes: int
    tokens_per_second: float
    tokens: int | None
    seconds: float | None


def estimate(run: RunConfig, text_bytes: int | None) -> Estimate:
    """Work out the costs. Builds the model without memory (on the ``meta`` device) and times a matrix product."""
    config = run.model.model_copy()
    if not run.model.given("vocab_size") and run.tokenizer.vocab_size is not None:
        config.vocab_size = run.tokenizer.vocab_size
    with torch.device("meta"):
        model = TransformerLM(config)
    length = run.data.max_length or config.max_seq_len
    flops = model.flops_per_token(length)
    device = resolve_device(run.training.device)
    precision = resolve_precision(run.training, device)
    speed = ASSUMED_UTILISATION * matmul_peak(device, precision.dtype) / flops
    tokens = _tokens(run, text_bytes, length)
    seconds = tokens / speed if tokens is not None else None
    if run.training.max_minutes is not None:
        limit = run.training.max_minutes * 60
        seconds = limit if seconds is None else min(seconds, limit)
    parameters = model.num_parameters()
    return Estimate(parameters, flops, memory_bytes(run, parameters, length), speed, tokens, seconds)


def memory_bytes(run: RunConfig, parameters: int, length: int) -> int:
    """Weights, gradients and optimizer state, plus activations of one micro-batch.

    Per token and block, a transformer keeps about 16 vectors of d_model and 3 of d_ff for the backward pass
    (Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198); with recomputed activations, one of d_model.
    """
    per_parameter = {"adamw": 16, "muon": 12, "sgd": 12, "adafactor": 8}[run.training.optimizer]
    per_parameter += 4 if run.training.use_ema else 0
    model, training = run.model, run.training
    width = 4 if resolve_precision(training, resolve_device(training.device)).format == "fp32" else 2
    vectors = model.d_model if training.gradient_checkpointing else 16 * model.d_model + 3 * model.ffn_dim
    activations = training.batch_size * length * model.n_layers * vectors * width
    return parameters * per_parameter + activations


def _tokens(run: RunConfig, text_bytes: int | None, length: int) -> int | None:
    training = run.training
    from_steps = None
    if training.max_steps is not None:
        from_steps = training.max_steps * training.sequences_per_step() * length
    if training.num_epochs is None and (from_steps is not None or training.max_minutes is not None):
        return from_steps
    if text_bytes is None:
        return from_steps
    from_epochs = int(text_bytes / BYTES_PER_TOKEN * training.epoch_dataset_fraction) * (training.num_epochs or 1)
    return from_epochs if from_steps is None else min(from_epochs, from_steps)
