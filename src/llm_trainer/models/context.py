"""What attention needs to know besides its input, built once per forward pass and handed to every block.

Who may look at whom (causality, documents, padding, the cache, a layer's pattern), the rotary tables of the positions
in this batch, and a bias by distance. Building it in the model, once, keeps the attention layer to attention alone, and
spares every layer the making of a (seq x seq) mask; where a kernel knows a rule by itself, no mask is made at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm_trainer.models.embeddings import RotaryEmbedding, alibi_bias
from llm_trainer.models.kv_cache import KVCache
from llm_trainer.models.patterns import EVERYTHING, AttentionPattern
from llm_trainer.models.relative_positions import RelativePositionBias

if TYPE_CHECKING:
    from llm_trainer.models.memory import SegmentPass

DOCUMENTS_BY_BLOCKS = 1024
"""From this row length on, packed documents are computed block by block on a CPU instead of with a mask. With documents
of 200 tokens that took 0.6 of the time at 1024, 1.0 at 512 and 1.9 at 256 (one thread, forward and backward)."""


class AttentionContext:
    """Given to ``attention(x, context)``. The default is plain causal attention without positions.

    Args:
        causal: position i sees positions 0..i, and ``mask`` is None: the case that fused kernels know by themselves.
        mask: added to the scores, (batch or 1, heads or 1, query, key): 0 or a bias where allowed, -inf elsewhere.
        rotary: cosines and sines, (seq, head_dim / 2) or (batch, 1, seq, head_dim / 2).
        cache: where keys and values of earlier tokens are.
        token_ids: the input ids, (batch, seq), for layers that look something up by token.
        visibility: the rules from which masks are made when they are asked for, in place of ``mask``.
    """

    def __init__(
        self,
        causal: bool = True,
        mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        token_ids: Tensor | None = None,
        visibility: Visibility | None = None,
    ) -> None:
        self.causal, self.rotary, self.cache, self.token_ids = causal, rotary, cache, token_ids
        self.visibility = visibility
        self._masks: dict[AttentionPattern, Tensor] = {} if mask is None else {EVERYTHING: mask}
        self.segment: SegmentPass | None = None
        """Memory of the text before, where blocks have one."""
        self.block_masks: dict[AttentionPattern, object] = {}
        """What the flex backend made of the rules, by pattern."""

    @property
    def starts(self) -> Tensor | None:
        """The index at which each token's document begins, (batch, seq); None: every row is one document."""
        return None if self.visibility is None else self.visibility.starts

    @property
    def mask(self) -> Tensor | None:
        """What is added to the scores of a layer that sees everything; None: nothing is hidden but by ``causal``."""
        if EVERYTHING not in self._masks:
            if self.causal or self.visibility is None or self.visibility.free:
                return None
            self.prepare(EVERYTHING)
        return self._masks[EVERYTHING]

    def mask_for(self, pattern: AttentionPattern, query: Tensor) -> Tensor:
        """What is added to the scores of a layer with this pattern; causality is in it.

        Args:
            pattern: the layer's.
            query: (batch, heads, seq, head_dim), for its shape.
        """
        if pattern not in self._masks:
            if self.visibility is None and EVERYTHING in self._masks:
                # A mask that came from outside says the rest; tokens count by their place in the row.
                places = torch.arange(query.shape[2], device=query.device)
                hidden = ~pattern.allows(places.unsqueeze(-1), places)
                self._masks[pattern] = self._masks[EVERYTHING].masked_fill(hidden, float("-inf"))
            else:
                self.rules(query)
                self.prepare(pattern)
        return self._masks[pattern]

    @property
    def has_mask(self) -> bool:
        """Whether a mask has been given or made."""
        return bool(self._masks)

    def prepare(self, pattern: AttentionPattern) -> None:
        """Make the mask of a pattern: once, not once a layer."""
        assert self.visibility is not None
        self._masks[pattern] = self.visibility.mask(pattern)

    def prepare_flex(self, pattern: AttentionPattern) -> None:
        """Make what the flex backend needs for a pattern: once, not once a layer."""
        from llm_trainer.models.flex import block_mask  # imported here because it builds on this module

        assert self.visibility is not None
        self.block_masks[pattern] = block_mask(self.visibility, pattern)

    def rules(self, query: Tensor) -> Visibility:
        """The rules; those of a plain row of this shape when none were given."""
        if self.visibility is None:
            self.visibility = Visibility(query.shape[2], query.device, query.dtype, causal=self.causal)
        return self.visibility

    @property
    def in_blocks(self) -> bool:
        """Whether nothing is to be known but causality, documents and patterns: what our kernel for CPUs knows."""
        if self.visibility is None:
            return EVERYTHING not in self._masks
        return self.visibility.in_blocks

    def by_blocks(self, pattern: AttentionPattern, query: Tensor) -> bool:
        """Whether that kernel can run here and is the fast way for layers with this pattern."""
        if self.visibility is None:
            return query.device.type == "cpu" and self.in_blocks and pattern != EVERYTHING
        return self.visibility.by_blocks(pattern)


