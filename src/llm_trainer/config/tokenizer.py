"""Which tokenizer, or how to train one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from pydantic import Field

from llm_trainer.config.base import Int, Settings

_MEANT_FOR = {
    "pattern": ("bpe", "unigram"),
    "digits": ("bpe",),
    "min_frequency": ("bpe", "wordpiece"),
    "lowercase": ("wordpiece",),
    "byte_fallback": ("unigram",),
}


class TokenizerConfig(Settings):
    """Train a tokenizer on the training text, or load one from a folder."""

    path: str | None = None
    """Folder of a saved tokenizer; nothing is trained then."""
    type: Literal["bpe", "wordpiece", "unigram"] = "bpe"
    """Kind of tokenizer to train. bpe and unigram give text back exactly; wordpiece, for encoders, does not."""
    vocab_size: Int | None = Field(None, gt=256)
    """Size to train. Unset: model.vocab_size if given, else derived from the amount of text."""
    pattern: Literal["gpt2", "gpt4", "gpt4-digits3"] = "gpt4"
    """How text is cut into pre-tokens (bpe, unigram); tokens cross no cut. gpt4 keeps at most two digits together."""
    digits: Literal[1, 2, 3, "none"] | None = None
    """At most so many digits in one token (bpe); none: no limit. Unset: the rule of the pattern, 2 for gpt4."""
    min_frequency: Int = Field(2, gt=0)
    """Pairs that occur less often are not merged (bpe, wordpiece)."""
    lowercase: bool = True
    """Make letters small and take accents off (wordpiece)."""
    byte_fallback: bool = True
    """Spell unknown characters in bytes; otherwise they become <unk> (unigram)."""
    train_bytes: Int = Field(64_000_000, gt=0)
    """The tokenizer is trained on no more text than this."""

    ALIASES: ClassVar[Mapping[str, str]] = {"tokenizer_path": "path", "name_or_path": "path"}

    def contradictions(self) -> Iterable[str]:
        """A loaded tokenizer has its own size, and not every setting means something to every kind."""
        if self.path is not None and self.vocab_size is not None:
            yield "tokenizer.path loads a tokenizer, so tokenizer.vocab_size cannot be chosen; leave it out"
        for name, kinds in _MEANT_FOR.items():
            # A run's saved configuration names every setting, so defaults say nothing about what a person meant.
            if self.type not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                yield f"tokenizer.{name} means nothing to a tokenizer of type {self.type}; leave it out"
