"""Swearing, slurs and pornography by word lists, and counts of words that name groups of people.

What a word list can do: find the pages that are made of such words. What it cannot do: understand. It misses contempt
in polite words, threats, other languages than that of its list and new spellings; it counts quotations, court reports
and novels as if they were the author's own words; and words that a group uses for itself look like an attack on it, so
that a strict list removes the speech of the very people it is meant to protect (Dodge et al., "Documenting Large
Webtext Corpora", EMNLP 2021, https://arxiv.org/abs/2104.08758, measured that for C4's list). So the default rules look
at the share of such words, not at a single one, and the report shows what was removed.

Words are compared whole: Scunthorpe, Essex, cockpit and assess hold none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import regex
from pydantic import Field

from llm_trainer.common.errors import DataError
from llm_trainer.config.base import Int
from llm_trainer.corpus.filters.base import Batch, Filter, Tags
from llm_trainer.corpus.filters.toxicity_words import AMBIGUOUS, PROFANITY, SEXUAL, SLURS

_CLASSES = ("profanity", "sexual", "slur")
_PROFANITY, _SEXUAL, _SLUR = range(3)

_TERMS = {
    "gender": ("boy boys female females girl girls male males man men nonbinary transgender woman women "),
    "religion": (
        "atheist atheists buddhism buddhist buddhists catholic catholics christian christianity christians hindu "
        "hinduism hindus islam islamic jew jewish jews judaism muslim muslims protestant protestants sikh sikhs "
    ),
    "ethnicity": (
        "aboriginal african africans arab arabs asian asians caucasian caucasians chinese european europeans "
        "gypsies gypsy hispanic hispanics indian indians indigenous latina latinas latino latinos mexican "
        "mexicans roma "
    ),
    "sexuality": ("bisexual bisexuals gay gays homosexual homosexuals lesbian lesbians lgbt lgbtq queer "),
    "disability": ("autism autistic blind deaf disabilities disability disabled handicapped paraplegic wheelchair "),
    "age": ("elderly millennials pensioner pensioners seniors teenager teenagers teens "),
    "migration": ("foreigner foreigners immigrant immigrants migrant migrants refugee refugees "),
}
IDENTITY_TERMS: dict[str, frozenset[str]] = {group: frozenset(terms.split()) for group, terms in _TERMS.items()}
"""Neutral words for groups of people. ``white`` and ``black`` are not here: they are colours in most sentences."""

NEAR = 10
"""A toxic word is near an identity term if at most so many words lie between."""

_LEET = str.maketrans("013457@$!", "oieastasi")
_DISGUISED = regex.compile(r"(?<![\w@$*!])(?=[\w@$*!]*+)\p{L}[\w@$*!]{0,20}?[@$*!0-9][\w@$*!]{0,20}?\p{L}\b", regex.V1)
_DRAWN_OUT = regex.compile(r"(\p{L})\1{2,}+")
_MAY_BE_DISGUISED = regex.compile(r"\p{L}[@$*!0134570]++\p{L}")


class WordList:
    """A set of words to look for, each in one of the classes ``profanity``, ``sexual`` and ``slur``.

    Args:
        words_file: a text file of one's own words, one a line (``#`` begins a comment), for other languages; they count
            as profanity and come on top of the built-in list.
        leetspeak: whether ``sh1t``, ``a$$hole``, ``f**k`` and ``fuuuck`` count as what they stand for.
        builtin: whether the built-in English lists are used.
    """

    def __init__(self, words_file: str | Path | None = None, *, leetspeak: bool = True, builtin: bool = True) -> None:
        self.leetspeak = leetspeak
        self.classes: dict[str, int] = {}
        if builtin:
            self.classes |= dict.fromkeys(sorted(PROFANITY | AMBIGUOUS), _PROFANITY)
            self.classes |= dict.fromkeys(sorted(SEXUAL), _SEXUAL)
            self.classes |= dict.fromkeys(sorted(frozenset().union(*SLURS.values())), _SLUR)
        self.ambiguous = AMBIGUOUS if builtin else frozenset()
        if words_file is not None:
            self.classes |= dict.fromkeys(read_words(Path(words_file)), _PROFANITY)

    def class_of(self, word: str) -> int | None:
        """The class of one whole word, None if it is harmless."""
        folded = word.casefold()
        found = self.classes.get(folded)
        if found is not None:
            return None if folded in self.ambiguous and not word.islower() else found
        if self.leetspeak and (short := _DRAWN_OUT.sub(r"\1", folded)) != folded and short not in self.ambiguous:
            return self.classes.get(short)
        if self.leetspeak and not folded.isalpha():
            plain = folded.translate(_LEET)
            # Digits alone and single letters with digits are sizes and model names ("A55", "4ss").
            if sum(map(str.isalpha, folded)) >= 2 and plain not in self.ambiguous:
                return self.classes.get(plain)
        return None

    def disguised(self, text: str) -> list[int]:
        """The classes of words that are written with symbols inside (``f**k``, ``a$$hole``), which are not one word."""
        if not self.leetspeak or not _MAY_BE_DISGUISED.search(text):
            return []
        found = []
        for match in _DISGUISED.finditer(text):
            word = match[0].casefold()
            if word.isalnum() or "_" in word:
                continue
            plain = word.translate(_LEET)
            kind = self._masked(plain) if "*" in plain else self.classes.get(plain)
            if kind is not None and plain not in self.ambiguous:
                found.append(kind)
        return found

    def _masked(self, word: str) -> int | None:
        # Half of the letters at most may be stars, or "a**d" would be everything.
        if len(word) < 4 or word.count("*") * 2 > len(word):
            return None
        for candidate in self._by_ends.get((word[0], word[-1], len(word)), ()):
            if all(shown in ("*", letter) for shown, letter in zip(word, candidate)):
                return self.classes[candidate]
        return None

    @cached_property
    def _by_ends(self) -> dict[tuple[str, str, int], list[str]]:
        """(first letter, last letter, length) -> the words of that shape."""
        words: dict[tuple[str, str, int], list[str]] = {}
        for word in self.classes.keys() - self.ambiguous:
            words.setdefault((word[0], word[-1], len(word)), []).append(word)
        return {shape: sorted(found) for shape, found in sorted(words.items())}


def read_words(path: Path) -> list[str]:
    """The words of a list: one a line, ``#`` begins a comment, case does not matter.

    Raises:
        DataError: the file cannot be read or holds a line of several words.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of words {path}: {error}", hint="give a UTF-8 text file") from None
    words = [line.partition("#")[0].strip().casefold() for line in lines]
    for number, word in enumerate(words, 1):
        if len(word.split()) > 1:
            raise DataError(f"{path}, line {number}: {word!r} is more than one word", hint="write one word a line")
    return [word for word in words if word]