@dataclass
class Visibility:
    """The rules of one forward pass, of which every kind of layer gets what it needs."""

    seq: int
    """New tokens per row."""
    device: torch.device
    dtype: torch.dtype
    """Of the queries: what the fused kernels want a mask to have."""
    causal: bool = True
    starts: Tensor | None = None
    """(batch, seq), the index at which each token's document begins; None: every row is one document."""
    attention_mask: Tensor | None = None
    """(batch, seq), 1 for tokens and 0 for padding, on either side."""
    positions: Tensor | None = None
    """(batch or 1, seq), or None for 0, 1, 2... in every row."""
    cache: KVCache | None = None
    """After its ``begin``."""
    slopes: Tensor | None = None
    """(heads,): ALiBi, a penalty by distance."""
    relative: RelativePositionBias | None = None
    """A learned bias by distance."""

    @property
    def in_blocks(self) -> bool:
        """See :meth:`AttentionContext.in_blocks`."""
        return self.attention_mask is None and self._unbiased and not self._continues

    def by_blocks(self, pattern: AttentionPattern) -> bool:
        """See :meth:`AttentionContext.by_blocks`."""
        many_documents = self.starts is not None and self.seq >= DOCUMENTS_BY_BLOCKS
        return self.device.type == "cpu" and self.in_blocks and (pattern != EVERYTHING or many_documents)

    @property
    def free(self) -> bool:
        """Whether a layer without a pattern sees everything there is."""
        if not self._unbiased:
            return False
        if self._continues:
            assert self.positions is not None
            return self.positions.numel() == 1  # one query, after everything in view
        return not self.causal and self.starts is None and self.attention_mask is None

    @property
    def _unbiased(self) -> bool:
        return self.slopes is None and self.relative is None

    @property
    def _continues(self) -> bool:
        """Whether the cache held something before this pass."""
        return self.cache is not None and self.positions is not None

    def mask(self, pattern: AttentionPattern) -> Tensor:
        """Everything as numbers to add to the scores, (batch or 1, heads or 1, query, key)."""
        if self._continues:
            assert self.cache is not None and self.positions is not None
            queries = self.positions.unsqueeze(-1)  # (batch or 1, query, 1)
            keys = self.cache.places(pattern).unsqueeze(-2)  # (batch or 1, 1, key)
            allowed = (keys >= 0) & (keys <= queries) & pattern.allows(queries, keys)
            query_positions, key_positions = self.positions, keys.squeeze(-2)
        else:
            allowed = self._allowed(pattern)
            query_positions = key_positions = self._or_range(self.positions)
        bias = None
        if self.relative is not None:
            bias = self.relative(query_positions, key_positions)
        elif self.slopes is not None:
            bias = alibi_bias(self.slopes, query_positions, key_positions)
            bias = bias if self.causal else -bias.abs()  # what lies ahead is as far away
        return additive_mask(allowed.unsqueeze(1), bias, self.dtype)

    def places(self) -> Tensor:
        """How many tokens of the same text come before each token, (batch or 1, seq), without a cache."""
        if self.attention_mask is None:
            places = self._or_range(None)
            return places if self.starts is None else places - self.starts
        real = self.attention_mask.long()
        places = real.cumsum(dim=1) - 1
        if self.starts is not None:
            places = places - (places - real + 1).gather(1, self.starts)  # without the tokens before its document
        return places.clamp(min=0)

    def _allowed(self, pattern: AttentionPattern) -> Tensor:
        """(batch or 1, query, key), without a cache. Everything may look at itself, padding too: a row of nothing but
        -inf would be NaN after the softmax."""
        allowed = torch.ones(1, self.seq, self.seq, dtype=torch.bool, device=self.device)
        if self.causal:
            allowed = allowed.tril()
        if pattern != EVERYTHING:
            places = self.places()
            allowed = allowed & pattern.allows(places.unsqueeze(2), places.unsqueeze(1))
        if self.starts is not None:
            allowed = allowed & (self.starts.unsqueeze(2) == self.starts.unsqueeze(1))
        if self.attention_mask is not None:
            allowed = allowed & self.attention_mask.bool().unsqueeze(1)
            allowed = allowed | torch.eye(self.seq, dtype=torch.bool, device=self.device)
        return allowed

    def _or_range(self, positions: Tensor | None) -> Tensor:
        return torch.arange(self.seq, device=self.device).unsqueeze(0) if positions is None else positions


