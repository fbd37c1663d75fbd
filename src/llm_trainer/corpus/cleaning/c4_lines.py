"""The half of C4's rules that removes lines: what is no sentence, what is about scripts, cookies and policies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from llm_trainer.config.base import Int, Settings
from llm_trainer.corpus.cleaning.base import Cleaner
from llm_trainer.corpus.document import Document

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_SENTENCE_ENDS = (".", "?", "!", '"', "'")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class LineRules(Settings):
    """Which lines stay. Shared by the cleaner and by the filter, which judges a document by the lines that would stay.

    Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
    section 2.2, https://arxiv.org/abs/1910.10683, and the code that C4 was made with.
    """

    sentences_only: bool = True
    """Remove lines that do not end with a mark that ends a sentence, or that end with an ellipsis."""
    min_line_words: Int = Field(default=3, ge=0)
    """Remove lines with fewer words (here: what white space parts)."""
    max_word_length: Int = Field(default=1000, ge=1)
    """Remove lines with a longer word, in characters."""
    remove_javascript: bool = True
    """Remove lines with the word JavaScript, which ask to switch it on."""
    remove_policy: bool = True
    """Remove lines about cookies, terms of use and privacy policies."""
    remove_citations: bool = True
    """Take ``[1]``, ``[edit]`` and ``[citation needed]`` out of lines."""

    def scan(self, text: str) -> Iterator[tuple[str, str]]:
        """Every line with the reason to remove it, or with ``""`` and without its citations.

        Yields:
            ``(line without the space around it, reason)``.
        """
        lowered = text.lower()
        javascript = self.remove_javascript and "javascript" in lowered
        policy = self.remove_policy and any(phrase in lowered for phrase in _POLICY)
        citations = self.remove_citations and "[" in text
        for raw in text.splitlines():
            line = raw.strip()
            visible = _CITATION.sub("", line) if citations else line
            if self.sentences_only and (not visible.endswith(_SENTENCE_ENDS) or visible.endswith("...")):
                yield line, "no_sentence_end"
                continue
            words = line.split()  # with the citations, as C4 counted
            line = visible
            if len(words) < self.min_line_words:
                yield line, "few_words"
            elif len(line) > self.max_word_length and max(map(len, words)) > self.max_word_length:
                yield line, "long_word"
            elif javascript and "javascript" in line.lower():
                yield line, "javascript"
            elif policy and any(phrase in line.lower() for phrase in _POLICY):
                yield line, "policy"
            else:
                yield line, ""


class C4Lines(LineRules, Cleaner):
    """Removes the lines that C4 removes. What is left of a page is judged by the filter ``c4``.

    Hard on wrapped text: where lines end in the middle of sentences, as in books, most of them go.
    """

    name: ClassVar[str] = "c4_lines"

    def clean(self, document: Document, counts: Counter[str]) -> str:
        """The text without the lines that C4 removes."""
        kept: list[str] = []
        for line, reason in self.scan(document.text):
            if reason:
                counts[f"c4_lines.{reason}"] += 1
            else:
                kept.append(line)
        return "\n".join(kept).strip()
