"""Lines that a web page has around its text: consent, navigation, sharing, subscriptions, copyright.

Careful on purpose: a line goes only if the whole of it is a known phrase (or is short and begins with one), a menu only
if it is a long run of very short lines before or after all prose and some of them are on every site ("About us",
"Contact"): a poem, the members of a band and what goes into a cake are such lines too. Extraction of the main content
has removed most of it before; this is for texts that came without their HTML.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import regex
from pydantic import Field

from llm_trainer.config.base import Int
from llm_trainer.corpus.cleaning.base import Cleaner
from llm_trainer.corpus.cleaning.boilerplate_phrases import EXACT, MENU, PHRASE_WORDS, PHRASES
from llm_trainer.corpus.cleaning.code import is_code
from llm_trainer.corpus.document import Document

LONGEST_PHRASE = 250
"""A longer line is a paragraph, whatever it begins with."""

_PASSES = 4
_COMPANY = 3
"""A line of one word ("Home", "Reply") goes only if so many lines of the text are furniture."""
_EDGES = " \t.:;,!…·•|»«›‹→←↑↓▸►▼▲+*[]()<>-–—#"
_NAVIGATION = regex.compile(r"^[^|»›>\n]{1,25}(?:\s[|»›>•·]\s[^|»›>\n]{1,25}){3,20}$")
_MENU_LINE = regex.compile(r"^(?=.{1,25}$)[\p{L}&'’/()+-]++(?: [\p{L}&'’/()+-]++){0,2}$")
_SENTENCE_END = (".", "!", "?", "…", ":", ";", ",", "。", "！", "？", '."', ".”", "।")


class Boilerplate(Cleaner):
    """Take out lines of web page furniture.

    Counts ``boilerplate.phrases``, ``boilerplate.words``, ``boilerplate.navigation`` and ``boilerplate.menus`` (lines),
    and ``boilerplate.left_alone``: texts that would have lost more than ``max_share`` and stay as they are.
    """

    name: ClassVar[str] = "boilerplate"

    max_share: float = Field(default=0.5, gt=0, le=1)
    """A text that is boilerplate for a larger share of its characters is not this cleaner's business."""
    menu_lines: Int = Field(default=6, ge=3)
    """A run of at least so many very short lines before the first or after the last line of prose is a menu, if at
    least two and a quarter of them are what menus say."""

    def clean(self, document: Document, counts: Counter[str]) -> str:
        """The text without those lines; programs are returned as they are."""
        text = document.text
        if is_code(document):
            return text
        # What is left can come to lie beside other lines, and read differently there.
        for _ in range(_PASSES):
            cleaned = self._pass(text, counts)
            if cleaned == text:
                break
            text = cleaned
        return text

    def _pass(self, text: str, counts: Counter[str]) -> str:
        lines = text.split("\n")
        reasons = _reasons(lines, text.lower())
        if sum(reason in ("phrases", "words") for reason in reasons) < _COMPANY:
            reasons = ["" if reason == "words" else reason for reason in reasons]
        for first, last in self._menus(lines, reasons):
            reasons[first:last] = ["menus" if line.strip() else "blank" for line in lines[first:last]]
        if not any(reasons):
            return text
        removed = sum(len(line) for line, reason in zip(lines, reasons) if reason)
        if removed > self.max_share * sum(map(len, lines)):
            counts["boilerplate.left_alone"] += 1
            return text
        for reason in reasons:
            if reason and reason != "blank":
                counts[f"boilerplate.{reason}"] += 1
        return _join(lines, reasons)

    def _menus(self, lines: list[str], reasons: list[str]) -> list[tuple[int, int]]:
        """Runs of menu lines outside the prose, as (first, last) line numbers, last exclusive."""
        prose = [number for number, line in enumerate(lines) if not reasons[number] and _is_prose(line)]
        if not prose:
            return []
        runs = []
        for begin, end in ((0, prose[0]), (prose[-1] + 1, len(lines))):
            start, last, count = begin, begin, 0
            for number in range(begin, end + 1):
                inside = number < end
                if inside and (reasons[number] or not lines[number].strip()):
                    continue
                if inside and _is_menu_line(lines[number]):
                    start = start if count else number
                    count, last = count + 1, number + 1
                    continue
                if count >= self.menu_lines and _says_menu(lines[start:last]):
                    runs.append((start, last))
                count = 0
        return runs


def _says_menu(lines: list[str]) -> bool:
    """Whether enough of a run is on the menus of most sites."""
    written = [line.strip(_EDGES).lower() for line in lines if line.strip()]
    known = len(MENU.intersection(written))
    return known >= 2 and known * 4 >= len(written)


def _join(lines: list[str], reasons: list[str]) -> str:
    """The lines without a reason; where one went, the blank lines on both of its sides become one side's."""
    kept: list[str] = []
    gap = False
    for line, reason in zip(lines, reasons):
        blank = not line.strip()
        if reason:
            gap = True
        elif not (gap and blank and (not kept or not kept[-1].strip())):
            kept.append(line)
            gap = gap and blank
    return "\n".join(kept).strip("\n")


def _reasons(lines: list[str], lowered: str) -> list[str]:
    """Why each line goes. One that goes on with a small letter where the line before ended belongs to a paragraph."""
    phrases = any(word in lowered for word in PHRASE_WORDS)
    reasons, before = [], ""
    for line in lines:
        reason = "" if line[:1].islower() and before.strip() else _reason(line, phrases)
        reasons.append(reason)
        before = before if reason else line
    return reasons


def _reason(line: str, phrases: bool) -> str:
    if not line or len(line) > LONGEST_PHRASE:
        return ""
    bare = line.strip(_EDGES).lower()
    if bare in EXACT or (phrases and PHRASES.match(line)):
        return "phrases" if " " in bare else "words"
    return "navigation" if _NAVIGATION.match(line.strip()) and not _has_number(line) else ""


def _is_prose(line: str) -> bool:
    return (len(line) >= 60 and line.count(" ") >= 7) or (len(line) >= 40 and line.rstrip().endswith(_SENTENCE_END))


def _is_menu_line(line: str) -> bool:
    return _MENU_LINE.match(line.strip()) is not None


def _has_number(line: str) -> bool:
    return any(map(str.isdigit, line))