def build_context(
    seq: int,
    positions: Tensor | None,
    *,
    document_ids: Tensor | None,
    attention_mask: Tensor | None,
    cache: KVCache | None,
    rotary: RotaryEmbedding | None,
    slopes: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
    causal: bool = True,
    relative: RelativePositionBias | None = None,
    pattern: AttentionPattern | None = None,
    flex: bool = False,
) -> AttentionContext:
    """Choose the cheapest context that says what must be said.

    Args:
        seq: number of new tokens per row.
        positions: (batch or 1, seq), or None for 0, 1, 2... in every row.
        document_ids: (batch, seq), or None; a document is a run of equal ids.
        attention_mask: (batch, seq), or None; not with a cache.
        cache: after its ``begin``.
        rotary: the model's tables, if it has rotary positions.
        slopes: (heads,), if it has ALiBi.
        dtype: of the queries.
        device: of the mask.
        causal: whether a token sees nothing behind itself; an encoder's sees both ways.
        relative: the model's bias by distance, if it has one.
        pattern: of those layers that have one.
        flex: whether the backend is FlexAttention, which takes the rules in a form of its own.
    """
    starts = None if document_ids is None else document_starts(document_ids)
    rules = Visibility(seq, device, dtype, causal, starts, attention_mask, positions, cache, slopes, relative)
    plain = causal and rules.in_blocks and starts is None
    tables = None if rotary is None else rotary(seq, positions, cached=cache is not None)
    context = AttentionContext(causal=plain, rotary=tables, cache=cache, visibility=rules)
    # Made now and not when a layer asks: blocks may be compiled, or computed twice.
    for wanted in (EVERYTHING, *(() if pattern is None else (pattern,))):
        if flex and cache is None:
            context.prepare_flex(wanted)
        elif not (wanted is EVERYTHING and (plain or rules.free)) and not rules.by_blocks(wanted):
            context.prepare(wanted)
    return context


def document_starts(document_ids: Tensor) -> Tensor:
    """The index at which each token's document begins: (batch, seq) -> same. A document is a run of equal ids."""
    index = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return index.masked_fill(~begins, 0).cummax(dim=1).values


def additive_mask(allowed: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Turn permissions into numbers to add to the scores.

    Args:
        allowed: boolean, (batch or 1, 1, query, key).
        bias: by distance, (batch or 1, heads, query, key), or None.
        dtype: of the queries, as the fused kernels demand.
    """
    mask = torch.zeros_like(allowed, dtype=dtype) if bias is None else bias.to(dtype)
    return mask.masked_fill(~allowed, float("-inf"))


def padding_or_none(attention_mask: Tensor | None) -> Tensor | None:
    """None where nothing is padded, which is the fast path. On a GPU, looking would cost a wait."""
    if attention_mask is not None and attention_mask.device.type == "cpu" and bool(attention_mask.all()):
        return None
    return attention_mask


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that queries will have."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
