"""Characters: wrong decodings, odd spaces, invisible characters, line ends, runs of blank lines."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any, ClassVar

import regex

from llm_trainer.common.optional import require
from llm_trainer.corpus.cleaning.base import Cleaner
from llm_trainer.corpus.document import Document

_LINE_ENDS = regex.compile(r"\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_CONTROL = regex.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff\ud800-\udfff]")
# Soft hyphens, zero-width spaces and byte order marks; marks of direction only matter to a screen. The joiners are kept
# between letters of scripts that are written with them, and in emoji; a space of no width is kept where it is the only
# border between two words.
_JOINING_TEXT = (
    "Arabic Syriac Mandaic Nko Mongolian Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu Kannada Malayalam "
    "Sinhala Khmer Myanmar Tibetan Balinese Javanese Sundanese Meetei_Mayek Limbu Lepcha So Sk M "
)
_JOINING = "".join(rf"\p{{{name}}}" for name in _JOINING_TEXT.split())
_UNSPACED = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_INVISIBLE = regex.compile(
    r"[\u00ad\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
    rf"|(?<![{_UNSPACED}])\u200b|\u200b(?![{_UNSPACED}])|(?<![{_JOINING}])[\u200c\u200d]"
)
# Mongolian joins its endings with the narrow space.
_SPACES = regex.compile(r"[\u00a0\u1680\u2000-\u200a\u205f\u3000]|(?<!\p{Mongolian})\u202f")
_TRAILING = regex.compile(r"(?<![ \t])[ \t]++(?=\n|\Z)")
_BLANK_LINES = regex.compile(r"\n{3,}")
_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
_QUOTES = str.maketrans({"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"'})

# A letter of Latin-1 or Windows-1252 that begins a wrongly decoded UTF-8 sequence, with what can follow it. Only lines
# that hold such a pair are given to ftfy (2.4 MB/s), which decides with a model of which sequences are natural.
_MAYBE_BROKEN = regex.compile(
    r"[\u00c2-\u00f4]"
    r"[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2026\u2030\u2039\u203a\u20ac\u2122]"
)
_PASSES = 4


class Unicode(Cleaner):
    """Make one spelling out of the many ways to write the same characters.

    Texts that are pure ASCII only have line ends and control characters looked at. The result is in form NFC (never
    NFKC, which would make ``x²`` into ``x2``). Counts ``unicode.mojibake`` (lines), ``unicode.control_characters``,
    ``unicode.invisible_characters``, ``unicode.spaces``, ``unicode.line_ends`` and ``unicode.not_composed`` (texts).
    """

    name: ClassVar[str] = "unicode"

    mojibake: bool = True
    """Repair text that was decoded with the wrong encoding (``Ã©`` for ``é``)."""
    ligatures: bool = True
    """Write ``ﬁ`` as two letters."""
    straight_quotes: bool = False
    """Write curly quotation marks as ``'`` and ``"``."""
    blank_lines: bool = True
    """Leave at most one blank line in a row, and no spaces at the ends of lines."""

    def clean(self, document: Document, counts: Counter[str]) -> str:
        """The repaired text. A repair can bring up another one, so it is repeated until nothing changes."""
        text = document.text
        for _ in range(_PASSES):
            cleaned = self._pass(text, counts)
            if cleaned == text:
                break
            text = cleaned
        return text

    def _pass(self, text: str, counts: Counter[str]) -> str:
        if not text.isascii():
            # First of all: the control characters of Latin-1 are bytes of what was decoded wrongly.
            if self.mojibake and _MAYBE_BROKEN.search(text):
                text = _repair_lines(text, counts)
            text = _substitute(_INVISIBLE, "", text, counts, "unicode.invisible_characters")
            text = _substitute(_SPACES, " ", text, counts, "unicode.spaces")
            if self.ligatures:
                for ligature, letters in _LIGATURES.items():
                    if ligature in text:
                        counts["unicode.ligatures"] += text.count(ligature)
                        text = text.replace(ligature, letters)
            if self.straight_quotes:
                text = text.translate(_QUOTES)
            if not unicodedata.is_normalized("NFC", text):
                counts["unicode.not_composed"] += 1
                text = unicodedata.normalize("NFC", text)
        if not text.isprintable():
            text = _substitute(_LINE_ENDS, "\n", text, counts, "unicode.line_ends")
            text = _substitute(_CONTROL, "", text, counts, "unicode.control_characters")
        if self.blank_lines:
            if " \n" in text or "\t\n" in text or text[-1:] in (" ", "\t"):
                text = _TRAILING.sub("", text)
            if "\n\n\n" in text:
                text = _BLANK_LINES.sub("\n\n", text)
        return text


def _substitute(pattern: regex.Pattern[str], new: str, text: str, counts: Counter[str], what: str) -> str:
    changed: str
    changed, number = pattern.subn(new, text)
    if number:
        counts[what] += number
    return changed


def _repair_lines(text: str, counts: Counter[str]) -> str:
    ftfy: Any = require("ftfy", extra="data", purpose="repairing wrongly decoded text")
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if _MAYBE_BROKEN.search(line):
            repaired = ftfy.fix_encoding(line)
            if repaired != line:
                counts["unicode.mojibake"] += 1
                lines[index] = repaired
    return "\n".join(lines)
