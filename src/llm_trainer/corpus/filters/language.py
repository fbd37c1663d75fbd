"""Which language a text is in, with the offline model that comes inside the wheel of ``py3langid``.

The model is a multinomial naive Bayes over byte n-grams (Lui and Baldwin, "langid.py", ACL 2012,
https://aclanthology.org/P12-3005/). About 1,000 characters are enough for it: of the Universal Declaration of Human
Rights in 94 languages that it knows, it names 99 % of the stretches of 700 characters rightly (macrolanguages counted
as one; Punjabi in Arabic letters and Uyghur in Latin ones, which it was not taught, are taken for Urdu and Uzbek), and
reading a whole long text costs time and gains nothing. So a long text is judged by two stretches, one from its start
and one from its middle, because starts are often menus and licences in another language than the text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import regex
from pydantic import Field

from llm_trainer.config.base import Int
from llm_trainer.corpus.cleaning.code import is_code
from llm_trainer.corpus.filters.base import Batch, Filter, Tags
from llm_trainer.corpus.filters.language_scores import LanguageScorer, language_scorer

UNKNOWN = "unknown"
"""The language of a text that holds too little language to say."""

CODE = "code"
"""The tag of programs, which are not in a human language."""

# What the model knows, so that a mistyped code is found before any text is read (a test compares it with the model).
_CODES = (
    "ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr "
    "fuv fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko "
    "ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru "
    "rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo "
    "yue zh zu zxx "
)
LANGUAGES = frozenset(_CODES.split())

# ISO 639-3 macrolanguages (https://iso639-3.sil.org/code_tables/macrolanguage_mappings): varieties that a text of a
# few sentences often cannot be told apart in. A person who asks for one of them gets them all, unless `related` is off.
MACROLANGUAGES: tuple[frozenset[str], ...] = (
    frozenset({"bs", "hr", "sr"}),
    frozenset({"id", "ms"}),
    frozenset({"no", "nn"}),
    frozenset({"ar", "ary", "arz"}),
    frozenset({"zh", "yue", "wuu"}),
    frozenset({"uz", "uzs"}),
    frozenset({"ku", "sdh"}),
    frozenset({"lv", "ltg"}),
)
_RELATIVES = {code: group for group in MACROLANGUAGES for code in group}

# Codes that people write for what the model calls something else.
_OTHER_CODES = {
    "nb": "no",
    "iw": "he",
    "in": "id",
    "fil": "tl",
    "cmn": "zh",
    "zh-cn": "zh",
    "zh-tw": "zh",
    "ff": "fuv",
    "gn": "gug",
    "pt-br": "pt",
    "en-us": "en",
    "en-gb": "en",
}

SAMPLE_CHARS = 1000

_NOT_LANGUAGE = regex.compile(
    r"<[^<>]{0,200}+>|(?:https?://|www\.)\S++|&#?\w{1,10};|[^\p{L}\p{M}\p{Nd}'’.,;:!?¿¡。、-]++"
)
_NOT_LETTERS = regex.compile(r"[^\p{L}\p{M}]++")

# A Cyrillic word with Latin letters of the same shape in it (typed on the wrong keyboard, or by OCR).
_MIXED_WORD = regex.compile(r"\p{Cyrillic}[AEOPCXYKMHTBJSIaeopcxyjsi]|[AEOPCXYKMHTBJSIaeopcxyjsi]\p{Cyrillic}")
_LATIN_TO_CYRILLIC = str.maketrans("AEOPCXYKMHTBJSIaeopcxyjsi", "АЕОРСХУКМНТВЈЅІаеорсхујѕі")


def sample(text: str, chars: int = SAMPLE_CHARS) -> str:
    """The part of a text that its language is judged by: markup, links and symbols become spaces.

    Args:
        text: any text.
        chars: its length at most; a longer text gives one half from the start and one from the middle.
    """
    if len(text) > chars:
        half, middle = chars // 2, len(text) // 2
        text = text[:half] + "\n" + text[middle : middle + half]
    text = _NOT_LANGUAGE.sub(" ", text).strip()
    return text.translate(_LATIN_TO_CYRILLIC) if _MIXED_WORD.search(text) and _mostly_cyrillic(text) else text


def _mostly_cyrillic(text: str) -> bool:
    # A quarter: nearly half of the letters of a text have a Latin twin, and may all be written as that.
    return sum("\u0400" <= letter <= "\u04ff" for letter in text) * 4 > len(text)


def identify(text: str, *, min_letters: int = 20, related: bool = True) -> tuple[str, float]:
    """The language of a text and how sure that is.

    Args:
        text: any text; about the first 500 characters and 500 from the middle are looked at.
        min_letters: a sample with fewer bytes of letters is :data:`UNKNOWN` (a Chinese character is three bytes, and
            says as much as three Latin letters).
        related: the probability is that of the language and its macrolanguage together: a Serbian text in Latin letters
            is ``sr`` with 0.97 instead of 0.55.

    Returns:
        ISO 639 code (or :data:`UNKNOWN`) and probability from 0 to 1.

    Raises:
        UserError: ``py3langid`` is not installed.
    """
    return identify_all([text], min_letters=min_letters, related=related)[0]


def identify_all(texts: Sequence[str], *, min_letters: int = 20, related: bool = True) -> list[tuple[str, float]]:
    """:func:`identify` for many texts, several times as fast as one by one."""
    shown = [sample(text) for text in texts]
    enough = [len(_NOT_LETTERS.sub("", text).encode("utf-8", "replace")) >= min_letters for text in shown]
    scorer = language_scorer()
    found = iter(scorer.probabilities([text for text, judged in zip(shown, enough) if judged]))
    return [_best(next(found), scorer, related) if judged else (UNKNOWN, 0.0) for judged in enough]


def _best(probabilities: npt.NDArray[np.float32], scorer: LanguageScorer, related: bool) -> tuple[str, float]:
    place = int(probabilities.argmax())
    language, score = scorer.languages[place], float(probabilities[place])
    if related and language in _RELATIVES:
        score = float(
            sum(probabilities[scorer.place[code]] for code in sorted(_RELATIVES[language]) if code in scorer.place)
        )
    return language, min(1.0, score)


def is_english(text: str, min_score: float = 0.65) -> bool:
    """Whether a text is English with at least that probability."""
    language, score = identify(text)
    return language == "en" and score >= min_score


class Language(Filter):
    """Keep the languages that the model is to learn.

    Tags: ``language`` (ISO 639 code or ``unknown``) and ``language_score`` (0 to 1). The default of 0.65 is that of
    FineWeb (https://arxiv.org/abs/2406.17557).
    """

    name: ClassVar[str] = "language"
    TAG_SETTINGS: ClassVar[frozenset[str]] = frozenset({"min_letters", "related"})

    languages: list[str] = Field(default=["en"])
    """Codes to keep; an empty list keeps all and only tags."""
    min_score: float = Field(default=0.65, ge=0, le=1)
    """Lowest probability of the language that was found."""
    min_letters: Int = Field(default=20, ge=1)
    """Bytes of letters under which a text is ``unknown``."""
    related: bool = True
    """Whether the members of a macrolanguage (Bosnian, Croatian, Serbian; Indonesian, Malay ...) count as one."""
    keep_unknown: bool = False
    """Whether texts that are too short to say may stay."""
    keep_code: bool = True
    """Whether documents whose metadata say that they are programs stay; they are tagged ``code`` and never judged."""

    def contradictions(self) -> Iterable[str]:
        """Codes that the model does not know."""
        for code in self.languages:
            if _OTHER_CODES.get(code, code) not in LANGUAGES:
                near = difflib.get_close_matches(code[:2].lower(), sorted(LANGUAGES), n=1)
                yield (
                    f"languages: {code!r} is not a language that the model knows"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                    + f" It knows {' '.join(sorted(LANGUAGES))}"
                )

    def tag(self, batch: Batch, tags: Sequence[Tags]) -> None:
        """Find the language of every document."""
        prose = [document.text for document in batch.documents if not is_code(document)]
        found = iter(identify_all(prose, min_letters=self.min_letters, related=self.related))
        for document, tagged in zip(batch.documents, tags):
            language, score = (CODE, 1.0) if is_code(document) else next(found)
            tagged["language"], tagged["language_score"] = language, round(score, 4)

    def reasons(self, tags: Mapping[str, Any]) -> Iterator[str]:
        """``unknown``, ``other`` or ``uncertain``."""
        if not self.languages:
            return
        language = tags["language"]
        if language == CODE and self.keep_code:
            return
        if language == UNKNOWN:
            if not self.keep_unknown:
                yield "language.unknown"
            return
        wanted = {_OTHER_CODES.get(code, code) for code in self.languages}
        if self.related:
            wanted = wanted.union(*(_RELATIVES.get(code, frozenset()) for code in wanted))
        if language not in wanted:
            yield "language.other"
        elif tags["language_score"] < self.min_score:
            yield "language.uncertain"
