"""Encoders that give labels: one to each text, or one to each token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.config import ModelConfig
from llm_trainer.models.base import LMOutput
from llm_trainer.models.encoder import EncoderModel, mean_cross_entropy


class Pooler(nn.Module):
    """A text as one vector: its first token through a dense layer and tanh (BERT puts ``[CLS]`` there)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(batch, seq, d_model) -> (batch, d_model).

        Args:
            hidden: of the encoder.
            attention_mask: (batch, seq); the first token is the first one that it does not call padding.

        Raises:
            UserError: there are no tokens.
        """
        if not hidden.shape[1]:
            raise UserError(
                "a text without tokens has no label", hint="give a text, or a tokenizer with a token where texts begin"
            )
        if attention_mask is None:
            first = hidden[:, 0]
        else:
            rows = torch.arange(hidden.shape[0], device=hidden.device)
            first = hidden[rows, attention_mask.long().argmax(dim=1)]
        return torch.tanh(self.dense(first))


class _Classifier(EncoderModel):
    head: str

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if config.head != self.head or config.labels is None:
            raise ConfigError([f"model.head: {type(self).__name__} needs head {self.head!r} and labels"])
        self.dropout = nn.Dropout(config.residual_dropout)
        self.classifier = nn.Linear(config.d_model, len(config.labels))

    @property
    def label_names(self) -> list[str]:
        """What the columns of the logits mean."""
        return list(self.config.labels or ())


class SequenceClassifier(_Classifier):
    """An encoder that says which of several labels a text has.

    Args:
        config: of family ``encoder`` with head ``sequence`` and ``labels``.
    """

    head = "sequence"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(config)
        self.init_weights()

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, *, return_dict: bool = True, **inputs: Any
    ) -> LMOutput | tuple[Tensor, ...]:
        """Score the labels.

        Args:
            input_ids: (batch, seq).
            labels: (batch,), the right ones; -100 does not count.
            return_dict: if false, the result is a tuple (loss if any, logits).
            **inputs: as in :meth:`EncoderLM.forward`.

        Returns:
            Logits, (batch, labels), and the mean loss if there are labels.
        """
        hidden = self.hidden_states(input_ids, **inputs)
        pooled = self.pooler(hidden, inputs.get("attention_mask"))
        logits = self.classifier(self.dropout(pooled))  # (batch, labels)
        loss = None if labels is None else mean_cross_entropy(logits, labels)
        output = LMOutput(loss=loss, logits=logits, hidden_states=hidden)
        return output if return_dict else output.to_tuple()


class TokenClassifier(_Classifier):
    """An encoder that gives each token a label: parts of speech, names of people and places.

    Args:
        config: of family ``encoder`` with head ``tokens`` and ``labels``.
    """

    head = "tokens"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.init_weights()

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, *, return_dict: bool = True, **inputs: Any
    ) -> LMOutput | tuple[Tensor, ...]:
        """Score the labels of each token: logits are (batch, seq, labels), ``labels`` (batch, seq); see above."""
        hidden = self.hidden_states(input_ids, **inputs)
        logits = self.classifier(self.dropout(hidden))  # (batch, seq, labels)
        loss = None if labels is None else mean_cross_entropy(logits, labels)
        output = LMOutput(loss=loss, logits=logits, hidden_states=hidden)
        return output if return_dict else output.to_tuple()