@lru_cache(maxsize=8)
def _word_list(words_file: str | None, leetspeak: bool, builtin: bool) -> WordList:
    return WordList(words_file, leetspeak=leetspeak, builtin=builtin)


class ProfanityFilter:
    """The word list as an object of its own: ``ProfanityFilter().contains(text)``.

    Args:
        words_file: see :class:`WordList`.
        leetspeak: see :class:`WordList`.
    """

    def __init__(self, words_file: str | Path | None = None, *, leetspeak: bool = True) -> None:
        self._list = WordList(words_file, leetspeak=leetspeak)

    def words(self, text: str) -> list[str]:
        """The whole words of a text that are in the list, in order, as they are written there."""
        return [word for word in regex.findall(r"\w+", text) if self._list.class_of(word) is not None]

    def count(self, text: str) -> int:
        """How many words are in the list, disguised ones included."""
        return len(self.words(text)) + len(self._list.disguised(text))

    def contains(self, text: str) -> bool:
        """Whether any word of a text is in the list."""
        return self.count(text) > 0

    def share(self, text: str) -> float:
        """Share of the words that are in the list."""
        return self.count(text) / max(1, len(regex.findall(r"\w+", text)))


_MAYBE_ENGLISH = frozenset({"en", "unknown", "code"})


class Toxicity(Filter):
    """Drop texts that are made of swearing, pornography or slurs.

    Tags: ``toxicity_words``, ``toxicity_share`` (of all words), ``toxicity_sexual``, ``toxicity_slurs``
    (numbers), ``toxicity_slur_share``; and
    for the report on bias, for every group ``g`` of :data:`IDENTITY_TERMS`, ``identity_g`` (words that name it) and
    ``identity_g_toxic`` (those with a toxic word within :data:`NEAR` words). No rule looks at the identity tags:
    removing texts because they name people is how a data set loses them.
    """

    name: ClassVar[str] = "toxicity"
    TAG_SETTINGS: ClassVar[frozenset[str]] = frozenset({"words_file", "leetspeak", "builtin_words", "identity_terms"})

    max_share: float = Field(default=0.01, ge=0, le=1)
    """Highest share of toxic words."""
    max_slurs: Int = Field(default=3, ge=0)
    """Highest number of slurs in a text where they are also more than one word in 500."""
    min_hits: Int = Field(default=3, ge=1)
    """Fewer toxic words than that never drop a text, however short it is (unless ``any_word`` is on)."""
    any_word: bool = False
    """Drop a text for a single word of the list, as C4 does (https://arxiv.org/abs/1910.10683, section 2.2)."""
    words_file: str | None = None
    """A list of one's own, one word a line; it adds to the built-in one."""
    builtin_words: bool = True
    """Whether the built-in English lists are used. Where a filter before this one found another language, they are not:
    "slut" is Swedish for "end"."""
    leetspeak: bool = True
    """Whether disguised spellings count."""
    identity_terms: bool = True
    """Whether words for groups of people are counted."""

    def tag_identity(self) -> dict[str, Any]:
        """Settings and the content of the file of words."""
        identity = super().tag_identity()
        if self.words_file is not None:
            identity["words"] = sorted(read_words(Path(self.words_file)))
        return identity

    def tag(self, batch: Batch, tags: Sequence[Tags]) -> None:
        """Count the words of the lists; every word type is looked up once a batch."""
        english = _word_list(self.words_file, self.leetspeak, self.builtin_words)
        foreign = _word_list(self.words_file, self.leetspeak, False)
        table = batch.words
        classes = np.full((2, len(table.vocabulary)), -1, dtype=np.int8)
        groups = np.full(len(table.vocabulary), -1, dtype=np.int8)
        group_of = {term: index for index, terms in enumerate(IDENTITY_TERMS.values()) for term in terms}
        letters = np.zeros(len(table.vocabulary), dtype=bool)
        for number, word in enumerate(table.vocabulary):
            letters[number] = word[0].isalnum()
            found = english.class_of(word)
            if found is not None:
                own = foreign.class_of(word)
                classes[:, number] = found, -1 if own is None else own
            elif self.identity_terms:
                groups[number] = group_of.get(word.casefold(), -1)
        for index, (text, tagged) in enumerate(zip(batch.texts, tags)):
            ids = table.of(index)
            abroad = int(tagged.get("language", "en") not in _MAYBE_ENGLISH)
            hits = classes[abroad, ids]
            disguised = (foreign if abroad else english).disguised(text)
            counts = np.bincount(np.concatenate([hits[hits >= 0], np.array(disguised, dtype=np.int8)]), minlength=3)
            total = int(counts.sum())
            tagged["toxicity_words"] = total
            tagged["toxicity_share"] = round(total / max(1, int(letters[ids].sum())), 5)
            tagged["toxicity_sexual"] = int(counts[_SEXUAL])
            tagged["toxicity_slurs"] = int(counts[_SLUR])
            tagged["toxicity_slur_share"] = round(int(counts[_SLUR]) / max(1, int(letters[ids].sum())), 5)
            if self.identity_terms:
                _count_identities(groups[ids], np.flatnonzero(hits >= 0), tagged)

    def reasons(self, tags: Mapping[str, Any]) -> Iterator[str]:
        """``word`` (with ``any_word``), ``share`` and ``slurs``."""
        hits = tags["toxicity_words"]
        if self.any_word and hits:
            yield "toxicity.word"
        if hits >= self.min_hits and tags["toxicity_share"] > self.max_share:
            yield "toxicity.share"
        if tags["toxicity_slurs"] > self.max_slurs and tags["toxicity_slur_share"] > 0.002:
            yield "toxicity.slurs"


def _count_identities(groups: npt.NDArray[np.int8], toxic: npt.NDArray[np.intp], tagged: Tags) -> None:
    """Put the numbers of identity terms, and of those near a toxic word, into the tags of one document."""
    at = np.flatnonzero(groups >= 0)
    near = np.zeros(len(at), dtype=bool)
    if len(toxic) and len(at):
        right = np.searchsorted(toxic, at)
        before = at - toxic[np.maximum(right - 1, 0)]
        after = toxic[np.minimum(right, len(toxic) - 1)] - at
        near = ((before > 0) & (before <= NEAR + 1)) | ((after > 0) & (after <= NEAR + 1))
    count, close = (
        np.bincount(groups[at], minlength=len(IDENTITY_TERMS)),
        np.bincount(groups[at[near]], minlength=len(IDENTITY_TERMS)),
    )
    for index, group in enumerate(IDENTITY_TERMS):
        tagged[f"identity_{group}"] = int(count[index])
        tagged[f"identity_{group}_toxic"] = int(close[index])
