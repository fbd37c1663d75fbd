"""Personal data and secrets: found by pattern, confirmed by validator, replaced by a placeholder."""

from __future__ import annotations

from llm_trainer.corpus.privacy.redaction import KINDS, Redaction

__all__ = ["KINDS", "Redaction"]
