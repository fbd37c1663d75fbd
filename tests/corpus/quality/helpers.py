"""What several of these tests do: tag texts with a filter, clean a text with a cleaner."""

from __future__ import annotations

from collections import Counter
from typing import Any

from llm_trainer.corpus.cleaning.base import Cleaner
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.filters.base import Batch, Filter


def tagged(rule: Filter, *texts: str, **metadata: Any) -> list[dict[str, Any]]:
    tags: list[dict[str, Any]] = [{} for _ in texts]
    rule.tag(Batch([Document(text, str(number), "", metadata) for number, text in enumerate(texts)]), tags)
    return tags


def reasons(rule: Filter, text: str, **metadata: Any) -> list[str]:
    return list(rule.reasons(tagged(rule, text, **metadata)[0]))


def clean(cleaner: Cleaner, text: str, counts: Counter[str] | None = None, **metadata: Any) -> str:
    return cleaner.clean(Document(text, "id", "", metadata), Counter() if counts is None else counts)
