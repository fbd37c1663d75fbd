"""One object that says whether a text is worth training on: language, length, and signs of low quality.

.. code-block:: python

    good = QualityFilter()
    texts = [text for text in texts if good.filter_text(text)]

The filters of a pipeline (``corpus.filters``) measure more and remember what they measured; this is the short form
for a script or a notebook.
"""

from __future__ import annotations

import zlib
from collections import Counter

import regex

from llm_trainer.corpus.cleaning.boilerplate import Boilerplate
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.filters.language import identify
from llm_trainer.corpus.filters.toxicity import ProfanityFilter

MIN_CHARS, MAX_CHARS = 100, 100_000

# Every limit lies outside what 99 % of 300 C4 pages and 5,000 character stretches of novels show.
MAX_SYMBOL_SHARE = 0.15
"""Share of the characters that are neither letters, digits, spaces nor the marks of ordinary sentences."""
MIN_LETTER_SHARE = 0.6
"""Share of the characters other than spaces that are letters."""
MAX_CAPITAL_SHARE = 0.4
"""Share of the letters that are capitals."""
MAX_REPEATED_LINES = 0.3
"""Share of the characters in lines that were there before (Gopher, https://arxiv.org/abs/2112.11446, table A1: 0.2)."""
MIN_COMPRESSED = 0.2
"""Size after zlib against size before, of the first 20,000 bytes; English prose has 0.35 to 0.55."""
MAX_BOILERPLATE = 0.3
"""Share of the lines that are furniture of a web page."""
MEAN_WORD = (2.5, 12.0)
"""Letters in a word, on average (Gopher: 3 to 10, over words with punctuation)."""
MAX_PROFANITY = 0.01
"""Share of the words that are in the word list, if there are three at least."""

_SYMBOL = regex.compile(r"""[^\p{L}\p{M}\p{Nd}\s.,;:!?'"()’‘“”–—\-…/%&$€£。、，！？]""")
_WORD = regex.compile(r"[\p{L}\p{M}]+")
_PLACEHOLDER = regex.compile(r"(?i)lorem ipsum dolor|under construction|404 not found|page not found|access denied")


class LanguageDetector:
    """The offline language model as an object: ``detect(text)`` gives the code and its probability."""

    def detect(self, text: str) -> tuple[str, float]:
        """ISO 639 code (or ``unknown``) and probability; see :func:`~llm_trainer.corpus.filters.language.identify`."""
        return identify(text)


class QualityFilter:
    """Is a text English, of a sensible length, and without signs of low quality?

    Args:
        min_chars: shorter texts fail.
        max_chars: longer texts fail.
        min_score: lowest probability of English.
        language_detector: anything with ``detect(text) -> (code, probability)``; the built-in model by default.
        profanity_filter: the word list; the built-in one by default.

    Raises:
        UserError: on first use, if the language model is not installed.
    """

    def __init__(
        self,
        *,
        min_chars: int = MIN_CHARS,
        max_chars: int = MAX_CHARS,
        min_score: float = 0.65,
        language_detector: LanguageDetector | None = None,
        profanity_filter: ProfanityFilter | None = None,
    ) -> None:
        self.min_chars, self.max_chars, self.min_score = min_chars, max_chars, min_score
        self.language_detector = language_detector or LanguageDetector()
        self.profanity_filter = profanity_filter or ProfanityFilter()
        self._boilerplate = Boilerplate(max_share=1.0)

    def filter_text(self, text: str) -> bool:
        """Whether to keep a text."""
        if not self.min_chars <= len(text) <= self.max_chars:
            return False
        return self.is_english(text) and not self.low_quality_indicators(text)

    def is_english(self, text: str) -> bool:
        """Whether a text is English, with at least ``min_score``."""
        language, score = self.language_detector.detect(text)
        return language == "en" and score >= self.min_score

    def reasons(self, text: str) -> list[str]:
        """Everything that speaks against a text, as short codes; empty exactly if :meth:`filter_text` keeps it."""
        found = []
        if len(text) < self.min_chars:
            found.append("too_short")
        if len(text) > self.max_chars:
            found.append("too_long")
        if not self.is_english(text):
            found.append("not_english")
        return found + self.low_quality_indicators(text)

    def low_quality_indicators(self, text: str) -> list[str]:
        """Signs of low quality, as short codes; empty if there are none.

        ``symbols``, ``few_letters``, ``capitals``, ``repetition``, ``boilerplate``, ``word_length``, ``placeholder``
        and ``profanity``. The limits are the constants of this module.
        """
        text = text[: self.max_chars]
        if not text.strip():
            return ["few_letters"]
        words = _WORD.findall(text)
        letters = sum(map(len, words))
        dense = sum(map(len, text.split()))
        signs = {
            "symbols": len(_SYMBOL.findall(text)) > MAX_SYMBOL_SHARE * dense,
            "few_letters": letters < MIN_LETTER_SHARE * dense,
            "capitals": letters >= 20 and sum(map(str.isupper, text)) > MAX_CAPITAL_SHARE * letters,
            "repetition": _repeats(text),
            "boilerplate": self._boilerplate_share(text) > MAX_BOILERPLATE,
            "word_length": bool(words) and not MEAN_WORD[0] <= letters / len(words) <= MEAN_WORD[1],
            "placeholder": _PLACEHOLDER.search(text) is not None and len(words) < 200,
            "profanity": self._is_profane(text),
        }
        return [sign for sign, present in signs.items() if present]

    def _is_profane(self, text: str) -> bool:
        return self.profanity_filter.count(text) >= 3 and self.profanity_filter.share(text) > MAX_PROFANITY

    def _boilerplate_share(self, text: str) -> float:
        counts: Counter[str] = Counter()
        self._boilerplate.clean(Document(text, ""), counts)
        return sum(counts.values()) / max(1, sum(bool(line.strip()) for line in text.split("\n")))


def _repeats(text: str) -> bool:
    """Whether many lines come twice, or the text as a whole says the same again and again."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    seen: set[str] = set()
    repeated = 0
    for line in lines:
        repeated += len(line) if line in seen else 0
        seen.add(line)
    if repeated > MAX_REPEATED_LINES * len(text):
        return True
    data = text.encode("utf-8", "replace")[:20_000]
    # A short text has nothing to compress against, whatever it says; 300 bytes of one word come out at 0.1.
    return len(data) >= 100 and len(zlib.compress(data, 6)) < MIN_COMPRESSED * len(data)
