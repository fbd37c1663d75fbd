"""How much text there is, in tokens, and how much a model of some size asks for."""

from __future__ import annotations

from dataclasses import dataclass

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.report.html import human_count

TOKENS_PER_PARAMETER = 20
"""Compute-optimal (Hoffmann et al. 2022, Chinchilla, https://arxiv.org/abs/2203.15556, table 3: 20 to 22)."""


@dataclass(frozen=True)
class PublishedModel:
    """What a published model was trained on, as its authors state it."""

    name: str
    parameters: float
    tokens: float
    source: str

    @property
    def tokens_per_parameter(self) -> float:
        """The ratio that compares models of different sizes."""
        return self.tokens / self.parameters


PUBLISHED = (
    PublishedModel("GPT-3", 175e9, 0.3e12, "Brown et al. 2020; 300 B tokens read, out of a collection of 499 B"),
    PublishedModel("Chinchilla", 70e9, 1.4e12, "Hoffmann et al. 2022"),
    PublishedModel("Llama 2", 70e9, 2e12, "Touvron et al. 2023"),
    PublishedModel("Falcon", 180e9, 3.5e12, "Almazrouei et al. 2023"),
)


def tokens_from_bytes(size: float, bytes_per_token: float) -> int:
    """Tokens in a text.

    Args:
        size: bytes of the text as UTF-8.
        bytes_per_token: measured on such text with the tokenizer in question, as the report gives it.

    Raises:
        DataError: the ratio is not above 0.
    """
    if not bytes_per_token > 0:
        raise DataError(f"bytes per token must be above 0, not {bytes_per_token}")
    return round(size / bytes_per_token)


def tokens_for(parameters: float, tokens_per_parameter: float = TOKENS_PER_PARAMETER) -> int:
    """Tokens that a model of that many parameters should see if the arithmetic for its training is to be spent best.

    More tokens than that still make the model better, and a small model that will be used much is worth them.
    """
    return round(parameters * tokens_per_parameter)


def parameters_for(tokens: float, tokens_per_parameter: float = TOKENS_PER_PARAMETER) -> int:
    """The model size that a number of tokens is compute-optimal for."""
    return round(tokens / tokens_per_parameter)


def describe_scale(size: float, bytes_per_token: float) -> str:
    """What an amount of text is enough for, as lines for the terminal.

    Args:
        size: bytes of the text as UTF-8.
        bytes_per_token: measured on it.
    """
    tokens = tokens_from_bytes(size, bytes_per_token)
    lines = [
        f"{tokens:,} tokens of {bytes_per_token:.2f} bytes; at {TOKENS_PER_PARAMETER} tokens per parameter that is "
        f"compute-optimal for {human_count(parameters_for(tokens))} parameters",
        f"{'published model':<16} {'parameters':>10} {'tokens':>8} {'ratio':>6}",
    ]
    lines += [
        f"{model.name:<16} {human_count(model.parameters):>10} {human_count(model.tokens):>8} "
        f"{model.tokens_per_parameter:>6.1f}"
        for model in PUBLISHED
    ]
    return "\n".join(lines)
