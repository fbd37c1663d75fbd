"""Segment-recurrent memory (Dai et al. 2019, "Transformer-XL", https://arxiv.org/abs/1901.02860): a text is read in
segments, and each layer looks back at what it was given in the segment before.

A token sees ``memory_length`` tokens beyond its segment, and what it sees of them in layer l had, in layer l - 1, seen
as many more: information comes from ``n_layers x memory_length`` tokens back, while attention costs the same for every
segment. No gradient flows into the memory. Positions count by distance (RoPE, ALiBi, T5's, or none), so a segment looks
the same wherever in the text it lies.

The memory is a value: given to :meth:`~llm_trainer.models.transformer.TransformerLM.read_segments`, and given back. The
model keeps nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llm_trainer.config import ModelConfig
from llm_trainer.models.block import TransformerBlock
from llm_trainer.models.context import AttentionContext
from llm_trainer.models.registry import register


@dataclass(frozen=True)
class SegmentMemory:
    """What a model remembers of the text before: up to ``memory_length`` tokens."""

    states: tuple[Tensor, ...]
    """Of each layer, what its attention was given: (batch, kept, d_model), without a gradient."""
    token_ids: Tensor
    """(batch, kept)."""
    document_ids: Tensor | None
    """(batch, kept); None if all are of document 0. A token sees only what is of its own document: at a document's
    start, all else is forgotten."""

    def select(self, rows: Tensor) -> SegmentMemory:
        """The memory of rows ``rows``, (new batch,); rows may be repeated, and left out."""
        states = tuple(state.index_select(0, rows) for state in self.states)
        documents = None if self.document_ids is None else self.document_ids.index_select(0, rows)
        return SegmentMemory(states, self.token_ids.index_select(0, rows), documents)

    def documents_and(self, document_ids: Tensor | None, input_ids: Tensor) -> Tensor | None:
        """The documents of memory and segment together, (batch, kept + seq); None if all are of document 0.

        Args:
            document_ids: of the segment, (batch, seq), or None.
            input_ids: of the segment, (batch, seq).
        """
        if self.document_ids is None and document_ids is None:
            return None
        before = torch.zeros_like(self.token_ids) if self.document_ids is None else self.document_ids
        return torch.cat([before, torch.zeros_like(input_ids) if document_ids is None else document_ids], dim=1)


class SegmentPass:
    """One segment on its way through the layers: gives each its memory, and takes what will be the next one.

    Args:
        memory: from the segment before; None at the beginning of a text.
        layers: how many there are.
        length: tokens to keep.
    """

    def __init__(self, memory: SegmentMemory | None, layers: int, length: int) -> None:
        self._memory = memory
        self._length = length
        # By layer, and written as a whole: a layer that is computed twice leaves the same as one that is not.
        self._kept: list[Tensor | None] = [None] * layers

    def extend(self, layer: int, x: Tensor) -> Tensor:
        """(batch, seq, d_model) -> (batch, kept + seq, d_model): what the layer remembers, and what it is given."""
        whole = x if self._memory is None else torch.cat([self._memory.states[layer].to(x.dtype), x], dim=1)
        self._kept[layer] = newest(whole.detach(), self._length)
        return whole

    def result(self, token_ids: Tensor, document_ids: Tensor | None) -> SegmentMemory:
        """The memory for the next segment.

        Args:
            token_ids: (batch, kept + seq), of memory and segment.
            document_ids: (batch, kept + seq), or None.
        """
        states = tuple(state for state in self._kept if state is not None)
        documents = None if document_ids is None else newest(document_ids, self._length)
        return SegmentMemory(states, newest(token_ids, self._length), documents)


def newest(x: Tensor, length: int) -> Tensor:
    """The last ``length`` entries along dimension 1, or all if there are fewer."""
    return x[:, max(0, x.shape[1] - length) :]


@register("block", "segment_transformer")
class SegmentBlock(TransformerBlock):
    """A :class:`TransformerBlock` whose attention sees the memory too; the same parameters by the same names.

    Attention runs over memory and segment in one, and what it says for the memory is dropped: every backend, pattern
    and kind of position works unchanged, at the price of queries that nobody needs. With a memory as long as the
    segment, a step took 1.4 times as long as without one (4 layers 128 wide, segments of 128, one core; 1.5 at 256).

    Args:
        config: names the components.
        layer_index: which layer this is.
    """

    supports_cache = False

    def __init__(self, config: ModelConfig, layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.layer_index = layer_index

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """(batch, seq, d_model) -> same shape; the context is of memory and segment together."""
        if self.pre_norm:
            x = x + self._attend(self.attention_norm(x), context)
            x = x + self.feed_forward(self.ffn_norm(x))
        else:
            x = self.attention_norm(x + self._attend(x, context))
            x = self.ffn_norm(x + self.feed_forward(x))
        return x

    def _attend(self, x: Tensor, context: AttentionContext) -> Tensor:
        """Attention over memory and ``x``, of which only the answers to ``x`` are wanted."""
        if context.segment is None:
            raise ValueError("a block with memory needs context.segment")
        whole = context.segment.extend(self.layer_index, x)  # (batch, kept + seq, d_model)
        answers: Tensor = self.attention(whole, context)
        return answers[:, answers.shape[1] - x.shape[1] :]
