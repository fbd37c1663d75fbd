"""Encoders: every token sees every other, before it and after it (BERT: Devlin et al. 2018,
https://arxiv.org/abs/1810.04805). They are for understanding text: filling gaps, labelling texts, labelling words."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.config import ModelConfig

# Imported for what they register: the components that configurations name by default.
from llm_trainer.models import attention, block  # noqa: F401
from llm_trainer.models.base import BaseLanguageModel, LMOutput
from llm_trainer.models.context import padding_or_none
from llm_trainer.models.initialisation import draw_weights
from llm_trainer.models.layers import ACTIVATIONS, GATES, build_norm
from llm_trainer.models.positions import embed
from llm_trainer.models.registry import lookup
from llm_trainer.models.stack import Stack, positions_of

IGNORE_INDEX = -100
E = TypeVar("E", bound="EncoderModel")


class TransformerEncoder(nn.Module):
    """Token embedding, token types and a stack of blocks that look both ways: what every encoder model is built on.

    Args:
        config: the shape and the components.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        types = config.token_types
        self.token_type_embedding = nn.Embedding(types, config.d_model) if types else None
        self.stack = Stack(config, config.n_layers, lookup("block", config.block), causal=False)

    def forward(
        self,
        input_ids: Tensor,
        *,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """(batch, seq) -> (batch, seq, d_model); the arguments are those of :meth:`EncoderLM.forward`."""
        attention_mask = padding_or_none(attention_mask)
        if position_ids is None:
            self.stack.check_length(input_ids.shape[1])
        positions = positions_of(attention_mask) if position_ids is None else position_ids
        x = embed(self.embed_tokens, input_ids)
        if self.token_type_embedding is not None:
            # Type 0 where nothing is said, as in transformers.
            types = self.token_type_embedding.weight[0] if token_type_ids is None else None
            x = x + (self.token_type_embedding(token_type_ids) if types is None else types)
        elif token_type_ids is not None:
            raise UserError("this model has no token types", hint="set model.token_types, or leave token_type_ids out")
        x = self.stack.enter(x, positions)
        context = self.stack.context(x, positions, attention_mask=attention_mask, document_ids=document_ids)
        for layer in self.stack.blocks:
            x = layer(x, context)
        result: Tensor = self.stack.final_norm(x)
        return result


class EncoderModel(BaseLanguageModel):
    """What encoder models share; the subclasses differ in what they put on top of :attr:`encoder`.

    Args:
        config: of family ``encoder``.

    Raises:
        ConfigError: of another family, or the components do not fit.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if config.family != "encoder":
            raise ConfigError([f"model.family: {type(self).__name__} is an encoder, not a {config.family}"])
        self.encoder = TransformerEncoder(config)

    @property
    def blocks(self) -> nn.ModuleList:
        """All blocks, for what is applied to each (compilation, recomputed activations)."""
        return self.encoder.stack.blocks

    @abstractmethod
    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **inputs: Any) -> LMOutput | tuple[Tensor, ...]:
        """Logits, and the loss if there are labels."""

    def hidden_states(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        """The last hidden states, (batch, seq, d_model); the arguments are those of :meth:`EncoderLM.forward`."""
        hidden: Tensor = self.encoder(input_ids, **inputs)
        return hidden

    def init_weights(self) -> None:
        """Draw fresh weights."""
        draw_weights(self, self.config)

    @classmethod
    def from_pretrained(
        cls: type[E], folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> E:
        """Load a model of ours, or a BERT that transformers saved.

        Args and errors are those of :meth:`BaseLanguageModel.from_pretrained`.
        """
        # Imported here because interop builds this class.
        from llm_trainer.models.interop import is_hf_folder, load_hf

        if is_hf_folder(folder):
            return load_hf(folder, model_class=cls).to(device=device, dtype=dtype).eval()
        return super().from_pretrained(folder, device=device, dtype=dtype)


class EncoderLM(EncoderModel):
    """An encoder that predicts the tokens at gaps in a text (masked language model).

    Args:
        config: of family ``encoder`` with head ``lm``.

    Example:
        >>> from llm_trainer.config import ModelConfig
        >>> model = EncoderLM(ModelConfig(family="encoder", vocab_size=100, d_model=32, n_heads=4, n_layers=2))
        >>> model(torch.tensor([[1, 2, 3]])).logits.shape
        torch.Size([1, 3, 100])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if config.head != "lm":
            raise ConfigError([f"model.head: EncoderLM predicts tokens; {config.head!r} gives labels"])
        self.transform = MaskTransform(config) if config.head_transform else None
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=config.head_transform)
        self._tie()
        self.init_weights()

    def _tie(self) -> None:
        if self.config.tie_embeddings:
            self.lm_head.weight = self.encoder.embed_tokens.weight

    def _apply(self, fn: Any, recurse: bool = True) -> EncoderLM:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Giving memory to a model on the meta device makes two matrices of a shared one.
        self._tie()
        return self

    def before_head(self, hidden: Tensor) -> Tensor:
        """BERT's layer between encoder and output layer, (..., d_model) -> same shape."""
        return super().before_head(hidden if self.transform is None else self.transform(hidden))

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, *, return_dict: bool = True, **inputs: Any
    ) -> LMOutput | tuple[Tensor, ...]:
        """Predict the token at each position from all others.

        Args:
            input_ids: (batch, seq), with the mask token where something is to be guessed.
            labels: (batch, seq), what stands there; -100 does not count. Not shifted: position t predicts label t.
            return_dict: if false, the result is a tuple (loss if any, logits).
            **inputs: ``token_type_ids`` (batch, seq), which segment each token is of; ``position_ids`` (batch, seq);
                ``document_ids`` (batch, seq), tokens of different documents never see each other; ``attention_mask``
                (batch, seq), 1 for tokens and 0 for padding.

        Raises:
            UserError: more tokens than positions, or a token id beyond the vocabulary.
        """
        hidden = self.hidden_states(input_ids, **inputs)
        logits = self.logits_from(hidden)  # (batch, seq, vocab)
        loss = None if labels is None else mean_cross_entropy(logits, labels)
        output = LMOutput(loss=loss, logits=logits, hidden_states=hidden)
        return output if return_dict else output.to_tuple()


class MaskTransform(nn.Module):
    """Dense layer, activation, norm: BERT's ``cls.predictions.transform``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model, bias=config.bias)
        self.activation = {**ACTIVATIONS, **GATES}[config.activation]
        self.norm = build_norm(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., d_model) -> same shape."""
        result: Tensor = self.norm(self.activation(self.dense(hidden)))
        return result


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits, (..., classes), against labels, (...); -100 does not count.

    If nothing counts, the loss is 0, and so is its gradient.
    """
    flat = labels.flatten()
    total = F.cross_entropy(logits.float().flatten(0, -2), flat, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (flat != IGNORE_INDEX).sum().clamp(min=1)
