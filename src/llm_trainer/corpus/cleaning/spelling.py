"""One spelling out of several: common misspellings, and British or American variants. Off unless asked for."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import ClassVar, Literal

import regex

from llm_trainer.corpus.cleaning.base import Cleaner
from llm_trainer.corpus.cleaning.code import is_code
from llm_trainer.corpus.cleaning.spelling_tables import british_to_american, misspellings
from llm_trainer.corpus.document import Document

_WORD = regex.compile(r"(?<![\w@/.'’-])[A-Za-z]{3,24}+(?![\w@/]|[.'’-]\w)")


class Spelling(Cleaner):
    """Write words of fixed tables in one way, whole words only, in the case that they have.

    It knows words, not sentences: names are spelled like words ("Mr Grey", "Pearl Harbour"), so ``variant`` changes
    them too, and quotations as well. Words inside addresses, file names and compounds with a hyphen are left alone.
    Counts ``spelling.corrected`` and ``spelling.variants`` (words).
    """

    name: ClassVar[str] = "spelling"

    misspellings: bool = True
    """Correct misspellings that are never a word of their own (``recieve``)."""
    variant: Literal["american", "british"] | None = None
    """Write all variants in one way; None leaves them."""

    def clean(self, document: Document, counts: Counter[str]) -> str:
        """The text with the words of the tables replaced; programs are returned as they are."""
        table = _table(self.misspellings, self.variant)
        if not table or is_code(document):
            return document.text
        # Most texts hold none of the words: one look at the set of their words is cheaper than a substitution.
        known = {word for word in set(_WORD.findall(document.text)) if word.lower() in table}
        if not known:
            return document.text
        fixed = misspellings() if self.misspellings else {}

        def replace(match: regex.Match[str]) -> str:
            word: str = match[0]
            if word not in known:
                return word
            counts["spelling.corrected" if word.lower() in fixed else "spelling.variants"] += 1
            return _in_case_of(word, table[word.lower()])

        text: str = _WORD.sub(replace, document.text)
        return text


@lru_cache(maxsize=8)
def _table(correct: bool, variant: str | None) -> dict[str, str]:
    table: dict[str, str] = {}
    if variant == "american":
        table |= british_to_american()
    elif variant == "british":
        table |= {american: british for british, american in british_to_american().items() if british not in _ONE_WAY}
    if correct:
        # The correction may itself be a variant.
        table |= {wrong: table.get(right, right) for wrong, right in misspellings().items()}
    return table


# American words that also mean something that the British spell like them: a computer program, a meter for gas.
_ONE_WAY_TEXT = (
    "cheque cheques draught draughts grey greys kerb kerbs licence licences metre metres mould moulds plough "
    "ploughs practise practised practises practising programme programmes storey storeys tyre tyres "
)
_ONE_WAY = frozenset(_ONE_WAY_TEXT.split())


def _in_case_of(word: str, new: str) -> str:
    if word.islower():
        return new
    if word.isupper():
        return new.upper()
    return new.capitalize() if word[0].isupper() and word[1:].islower() else new
