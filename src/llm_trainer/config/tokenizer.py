"""Which tokenizer, or how to train one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from pydantic import Field

from llm_trainer.config.base import Int, Settings


class TokenizerConfig(Settings):
    """Train a tokenizer on the training text, or load one from a folder."""

    path: str | None = None
    """Folder of a saved tokenizer; nothing is trained then."""
    type: Literal["bpe"] = "bpe"
    """Kind of tokenizer to train."""
    vocab_size: Int | None = Field(None, gt=256)
    """Size to train. Unset: model.vocab_size if given, else derived from the amount of text."""
    pattern: Literal["gpt2", "gpt4", "gpt4-digits3"] = "gpt4"
    """How text is cut into pre-tokens; merges never cross a cut. gpt4 keeps at most two digits together."""
    min_frequency: Int = Field(2, gt=0)
    """Pairs that occur less often are not merged."""
    train_bytes: Int = Field(64_000_000, gt=0)
    """The tokenizer is trained on no more text than this."""

    ALIASES: ClassVar[Mapping[str, str]] = {"tokenizer_path": "path", "name_or_path": "path"}

    def contradictions(self) -> Iterable[str]:
        """A loaded tokenizer has its own size."""
        if self.path is not None and self.vocab_size is not None:
            yield "tokenizer.path loads a tokenizer, so tokenizer.vocab_size cannot be chosen; leave it out"
