"""A decoder-only language model: GPT-2, Llama, Qwen3 and what lies between them, by configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.config import ModelConfig

# Imported for what they register: the components that configurations name by default.
from llm_trainer.models import attention, block, layers, moe  # noqa: F401
from llm_trainer.models.base import BaseLanguageModel, LMOutput
from llm_trainer.models.context import AttentionContext, padding_or_none
from llm_trainer.models.initialisation import draw_weights
from llm_trainer.models.kv_cache import KVCache
from llm_trainer.models.layers import build_norm
from llm_trainer.models.memory import SegmentMemory, SegmentPass, newest
from llm_trainer.models.positions import HasPositions, embed
from llm_trainer.models.registry import lookup, supports_cache
from llm_trainer.models.shortcuts import ResidualShortcuts
from llm_trainer.models.tables import BigramEmbedding, ValueEmbedding, previous_tokens

IGNORE_INDEX = -100
T = TypeVar("T", bound="TransformerLM")


class TransformerLM(HasPositions, BaseLanguageModel):
    """A stack of blocks between a token embedding and an output layer.

    Args:
        config: the shape and the components.

    Raises:
        ConfigError: the configuration contradicts itself, or names a component that is not registered.

    Example:
        >>> from llm_trainer.config import ModelConfig
        >>> model = TransformerLM(ModelConfig(vocab_size=100, d_model=32, n_heads=4, n_layers=2))
        >>> model(torch.tensor([[1, 2, 3]])).logits.shape
        torch.Size([1, 3, 100])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if config.family != "decoder":
            raise ConfigError([f"model.family: TransformerLM is a decoder, not an {config.family}; use build_model"])
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.add_positions(config, causal=True)
        rows = config.bigram_embedding
        self.bigram_embedding = None if rows is None else BigramEmbedding(rows, config.d_model)
        self.embedding_norm = build_norm(config) if config.embedding_norm else None
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.segment_length = config.segment
        build_block = lookup("block", config.block if config.segment is None else "segment_transformer")
        self.blocks = nn.ModuleList(build_block(config, index) for index in range(config.n_layers))
        self.shortcuts = ResidualShortcuts(config.n_layers) if config.residual_shortcuts else None
        if config.value_embeddings and not any(isinstance(module, ValueEmbedding) for module in self.modules()):
            raise ConfigError(
                [f"value_embeddings: attention {config.attention!r} in block {config.block!r} has none; use mha"]
            )
        if self.pattern is not None and not any(getattr(module, "pattern", None) for module in self.blocks.modules()):
            name = "sliding_window" if config.sliding_window else "sparse_block"
            raise ConfigError([f"{name}: attention {config.attention!r} in block {config.block!r} has none; use mha"])
        # A post-norm block ends with a normalisation already.
        self.final_norm = build_norm(config) if config.pre_norm else nn.Identity()
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._tie()
        self.init_weights()

    @property
    def supports_cache(self) -> bool:
        """Whether every block can read one token at a time, with the others in a cache."""
        return all(map(supports_cache, self.blocks))

    def _tie(self) -> None:
        if self.config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TransformerLM:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Giving memory to a model on the meta device makes two matrices of a shared one.
        self._tie()
        return self

    def extra_repr(self) -> str:
        """What ``print(model)`` shows before the parts."""
        # Imported here because interop builds this class.
        from llm_trainer.models.interop import export_statement

        return f"{self.num_parameters():,} parameters\n{export_statement(self.config)}"

    def init_weights(self) -> None:
        """Draw fresh weights."""
        draw_weights(self, self.config)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        return_dict: bool = True,
    ) -> LMOutput | tuple[Tensor, ...]:
        """Predict each next token.

        Args:
            input_ids: (batch, seq).
            labels: (batch, seq), not shifted: logits at t are compared with the label at t + 1; -100 does not count.
            position_ids: (batch, seq). Left out: 0, 1, 2..., counted from the first token that is not padding, or
                from where the cache ends.
            document_ids: (batch, seq); tokens of different documents, that is runs of equal ids, never see each other.
            attention_mask: (batch, seq), 1 for tokens and 0 for padding, on either side.
            cache: keys and values of earlier tokens; new ones are stored at the slots ``position_ids``, and a query
                at position p sees slots 0..p.
            return_dict: if false, the result is a tuple (loss if any, logits).

        Raises:
            UserError: a sequence or position beyond ``max_seq_len``, or a token id beyond the vocabulary.
        """
        hidden = self.hidden_states(
            input_ids,
            position_ids=position_ids,
            document_ids=document_ids,
            attention_mask=attention_mask,
            cache=cache,
        )  # (batch, seq, d_model)
        logits = self.logits_from(hidden)  # (batch, seq, vocab)
        loss = None if labels is None else next_token_loss(logits, labels)
        output = LMOutput(loss=loss, logits=logits, hidden_states=hidden)
        return output if return_dict else output.to_tuple()

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """What the output layer gets, (batch, seq, d_model); the arguments are those of :meth:`forward`."""
        attention_mask = padding_or_none(attention_mask)
        if self.segment_length is not None and cache is None:
            return self.read_segments(input_ids, document_ids=document_ids, attention_mask=attention_mask)[0]
        if cache is not None and not self.supports_cache:
            raise UserError(
                f"attention {self.config.attention!r} in block {self.config.block!r} keeps nothing in a cache",
                hint="read the whole text at once, as generation does with use_cache=False",
            )
        if cache is not None and (attention_mask is not None or document_ids is not None):
            raise UserError(
                "a cache goes with position_ids, not with attention_mask or document_ids",
                hint="pad prompts on the right and give each token its position",
            )
        seq = input_ids.shape[1]
        if position_ids is None:
            self.check_length(seq if cache is None else cache.length + seq)
        positions = position_ids
        if cache is not None:
            positions = cache.begin(seq, position_ids)
        elif attention_mask is not None and position_ids is None:
            positions = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        previous = None
        if self.bigram_embedding is not None and cache is not None:
            previous = cache.previous_tokens(input_ids)
        elif self.bigram_embedding is not None:
            previous = previous_tokens(input_ids, positions, document_ids, attention_mask)
        x = self._embed(input_ids, positions, previous)
        return self._through_blocks(x, self._context(input_ids, x, positions, document_ids, attention_mask, cache))

    def read_segments(
        self,
        input_ids: Tensor,
        memory: SegmentMemory | None = None,
        *,
        document_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, SegmentMemory]:
        """Read a text of any length in segments, from where another call ended.

        Args:
            input_ids: (batch, seq), the text that follows.
            memory: what the call before gave back; None at the beginning.
            document_ids: (batch, seq); tokens of different documents never see each other. A document that began in an
                earlier call keeps its id. Left out: all are of document 0.
            attention_mask: (batch, seq), 1 for tokens and 0 for padding: short for documents 1 and 0.

        Returns:
            The last hidden states, (batch, seq, d_model), and the memory for what follows.

        Raises:
            UserError: the model reads texts whole.
        """
        if self.segment_length is None:
            raise UserError("this model reads texts whole", hint="build one with memory_length, or segment_length")
        if document_ids is None and attention_mask is not None:
            document_ids = attention_mask.long()
        hidden = []
        for start in range(0, max(1, input_ids.shape[1]), self.segment_length):
            segment = slice(start, start + self.segment_length)
            documents = None if document_ids is None else document_ids[:, segment]
            part, memory = self._read_segment(input_ids[:, segment], documents, memory)
            hidden.append(part)
        assert memory is not None
        return torch.cat(hidden, dim=1), memory

    def _read_segment(
        self, input_ids: Tensor, document_ids: Tensor | None, memory: SegmentMemory | None
    ) -> tuple[Tensor, SegmentMemory]:
        """One segment, (batch, seq); the same results as :meth:`read_segments`."""
        seq = input_ids.shape[1]
        if memory is not None:
            document_ids = memory.documents_and(document_ids, input_ids)  # (batch, kept + seq), or None
            input_ids = torch.cat([memory.token_ids, input_ids], dim=1)  # (batch, kept + seq)
        previous = None
        if self.bigram_embedding is not None:
            previous = newest(previous_tokens(input_ids, None, document_ids, None), seq)
        x = self._embed(newest(input_ids, seq), None, previous)
        context = self._context(input_ids, x, None, document_ids)
        context.segment = SegmentPass(memory, len(self.blocks), self.config.memory_length)
        hidden = self._through_blocks(x, context)
        return hidden, context.segment.result(input_ids, document_ids)

    @classmethod
    def from_pretrained(
        cls: type[T], folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> T:
        """Load a model of ours, or one that transformers saved in a layout we know (GPT-2, Llama, Qwen3).

        Args and errors are those of :meth:`BaseLanguageModel.from_pretrained`.
        """
        folder = Path(folder)
        # Imported here because interop builds this class.
        from llm_trainer.models.interop import is_hf_folder, load_hf

        if is_hf_folder(folder):
            return load_hf(folder, model_class=cls).to(device=device, dtype=dtype).eval()
        return super().from_pretrained(folder, device=device, dtype=dtype)

    def _context(
        self,
        input_ids: Tensor,
        x: Tensor,
        positions: Tensor | None,
        document_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> AttentionContext:
        """What every layer needs to know of ``input_ids``, (batch, seq); x, embedded tokens, lends dtype and device."""
        seq = input_ids.shape[1]
        context = self.context(
            x, positions, seq=seq, attention_mask=attention_mask, document_ids=document_ids, cache=cache
        )
        context.token_ids = input_ids
        return context

    def _through_blocks(self, x: Tensor, context: AttentionContext) -> Tensor:
        """Embedded tokens to last hidden states, (batch, seq, d_model)."""
        x0 = x
        for index, layer in enumerate(self.blocks):
            if self.shortcuts is not None:
                x = self.shortcuts(index, x, x0)
            x = layer(x, context)
        result: Tensor = self.final_norm(x)
        return result

    def _embed(self, input_ids: Tensor, positions: Tensor | None, previous: Tensor | None) -> Tensor:
        """(batch, seq) -> (batch, seq, d_model)."""
        x = self.place(embed(self.embed_tokens, input_ids), positions)
        if self.bigram_embedding is not None:
            x = x + self.bigram_embedding(input_ids, previous)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        result: Tensor = self.embedding_dropout(x)
        return result


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits at t against the label at t + 1, in nats.

    Args:
        logits: (batch, seq, vocab).
        labels: (batch, seq); -100 does not count. If nothing counts, the loss is 0, and so is its gradient.
    """
    # The labels move, not the logits: moving those would copy (batch x seq x vocab) numbers.
    targets = F.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]  # (batch, seq)
    total = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (targets != IGNORE_INDEX).sum().clamp(min=1)
