"""The memory of a training step, part by part, before anything is allocated.

The model, its optimizer and one forward pass are run on tensors that have shapes and types but no memory (PyTorch's
fake tensors), and what they would hold is added up. So every component that a configuration can name is counted as it
is, and a model of a billion parameters is measured on any laptop.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.models import BaseLanguageModel
from llm_trainer.models.checkpointing import apply_activation_checkpointing
from llm_trainer.models.factory import build_model
from llm_trainer.models.lora import apply_lora
from llm_trainer.models.seq2seq import EncoderDecoderLM
from llm_trainer.training.fused_loss import tokens_per_piece
from llm_trainer.training.optimizer import create_optimizer, optimizers_of
from llm_trainer.training.precision import DTYPES


@dataclass(frozen=True)
class Footprint:
    """Bytes of one training step on one device. The process itself (Python, PyTorch, CUDA) is not in it."""

    weights: int
    """float32."""
    gradients: int
    """float32."""
    optimizer: int
    """Its state: two moments for AdamW, and so on."""
    averages: int
    """A second set of weights, with use_ema."""
    activations: int
    """What the forward pass of one micro-batch keeps for the backward pass."""
    recomputed: int
    """With gradient_checkpointing, the activations of the one block that is computed again."""
    loss: int
    """Output layer and cross-entropy: one piece of the logits, and the gradients that the forward pass leaves."""
    accumulates: bool
    """Whether gradients of earlier micro-steps lie there while activations are at their largest."""

    @property
    def peak(self) -> int:
        """The most that is held at once.

        The backward pass frees activations as it makes gradients, so with a single micro-step the two do not add up:
        the peak is at its beginning or at its end. What the loss holds is gone when blocks are computed again.
        """
        fixed = self.weights + self.optimizer + self.averages
        passing = self.activations + max(self.loss, self.recomputed)
        return fixed + (self.gradients + passing if self.accumulates else max(self.gradients, passing))

    def parts(self) -> dict[str, int]:
        """Each part under its name."""
        parts = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer}
        if self.averages:
            parts["averages"] = self.averages
        parts["activations"] = self.activations
        if self.recomputed:
            parts["recomputed"] = self.recomputed
        return {**parts, "loss": self.loss}


def footprint(
    model: ModelConfig, training: TrainingConfig, length: int, format: str, *, device_type: str = "cpu"
) -> Footprint:
    """What a step of this configuration will hold.

    Args:
        model: the shape.
        training: batch size, optimizer, recomputation and so on.
        length: tokens per sequence.
        format: of matrix products: fp32, bf16 or fp16.
        device_type: where it will be trained; on a GPU the loss is computed in larger pieces.
    """
    dtype = DTYPES[format]
    with FakeTensorMode():
        plain = build_model(model)
        if training.use_peft:
            targets = tuple(training.peft_target_modules)
            apply_lora(plain, r=training.peft_r, alpha=training.peft_alpha, targets=targets)
        weights = sum(map(_size, (*plain.parameters(), *plain.buffers())))
        trained = sum(_size(parameter) for parameter in plain.parameters() if parameter.requires_grad)
        saved, output = _saved_bytes(plain, training.batch_size, length, dtype)
        activations, recomputed = saved, 0
        capped = model.logit_softcap is not None or training.z_loss > 0
        if training.gradient_checkpointing:
            every = training.gradient_checkpointing_every
            apply_activation_checkpointing(plain, every=every)
            activations, _ = _saved_bytes(plain, training.batch_size, length, dtype)
            recomputed = (saved - activations) // math.ceil(model.n_layers / every)
        return Footprint(
            weights=weights,
            gradients=trained,
            optimizer=_optimizer_bytes(plain, training),
            averages=trained if training.use_ema else 0,
            activations=activations,
            recomputed=recomputed,
            loss=_loss_bytes(_output_layer(plain).weight, output, dtype, device_type, capped=capped),
            accumulates=training.gradient_accumulation_steps > 1,
        )


def _output_layer(model: BaseLanguageModel) -> nn.Linear:
    layer: nn.Linear = getattr(model, "classifier", None) or model.lm_head
    return layer


def _saved_bytes(model: BaseLanguageModel, rows: int, length: int, dtype: torch.dtype) -> tuple[int, Tensor]:
    """Bytes that a forward pass keeps for the backward pass besides the weights, and the last hidden states.

    The batch is what packing gives: several documents in a row, hence a mask.
    """
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    # Each memory once, however many tensors look at it; held, or another could be given the same address.
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            held.setdefault(storage._cdata, tensor)
        return tensor

    ids = torch.zeros(rows, length, dtype=torch.long)
    context = torch.autocast("cpu", dtype) if dtype != torch.float32 else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        if isinstance(model, EncoderDecoderLM):
            # Answers as long as their sources: the most there can be.
            hidden = model.hidden_states(ids, memory=model.encode(ids))
        else:
            hidden = model.hidden_states(ids, position_ids=torch.zeros_like(ids), document_ids=torch.ones_like(ids))  # type: ignore[call-arg]
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values()), hidden


def _loss_bytes(head: Tensor, hidden: Tensor, dtype: torch.dtype, device_type: str, *, capped: bool) -> int:
    """What ``linear_cross_entropy`` holds: see there. ``hidden`` is (batch, seq, d_model)."""
    vocabulary = head.shape[0]
    tokens = hidden.shape[0] * hidden.shape[1]
    piece = min(tokens, tokens_per_piece(vocabulary, device_type))
    narrow = 0 if dtype == torch.float32 else dtype.itemsize
    # Logits and probabilities, which a product in bfloat16 lays out anew (seen on a CPU); with a cap or a price on the
    # normaliser two more in float32.
    logits = piece * vocabulary * ((3 if narrow else 2) * dtype.itemsize + (8 if capped else 0))
    # The gradient of the hidden states, and both in the format of the products.
    states = _size(hidden) + tokens * hidden.shape[2] * 2 * narrow
    # The gradient of the matrix, a piece's contribution to it, and a narrow copy of the matrix.
    matrix = head.numel() * (4 + dtype.itemsize + narrow)
    return logits + states + matrix


def _optimizer_bytes(model: nn.Module, training: TrainingConfig) -> int:
    """State that the optimizer makes in its first update."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer = create_optimizer(model, training)
    optimizer.step()
    states = [state for part in optimizers_of(optimizer) for state in part.state.values()]
    return sum(_size(value) for state in states for value in state.values() if isinstance(value, Tensor))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
