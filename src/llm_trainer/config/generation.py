"""How text is generated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from pydantic import Field

from llm_trainer.config.base import Int, Settings


class GenerationConfig(Settings):
    """Sampling, greedy decoding or beam search.

    Example:
        >>> GenerationConfig(num_beams=5, temperature=1.0).uses_beams
        True
    """

    max_new_tokens: Int = Field(128, gt=0)
    """Tokens to add to the prompt."""
    max_length: Int | None = Field(None, gt=0)
    """Limit on prompt plus new tokens; wins over max_new_tokens when set."""
    temperature: float = Field(1.0, ge=0, le=2)
    """0 takes the most likely token; higher is more varied."""
    top_k: Int | None = Field(None, ge=0)
    """Sample among the k most likely tokens (unset or 0: all)."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Sample from the smallest set of tokens whose probability reaches p."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Sample among tokens at least this fraction as likely as the most likely one."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Above 1: tokens that occurred become less likely."""
    do_sample: bool = True
    """False: greedy decoding."""
    num_beams: Int = Field(1, gt=0)
    """More than 1: beam search, without sampling."""
    length_penalty: float = 1.0
    """Beam scores are divided by length to this power."""
    early_stopping: bool = True
    """Beam search ends as soon as num_beams texts are finished."""
    num_return_sequences: Int = Field(1, gt=0)
    """Texts per prompt."""
    stop: list[str] = []
    """Generation ends before any of these strings."""
    seed: Int | None = None
    """Same seed, same text."""
    use_cache: bool = True
    """Keep keys and values of earlier tokens; false recomputes them (same text, slower)."""
    eos_token_id: Int | None = Field(None, ge=0)
    """Unset: the tokenizer's."""
    pad_token_id: Int | None = Field(None, ge=0)
    """Unset: the tokenizer's."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("max_tokens", "n_predict"), "max_new_tokens"),
        **dict.fromkeys(("stop_strings", "stop_sequences"), "stop"),
        "beams": "num_beams",
    }

    @property
    def uses_beams(self) -> bool:
        """Whether this is beam search."""
        return self.num_beams > 1

    @property
    def greedy(self) -> bool:
        """Whether every step takes the most likely token."""
        return not self.uses_beams and (not self.do_sample or self.temperature == 0)

    def contradictions(self) -> Iterable[str]:
        """Beam search cannot return more texts than it has beams."""
        if self.uses_beams and self.num_return_sequences > self.num_beams:
            yield (
                f"num_return_sequences ({self.num_return_sequences}) must not exceed num_beams ({self.num_beams}): "
                "beam search keeps num_beams texts"
            )
