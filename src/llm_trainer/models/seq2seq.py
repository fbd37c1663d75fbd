"""Encoder-decoder models: an encoder reads the source both ways, a decoder writes the answer and looks at the source
(the 2017 transformer: https://arxiv.org/abs/1706.03762; T5: https://arxiv.org/abs/1910.10683)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.config import ModelConfig

# Imported for what they register: the components that configurations name by default.
from llm_trainer.models import attention, block  # noqa: F401
from llm_trainer.models.base import BaseLanguageModel, LMOutput
from llm_trainer.models.context import compute_dtype, padding_or_none
from llm_trainer.models.cross_attention import CrossAttentionBlock, DecoderContext, Memory, SourceCache
from llm_trainer.models.encoder import IGNORE_INDEX, mean_cross_entropy
from llm_trainer.models.initialisation import draw_weights
from llm_trainer.models.kv_cache import KVCache
from llm_trainer.models.positions import embed
from llm_trainer.models.registry import lookup, supports_cache
from llm_trainer.models.stack import Stack, positions_of

S = TypeVar("S", bound="EncoderDecoderLM")


class EncoderDecoderLM(BaseLanguageModel):
    """Two stacks over one token embedding, and an output layer.

    The decoder sees its own past (causal), and in the sublayer after it the *whole* source. A causal mask on
    cross-attention, which some descriptions ask for, would be an error: nothing of the source is in the future.

    Args:
        config: of family ``encoder_decoder``. Without ``n_encoder_layers`` the stacks are equally deep.

    Raises:
        ConfigError: of another family, or with a block of its own: the decoder needs one with cross-attention.

    Example:
        >>> from llm_trainer.config import ModelConfig
        >>> config = ModelConfig(family="encoder_decoder", vocab_size=100, d_model=32, n_heads=4, n_layers=2)
        >>> model = EncoderDecoderLM(config)
        >>> model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[8, 9]])).logits.shape
        torch.Size([1, 2, 100])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        problems = []
        if config.family != "encoder_decoder":
            problems.append(f"model.family: EncoderDecoderLM is an encoder_decoder, not a {config.family}")
        if config.block != "transformer":
            problems.append(f"model.block: {config.block!r} has no cross-attention; use transformer")
        if problems:
            raise ConfigError(problems)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, config.encoder_layers, lookup("block", config.block), causal=False)
        self.decoder = Stack(config, config.n_layers, CrossAttentionBlock, causal=True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._tie()
        self.init_weights()

    def _tie(self) -> None:
        if self.config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EncoderDecoderLM:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Giving memory to a model on the meta device makes two matrices of a shared one.
        self._tie()
        return self

    @property
    def blocks(self) -> nn.ModuleList:
        """All blocks of both stacks, for what is applied to each (compilation, recomputed activations)."""
        return nn.ModuleList([*self.encoder.blocks, *self.decoder.blocks])

    @property
    def supports_cache(self) -> bool:
        """Whether every block of the decoder can read one token at a time, with the others in a cache."""
        return all(map(supports_cache, self.decoder.blocks))

    def init_weights(self) -> None:
        """Draw fresh weights."""
        draw_weights(self, self.config)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        decoder_input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> LMOutput | tuple[Tensor, ...]:
        """Predict each token of the answer from those before it and the source.

        Args:
            input_ids: (batch, source).
            labels: (batch, target), the answer; -100 does not count. Position t predicts label t: what the decoder
                reads is the same moved one to the right, after ``decoder_start_token_id`` (teacher forcing).
            decoder_input_ids: (batch, target), what the decoder reads; left out, made from ``labels``.
            attention_mask: (batch, source), 1 for tokens and 0 for padding.
            decoder_attention_mask: the same of the decoder; padding on the right needs none.
            return_dict: if false, the result is a tuple (loss if any, logits).

        Raises:
            UserError: neither labels nor decoder_input_ids, more tokens than positions, or an id outside the
                vocabulary.
        """
        if decoder_input_ids is None:
            if labels is None:
                raise UserError("an encoder-decoder needs an answer to read", hint="give labels or decoder_input_ids")
            decoder_input_ids = shifted_right(labels, self.config.decoder_start_token_id)
        memory = self.encode(input_ids, attention_mask)
        hidden = self.hidden_states(decoder_input_ids, memory=memory, attention_mask=decoder_attention_mask)
        logits = self.logits_from(hidden)  # (batch, target, vocab)
        loss = None if labels is None else mean_cross_entropy(logits, labels)
        output = LMOutput(loss=loss, logits=logits, hidden_states=hidden)
        return output if return_dict else output.to_tuple()

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Memory:
        """Read the source, (batch, source), with 1 for tokens and 0 for padding in the mask."""
        attention_mask = padding_or_none(attention_mask)
        stack = self.encoder
        stack.check_length(input_ids.shape[1])
        positions = positions_of(attention_mask)
        x = stack.enter(embed(self.embed_tokens, input_ids), positions)
        context = stack.context(x, positions, attention_mask=attention_mask)
        for layer in stack.blocks:
            x = layer(x, context)
        return Memory(stack.final_norm(x), attention_mask)

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        memory: Memory | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """What the output layer gets, (batch, target, d_model).

        Args:
            input_ids: (batch, target), what the decoder reads.
            memory: of :meth:`encode`.
            position_ids: (batch, target); 0, 1, 2... when left out, or from where the cache ends.
            attention_mask: (batch, target); not with a cache.
            cache: of :meth:`make_cache`.
        """
        if memory is None:
            raise UserError("the decoder needs a source to look at", hint="pass memory=model.encode(source_ids)")
        stack = self.decoder
        attention_mask = padding_or_none(attention_mask)
        seq = input_ids.shape[1]
        if position_ids is None:
            stack.check_length(seq if cache is None else cache.length + seq)
        positions = position_ids
        if cache is not None:
            positions = cache.begin(seq, position_ids)
        elif position_ids is None:
            positions = positions_of(attention_mask)
        x = stack.enter(embed(self.embed_tokens, input_ids), positions)
        own = stack.context(x, positions, attention_mask=attention_mask, cache=cache)
        kept = cache.known_sources() if isinstance(cache, SourceCache) else None
        context = DecoderContext(own, memory, compute_dtype(x), kept)
        for layer in stack.blocks:
            x = layer(x, context)
        result: Tensor = stack.final_norm(x)
        return result

    def make_cache(
        self, batch_size: int, max_length: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> SourceCache:
        """An empty cache for the decoder's keys and values, and for those of the source."""
        return SourceCache(self.config, batch_size, max_length, dtype=dtype, device=device)

    def flops_per_token(self, seq_len: int) -> int:
        """As in :class:`BaseLanguageModel`, per token of source and target together, both ``seq_len`` long.

        Source tokens pass the encoder (and the cross-attention's keys and values), target tokens the rest: half each.
        """
        weights = sum(module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear))
        layers = self.config.encoder_layers + 2 * self.config.n_layers  # a decoder layer attends twice
        attention_width = self.config.n_heads * self.config.head_dim
        return (6 * weights + 12 * layers * attention_width * seq_len) // 2

    @classmethod
    def from_pretrained(
        cls: type[S], folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> S:
        """Load a model of ours, or a T5 that transformers saved.

        Args and errors are those of :meth:`BaseLanguageModel.from_pretrained`.
        """
        # Imported here because interop builds this class.
        from llm_trainer.models.interop import is_hf_folder, load_hf

        if is_hf_folder(folder):
            return load_hf(folder, model_class=cls).to(device=device, dtype=dtype).eval()
        return super().from_pretrained(folder, device=device, dtype=dtype)

    def generate(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        """Write an answer to each source, with the arguments of ``transformers``' ``generate``.

        Args:
            input_ids: (batch, source).
            **kwargs: see :func:`llm_trainer.generation.generator.generate_ids`.

        Returns:
            (batch, 1 + new): the answers, each after ``decoder_start_token_id``.
        """
        return super().generate(input_ids, **kwargs)


def shifted_right(labels: Tensor, start: int) -> Tensor:
    """What a decoder reads while it learns to write ``labels``, (batch, target): ``start``, then all but the last.

    Positions of -100 become ``start``; they come after everything that counts.
    """
    shifted = labels.roll(1, dims=1)
    shifted[:, :1] = start
    return shifted.masked_fill(shifted == IGNORE_INDEX, start)
