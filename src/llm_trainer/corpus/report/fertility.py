"""What a tokenizer costs in each language: few bytes per token mean long sequences, less context and slower training.

A vocabulary that was learned from English spells other scripts byte by byte; people who write them pay several times
as much for the same text (Petrov et al. 2023, https://arxiv.org/abs/2305.15425). One that is trained on text of the
language in question does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llm_trainer.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class TokenizerCost:
    """Sizes of the texts of one language.

    Attributes:
        language: name or code.
        bytes: as UTF-8.
        characters, tokens: of the same texts.
        exact: whether every text came back from its tokens as it was.
    """

    language: str
    bytes: int
    characters: int
    tokens: int
    exact: bool

    @property
    def bytes_per_token(self) -> float:
        """1 is the worst that a byte-level tokenizer can do."""
        return self.bytes / self.tokens if self.tokens else 0.0

    @property
    def characters_per_token(self) -> float:
        """Compares scripts, whose characters have from one byte to four."""
        return self.characters / self.tokens if self.tokens else 0.0


def tokenizer_costs(tokenizer: Tokenizer, texts: Mapping[str, Iterable[str]]) -> list[TokenizerCost]:
    """Measure a tokenizer on texts of several languages.

    Args:
        tokenizer: to measure.
        texts: language -> texts in it.

    Returns:
        One entry for each language, the fewest characters per token first.
    """
    costs = []
    for language, samples in texts.items():
        size = characters = tokens = 0
        exact = True
        for text in samples:
            ids = tokenizer.encode(text)
            size += len(text.encode("utf-8"))
            characters += len(text)
            tokens += len(ids)
            exact = exact and tokenizer.decode(ids) == text
        costs.append(TokenizerCost(language, size, characters, tokens, exact))
    return sorted(costs, key=lambda cost: (cost.characters_per_token, cost.language))


def describe_costs(costs: Iterable[TokenizerCost]) -> str:
    """The measurement as a table for the terminal."""
    rows = list(costs)
    width = max([len("language"), *(len(cost.language) for cost in rows)])
    lines = [f"{'language':{width}} {'bytes':>12} {'tokens':>12} {'bytes/token':>12} {'chars/token':>12}  round trip"]
    lines += [
        f"{cost.language:{width}} {cost.bytes:>12,} {cost.tokens:>12,} {cost.bytes_per_token:>12.2f} "
        f"{cost.characters_per_token:>12.2f}  {'exact' if cost.exact else 'not exact'}"
        for cost in rows
    ]
    return "\n".join(lines)
